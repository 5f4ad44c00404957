"""Sanity checks: maps that ignore the network, and whether a map changes when the weights are randomized."""

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor, nn

from deepbloom.errors import ConfigError, unknown
from deepbloom.explain.cam import scale_maps

Explain = Callable[[nn.Module, Tensor], Tensor]


def random_maps(count: int, size: tuple[int, int], seed: int = 0, grid: tuple[int, int] = (7, 7)) -> Tensor:
    """Return noise, shape (count, H, W), in [0, 1], as smooth as maps of a layer with ``grid`` positions."""
    noise = torch.rand(count, 1, *grid, generator=torch.Generator().manual_seed(seed))
    return scale_maps(F.interpolate(noise, size, mode="bilinear", align_corners=False)[:, 0])


def center_maps(count: int, size: tuple[int, int], spread: float = 0.25) -> Tensor:
    """Return the same centered blob for each image, shape (count, H, W), in [0, 1]: photographers center their subject.

    ``spread`` is the Gaussian's standard deviation as a share of the height and of the width.
    """
    down, across = (torch.linspace(-0.5, 0.5, length) / spread for length in size)
    blob = torch.exp(-(down[:, None] ** 2 + across[None] ** 2) / 2)
    return scale_maps(blob[None]).repeat(count, 1, 1)


def randomized_copy(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return a copy of a network with random weights: its maps show the architecture, not what was learned."""
    randomized = copy.deepcopy(model)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        _reset(randomized, "")
    return randomized


def randomization_test(
    model: nn.Module, inputs: Tensor, explain: Explain, layers: Sequence[str], seed: int = 0
) -> Tensor:
    """Randomize more and more layers, in the order of ``layers``, and compare the maps with the trained network's.

    The cascading randomization of Adebayo et al. 2018, https://arxiv.org/abs/1810.03292. A method whose maps stay
    alike shows edges or the middle of the image, not the network. The network itself stays as it is.

    Parameters
    ----------
    explain : callable
        From (model, inputs) to maps, shape (B, H, W). It must explain a fixed class: maps of the predicted class would
        change because the prediction does.
    layers : sequence of str
        Module paths, the network's top first: see `find_stages`.

    Returns
    -------
    Tensor of float32, shape (L, B)
        The `rank_correlation` of each image's map with that of the trained network, after each layer.

    Raises
    ------
    ConfigError
        The network has no such layer, or the layer has no weights.
    """
    modules = dict(model.named_modules())
    for layer in layers:
        if layer not in modules:
            raise ConfigError(unknown("layer", layer, [path for path, _ in model.named_children()]))
    trained = explain(model, inputs)
    randomized = copy.deepcopy(model)
    rows = []
    with torch.random.fork_rng([inputs.device] if inputs.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for layer in layers:
            _reset(randomized.get_submodule(layer), layer)
            rows.append(rank_correlation(trained, explain(randomized, inputs)))
    return torch.stack(rows)


def find_stages(model: nn.Module) -> list[str]:
    """Return the paths of the parts with weights, the network's top first.

    These are its children; a container of blocks (``layer4`` of a ResNet, ``features`` of an EfficientNet) is replaced
    by the blocks.
    """
    stages = []
    for name, child in model.named_children():
        blocks = {path: block for path, block in child.named_children() if _resets(block)}
        is_container = isinstance(child, nn.Sequential | nn.ModuleList)
        if is_container and blocks and all(any(block.children()) for block in blocks.values()):
            stages += [f"{name}.{path}" for path in blocks]
        elif _resets(child):
            stages.append(name)
    return stages[::-1]


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Spearman's correlation of each pair of maps, shape (B, H, W): float32 of shape (B,), in [-1, 1].

    It is 0 where one of the two is constant.
    """
    ranks = [torch.from_numpy(rankdata(maps.flatten(1).cpu().numpy(), axis=1)).double() for maps in (first, second)]
    ranks = [rank - rank.mean(1, keepdim=True) for rank in ranks]
    products = (ranks[0] * ranks[1]).sum(1)
    norms = ranks[0].norm(dim=1) * ranks[1].norm(dim=1)
    return (products / torch.where(norms > 0, norms, 1)).float()


def _resets(layer: nn.Module) -> list[Callable[[], None]]:
    return [reset for part in layer.modules() if callable(reset := getattr(part, "reset_parameters", None))]


def _reset(layer: nn.Module, path: str) -> None:
    """Initialize all parts of a layer as their constructors do, including BatchNorm's statistics."""
    resets = _resets(layer)
    if not resets:
        raise ConfigError(f"Layer {path!r} has no weights to randomize.")
    for reset in resets:
        reset()
