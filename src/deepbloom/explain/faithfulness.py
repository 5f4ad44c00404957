"""Does a map show what the network uses? Parts of the image are taken away by the map, and the answer is watched.

Every measure is reported per image, so that intervals can be made, and means little without the same measure of
`random_maps` and `center_maps`, which know nothing of the network.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import splu
from torch import Tensor, nn

from deepbloom.errors import ConfigError
from deepbloom.explain.cam import CPU_BATCH, GPU_BATCH, left_as_found, scale_maps

ROAD_FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SWEEPS = 10
BLUR_RADIUS, BLUR_SIGMA = 5, 5.0  # pixels; as published for images of 224 pixels
NEIGHBOURS = (((0, 1), 1 / 6), ((1, 0), 1 / 6), ((1, 1), 1 / 12), ((1, -1), 1 / 12))  # and their opposites


@dataclass(frozen=True)
class RemovalCurves:
    """Probability of the explained class while an image is deleted, and while it is inserted, by its map.

    Attributes
    ----------
    fractions : Tensor of float32, shape (S + 1,)
        Share of the pixels that is deleted or inserted, from 0 to 1.
    deletion, insertion : Tensor of float32, shape (B, S + 1)
    deletion_area, insertion_area : Tensor of float32, shape (B,)
        Area under the curve, in [0, 1]. Good maps have a small first and a large second one.
    """

    fractions: Tensor
    deletion: Tensor
    insertion: Tensor
    deletion_area: Tensor
    insertion_area: Tensor


@dataclass(frozen=True)
class RoadCurves:
    """Probability of the explained class after parts of an image were replaced by what surrounds them.

    Attributes
    ----------
    fractions : Tensor of float32, shape (F,)
        Share of the pixels that is replaced.
    most_relevant_first, least_relevant_first : Tensor of float32, shape (B, F)
    road_score : Tensor of float32, shape (B,)
        Mean of the second minus mean of the first, in [-1, 1]; higher is better, and 0 is what random maps get.
    """

    fractions: Tensor
    most_relevant_first: Tensor
    least_relevant_first: Tensor
    road_score: Tensor


@dataclass(frozen=True)
class ConfidenceChange:
    """What remains of the probability of the explained class when an image is dimmed by its map.

    Attributes
    ----------
    drop : Tensor of float32, shape (B,)
        Lost share, in [0, 1]; lower is better. Its mean is the published average drop.
    increase : Tensor of bool, shape (B,)
        Whether the probability grew. Its mean is the published increase in confidence.
    """

    drop: Tensor
    increase: Tensor


def removal_curves(
    model: nn.Module, inputs: Tensor, maps: Tensor, targets: Tensor, steps: int = 20, seed: int = 0
) -> RemovalCurves:
    """Return deletion and insertion curves with the areas under them.

    Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421: deletion puts the mean color (0 in normalized images) in
    the place of the pixels with most evidence first; insertion begins with the blurred image and sharpens these.
    Departure: ``steps`` steps instead of one per row of pixels.

    Parameters
    ----------
    model : nn.Module
        Run in eval mode and left as found.
    inputs : Tensor of float, shape (B, C, H, W)
        Normalized images.
    maps : Tensor of float, shape (B, H, W)
        Only the order of their values matters; equal values are taken in random order.
    targets : Tensor of int64, shape (B,)
        The classes that the maps explain.
    steps : int
        Each takes away or brings in the same number of pixels.
    seed : int
        Of the order of equal values.

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
    curves = torch.stack(deletion), torch.stack(insertion)
    areas = [torch.trapezoid(curve, fractions) for curve in curves]
    return RemovalCurves(fractions, *curves, *areas)


