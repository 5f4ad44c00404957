"""Faithfulness: do maps mark what the network uses? The probability is watched while the image is removed by the map.

Each measure is reported per image, so that intervals can be made. It means little without the same measure of control
maps, which ignore the network: see `deepbloom.explain.sanity`.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import splu
from torch import Tensor, nn

from deepbloom.errors import ConfigError
from deepbloom.explain.cam import CPU_BATCH, GPU_BATCH
from deepbloom.explain.layers import left_as_found

STEPS = 10
ROAD_FRACTIONS = (0.2, 0.4, 0.6)
CURVE_FRACTIONS = {
    "deletion": tuple(step / STEPS for step in range(STEPS + 1)),
    "insertion": tuple(step / STEPS for step in range(STEPS + 1)),
    "most_relevant_first": ROAD_FRACTIONS,
    "least_relevant_first": ROAD_FRACTIONS,
}
"""Shares of the pixels at the points of the curves of `measure_faithfulness`."""
BLUR_RADIUS, BLUR_SIGMA = 5, 5.0  # pixels; as published for images of 224 pixels
SWEEPS = 10
NEIGHBORS = (((0, 1), 1 / 6), ((1, 0), 1 / 6), ((1, 1), 1 / 12), ((1, -1), 1 / 12))  # and their opposites

Columns = dict[str, np.ndarray]
"""By name: float64, shape (B, ...), one row per image."""


def measure_faithfulness(
    model: nn.Module, inputs: Tensor, maps: Tensor, targets: Tensor, seed: int
) -> tuple[Columns, Columns]:
    """Return all measures, shape (B,), and the curves of `CURVE_FRACTIONS`, shape (B, S).

    The measures are the areas under `removal_curves`, in [0, 1]; ROAD's score, in [-1, 1], the mean of the second of
    `road_curves` minus that of the first; and `confidence_change`. Parameters are those of `removal_curves`.
    """
    deletion, insertion = removal_curves(model, inputs, maps, targets, STEPS, seed)
    most, least = road_curves(model, inputs, maps, targets, ROAD_FRACTIONS, seed)
    drop, increase = confidence_change(model, inputs, maps, targets)
    values = {
        "deletion_area": torch.trapezoid(deletion, dx=1 / STEPS),
        "insertion_area": torch.trapezoid(insertion, dx=1 / STEPS),
        "road_score": least.mean(1) - most.mean(1),
        "average_drop": drop,
        "increase": increase,
    }
    curves = dict(zip(CURVE_FRACTIONS, (deletion, insertion, most, least), strict=True))
    return to_columns(values), to_columns(curves)


def to_columns(values: Mapping[str, Tensor]) -> Columns:
    """Return tensors as float64 arrays."""
    return {name: value.cpu().double().numpy() for name, value in values.items()}


def removal_curves(
    model: nn.Module, inputs: Tensor, maps: Tensor, targets: Tensor, steps: int = STEPS, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the probability of the explained class during deletion and during insertion.

    Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421: deletion replaces pixels by the mean color (0 in normalized
    images), most evidence first; insertion sharpens pixels of the blurred image in the same order. Departure: ``steps``
    steps instead of one per row of pixels.

    Parameters
    ----------
    model : nn.Module
        Run in eval mode and left as found.
    inputs : Tensor of float, shape (B, C, H, W)
        Normalized images.
    maps : Tensor of float, shape (B, H, W)
        Only the order of their values matters; ties are ordered at random.
    targets : Tensor of int64, shape (B,)
        The explained classes.
    steps : int
        Each replaces the same number of pixels.
    seed : int
        Of the order of ties.

    Returns
    -------
    tuple of Tensor of float32, shape (B, steps + 1)
        From no pixel to all. Good maps have a small area under the first and a large one under the second.

    Raises
    ------
    ConfigError
        The shapes do not fit together.
    """
    _check(inputs, maps, targets)
    fractions = torch.linspace(0, 1, steps + 1)
    blurred = _blur(inputs)
    deletion, insertion = [], []
    with left_as_found(model, inputs.device), torch.no_grad():
        for index, rank in enumerate(_rank(maps, seed)):
            taken = (rank < fractions.to(rank.device)[:, None, None])[:, None]  # (S + 1, 1, H, W)
            deletion.append(_probabilities(model, torch.where(taken, 0, inputs[index]), targets[index]))
            insertion.append(_probabilities(model, torch.where(taken, inputs[index], blurred[index]), targets[index]))
    return torch.stack(deletion), torch.stack(insertion)