def road_curves(
    model: nn.Module,
    inputs: Tensor,
    maps: Tensor,
    targets: Tensor,
    fractions: Sequence[float] = ROAD_FRACTIONS,
    seed: int = 0,
) -> RoadCurves:
    """Return ROAD's two curves: the answer after the most, or the least, relevant pixels were replaced.

    Rong et al. 2022, https://arxiv.org/abs/2202.00449. Replaced pixels are interpolated from their surroundings, so
    that neither a hole's shape nor its color gives the class away. Departure: `impute_quickly` in the place of
    `impute`.

    Parameters
    ----------
    model, inputs, maps, targets
        As in `removal_curves`.
    fractions : sequence of float, each in (0, 1)
        Shares of the pixels to replace.
    seed : int
        Of the order of equal values and of the noise in replaced pixels.

    Raises
    ------
    ConfigError
        The shapes do not fit together, or a fraction is out of range.
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
    most, least = torch.stack(curves[0]), torch.stack(curves[1])
    return RoadCurves(shares, most, least, least.mean(1) - most.mean(1))


def confidence_change(model: nn.Module, inputs: Tensor, maps: Tensor, targets: Tensor) -> ConfidenceChange:
    """Return how the answer changes when every image is multiplied by its map.

    Chattopadhay et al. 2018, https://arxiv.org/abs/1710.11063: with the probabilities Y of the image
    and O of the dimmed one, the drop is max(0, Y - O) / Y. Departure: normalized images are dimmed toward the mean
    color, not toward black.

    Parameters
    ----------
    model, inputs, maps, targets
        As in `removal_curves`; maps in [0, 1].

    Raises
    ------
    ConfigError
        The shapes do not fit together.
    """
    _check(inputs, maps, targets)
    with left_as_found(model, inputs.device), torch.no_grad():
        whole = _probabilities(model, inputs, targets)
        dimmed = _probabilities(model, inputs * maps[:, None].to(inputs.dtype), targets)
    return ConfidenceChange((whole - dimmed).clamp(min=0) / whole.clamp(min=torch.finfo().tiny), dimmed > whole)


def impute(image: Tensor, missing: Tensor, generator: torch.Generator, noise: float = 0.01) -> Tensor:
    """Return an image whose missing pixels are weighted means of their eight neighbors, with a little noise.

    Rong et al. 2022, https://arxiv.org/abs/2202.00449: a neighbor weighs 1/6, a diagonal one 1/12; missing
    neighbors enter with the value that they get themselves, which makes it a linear system.

    Parameters
    ----------
    image : Tensor of float, shape (C, H, W)
    missing : Tensor of bool, shape (H, W)
        At least one pixel is not missing.
    generator : torch.Generator
        Draws the noise.
    noise : float
        Standard deviation, in units of the normalized image.
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
    """Return nearly what `impute` returns, several times faster; parameters as there.

    The system is solved at half the resolution, where a block counts as missing if all of its pixels are; the error,
    which is largest at the rim of the hole, is smoothed away by `SWEEPS` steps of Jacobi's method at full resolution.
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


def random_maps(count: int, size: tuple[int, int], seed: int = 0, grid: tuple[int, int] = (7, 7)) -> Tensor:
    """Return maps of noise, shape (count, H, W), in [0, 1], as smooth as those of a layer of ``grid`` positions."""
    noise = torch.rand(count, 1, *grid, generator=torch.Generator().manual_seed(seed))
    return scale_maps(F.interpolate(noise, size, mode="bilinear", align_corners=False)[:, 0])


def center_maps(count: int, size: tuple[int, int], spread: float = 0.25) -> Tensor:
    """Return the same blob for every image, shape (count, H, W), in [0, 1]: photographers put things in the middle.

    ``spread`` is the Gaussian's standard deviation as a share of the height and of the width.
    """
    down, across = (torch.linspace(-0.5, 0.5, length) / spread for length in size)
    blob = torch.exp(-(down[:, None] ** 2 + across[None] ** 2) / 2)
    return scale_maps(blob[None]).repeat(count, 1, 1)


def _check(inputs: Tensor, maps: Tensor, targets: Tensor) -> None:
    if inputs.ndim != 4 or maps.shape != (len(inputs), *inputs.shape[2:]) or targets.shape != (len(inputs),):
        raise ConfigError(
            f"inputs (B, C, H, W), maps (B, H, W) and targets (B,) do not fit together: "
            f"{tuple(inputs.shape)}, {tuple(maps.shape)}, {tuple(targets.shape)}."
        )


def _rank(maps: Tensor, seed: int) -> Tensor:
    """Return the place of every pixel among those with more evidence, as a share in (0, 1); ties in random order."""
    flat = maps.flatten(1)
    pixels = flat.shape[1]
    mixed = torch.randperm(pixels, generator=torch.Generator().manual_seed(seed)).to(maps.device)
    order = mixed[flat[:, mixed].argsort(dim=1, descending=True, stable=True)]
    places = (torch.arange(pixels, device=maps.device, dtype=torch.float32) + 0.5) / pixels
    return torch.empty_like(flat, dtype=torch.float32).scatter_(1, order, places.expand_as(order)).view(maps.shape)


def _probabilities(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the softmax of the targets, one or one per image, float32 on the CPU, shape (N,)."""
    step = CPU_BATCH if inputs.device.type == "cpu" else GPU_BATCH
    parts = [model(part.contiguous(memory_format=torch.channels_last)) for part in inputs.split(step)]
    softmax = torch.cat(parts).float().softmax(1)
    return softmax.gather(1, targets.expand(len(softmax))[:, None])[:, 0].cpu()


def _blur(inputs: Tensor) -> Tensor:
    radius = min(BLUR_RADIUS, min(inputs.shape[2:]) - 1)
    kernel = torch.exp(-(torch.arange(-radius, radius + 1, device=inputs.device) ** 2) / (2 * BLUR_SIGMA**2))
    kernel = (kernel / kernel.sum()).to(inputs.dtype).expand(inputs.shape[1], 1, 1, -1)
    padded = F.pad(inputs, (radius,) * 4, mode="reflect")
    across = F.conv2d(padded, kernel, groups=inputs.shape[1])
    return F.conv2d(across, kernel.transpose(2, 3), groups=inputs.shape[1])


def _neighbors(shape: tuple[int, ...]) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice], float]]:
    """Yield, for each of eight directions, the pixels that have a neighbor there, these neighbors, and a weight."""
    height, width = shape
    for (down, across), weight in NEIGHBOURS:
        first = slice(0, height - down), slice(max(0, -across), width - max(0, across))
        second = slice(down, height), slice(max(0, across), width + min(0, across))
        yield first, second, weight
        yield second, first, weight