def road_curves(
    model: nn.Module,
    inputs: Tensor,
    maps: Tensor,
    targets: Tensor,
    fractions: Sequence[float] = ROAD_FRACTIONS,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return ROAD's curves, shape (B, F): the probability without the most, and without the least relevant pixels.

    Rong et al. 2022, https://arxiv.org/abs/2202.00449. Replaced pixels are interpolated from their surroundings, so
    that neither a hole's shape nor its color reveals the class. Departures: `impute_quickly` instead of `impute`, and
    the probability instead of the accuracy.

    Other parameters and errors are those of `removal_curves`.

    Parameters
    ----------
    fractions : sequence of float, each in (0, 1)
        Shares of the pixels to replace.
    seed : int
        Of the order of ties and of the noise in replaced pixels.
    """
    _check(inputs, maps, targets)
    if not fractions or min(fractions) <= 0 or max(fractions) >= 1:
        raise ConfigError(f"fractions={list(fractions)}: give shares between 0 and 1, both excluded.")
    shares = torch.tensor(fractions)
    curves: tuple[list[Tensor], list[Tensor]] = [], []
    with left_as_found(model, inputs.device), torch.no_grad():
        for index, rank in enumerate(_rank(maps, seed).cpu()):
            generator = torch.Generator().manual_seed(seed + index)
            for curve, order in zip(curves, (rank, 1 - rank), strict=True):
                filled = [impute_quickly(inputs[index].cpu(), order < share, generator) for share in shares]
                curve.append(_probabilities(model, torch.stack(filled).to(inputs.device), targets[index]))
    return torch.stack(curves[0]), torch.stack(curves[1])


def confidence_change(model: nn.Module, inputs: Tensor, maps: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the share of the probability that is lost when each image is multiplied by its map, and whether it grows.

    Chattopadhay et al. 2018, https://arxiv.org/abs/1710.11063: with the probabilities Y of the image and O of the
    dimmed one, the drop is max(0, Y - O) / Y. The means of the two are the published average drop and increase in
    confidence. Departure: normalized images are dimmed toward the mean color, not toward black. Maps are in [0, 1];
    parameters and errors are those of `removal_curves`.
    """
    _check(inputs, maps, targets)
    with left_as_found(model, inputs.device), torch.no_grad():
        whole = _probabilities(model, inputs, targets)
        dimmed = _probabilities(model, inputs * maps[:, None].to(inputs.dtype), targets)
    return (whole - dimmed).clamp(min=0) / whole.clamp(min=torch.finfo().tiny), dimmed > whole


def impute(image: Tensor, missing: Tensor, generator: torch.Generator, noise: float = 0.01) -> Tensor:
    """Return an image whose missing pixels are weighted means of their eight neighbors, plus a little noise.

    Rong et al. 2022, https://arxiv.org/abs/2202.00449: a neighbor weighs 1/6, a diagonal one 1/12. Missing neighbors
    are unknowns themselves, so it is a sparse linear system.

    ``image`` has shape (C, H, W); ``missing``, bool, shape (H, W), leaves at least one pixel. ``noise`` is a standard
    deviation in units of the normalized image.
    """
    known = image.double().numpy()
    hole = missing.numpy()
    count = int(hole.sum())
    if not count:
        return image.clone()
    numbers = np.full(hole.shape, -1)
    numbers[hole] = np.arange(count)
    weights, values = np.zeros(count), np.zeros((count, len(known)))
    rows, columns, entries = [np.arange(count)], [np.arange(count)], [weights]
    for here, there, weight in _neighbors(hole.shape):
        inside = numbers[here] >= 0
        weights[numbers[here][inside]] += weight
        bordering = inside & (numbers[there] < 0)
        values[numbers[here][bordering]] += weight * known[(slice(None), *there)][:, bordering].T
        linked = inside & (numbers[there] >= 0)
        rows.append(numbers[here][linked])
        columns.append(numbers[there][linked])
        entries.append(np.full(int(linked.sum()), -weight))
    places = np.concatenate(rows), np.concatenate(columns)
    system = coo_matrix((np.concatenate(entries), places), shape=(count, count)).tocsc()
    # Symmetric and positive definite: no pivoting, and an ordering that keeps the factors sparse.
    solution = splu(system, "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}).solve(values)
    filled = image.clone()
    drawn = noise * torch.randn(len(known), count, generator=generator)
    filled[:, missing] = (torch.from_numpy(solution.T) + drawn).to(image.dtype)
    return filled


def impute_quickly(image: Tensor, missing: Tensor, generator: torch.Generator, noise: float = 0.01) -> Tensor:
    """Approximate `impute` several times faster; the parameters are the same.

    The system is solved at half the resolution, where a block is missing if all of its pixels are. `SWEEPS` steps of
    Jacobi's method at full resolution reduce the error, which is largest at the rim of the hole.
    """
    known = (~missing).to(image.dtype)[None]  # (1, H, W)
    shares = F.avg_pool2d(known, 2, ceil_mode=True)
    coarse = F.avg_pool2d(image * known, 2, ceil_mode=True) / shares.clamp(min=0.25)
    solved = impute(coarse, shares[0] == 0, generator, noise=0)
    filled = F.interpolate(solved[None], missing.shape, mode="bilinear", align_corners=False)[0]
    filled = torch.where(missing, filled, image)
    kernel = image.new_tensor([[1 / 12, 1 / 6, 1 / 12], [1 / 6, 0, 1 / 6], [1 / 12, 1 / 6, 1 / 12]])[None, None]
    inside = F.conv2d(torch.ones_like(known), kernel, padding=1)  # below 1 at the border of the image
    for _ in range(SWEEPS):
        means = F.conv2d(filled[:, None], kernel, padding=1)[:, 0] / inside
        filled = torch.where(missing, means, image)
    return torch.where(missing, filled + noise * torch.randn(image.shape, generator=generator), image)


def _neighbors(shape: tuple[int, ...]) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice], float]]:
    """Yield, for each of eight directions, the pixels with a neighbor there, these neighbors, and their weight."""
    height, width = shape
    for (down, across), weight in NEIGHBORS:
        first = slice(0, height - down), slice(max(0, -across), width - max(0, across))
        second = slice(down, height), slice(max(0, across), width + min(0, across))
        yield first, second, weight
        yield second, first, weight


def _check(inputs: Tensor, maps: Tensor, targets: Tensor) -> None:
    if inputs.ndim != 4 or maps.shape != (len(inputs), *inputs.shape[2:]) or targets.shape != (len(inputs),):
        raise ConfigError(
            f"inputs (B, C, H, W), maps (B, H, W) and targets (B,) do not fit together: "
            f"{tuple(inputs.shape)}, {tuple(maps.shape)}, {tuple(targets.shape)}."
        )


def _rank(maps: Tensor, seed: int) -> Tensor:
    """Return each pixel's rank by decreasing evidence, as a share in (0, 1); ties are ordered at random."""
    flat = maps.flatten(1)
    pixels = flat.shape[1]
    mixed = torch.randperm(pixels, generator=torch.Generator().manual_seed(seed)).to(maps.device)
    order = mixed[flat[:, mixed].argsort(dim=1, descending=True, stable=True)]
    places = (torch.arange(pixels, device=maps.device, dtype=torch.float32) + 0.5) / pixels
    return torch.empty_like(flat, dtype=torch.float32).scatter_(1, order, places.expand_as(order)).view(maps.shape)


def _probabilities(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the probability of the targets, one or one per image, float32 on the CPU, shape (N,)."""
    step = CPU_BATCH if inputs.device.type == "cpu" else GPU_BATCH
    parts = [model(part.contiguous(memory_format=torch.channels_last)) for part in torch.split(inputs, step)]
    softmax = torch.cat(parts).float().softmax(1)
    return softmax.gather(1, targets.expand(len(softmax))[:, None])[:, 0].cpu()


def _blur(inputs: Tensor) -> Tensor:
    radius = min(BLUR_RADIUS, min(inputs.shape[2:]) - 1)
    kernel = torch.exp(-(torch.arange(-radius, radius + 1, device=inputs.device) ** 2) / (2 * BLUR_SIGMA**2))
    kernel = (kernel / kernel.sum()).to(inputs.dtype).expand(inputs.shape[1], 1, 1, -1)
    padded = F.pad(inputs, (radius,) * 4, mode="reflect")
    across = F.conv2d(padded, kernel, groups=inputs.shape[1])
    return F.conv2d(across, kernel.transpose(2, 3), groups=inputs.shape[1])
