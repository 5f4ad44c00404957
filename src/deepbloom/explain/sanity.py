"""Does a map depend on what the network has learned? It must change when the weights are drawn anew."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from deepbloom.errors import ConfigError, unknown

Explain = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True)
class RandomizationTest:
    """How similar maps stay to the trained network's while it is randomized from the top.

    Attributes
    ----------
    layers : tuple of str
        In the order in which they were randomized; each row holds with all before it.
    rank_correlation : Tensor of float32, shape (L, B)
        Spearman's, of each image's map with that of the trained network: 1 is no change. 0 where one of the two is
        the same everywhere.
    """

    layers: tuple[str, ...]
    rank_correlation: Tensor


def randomization_test(
    model: nn.Module, inputs: Tensor, explain: Explain, layers: Sequence[str], seed: int = 0
) -> RandomizationTest:
    """Draw the weights of ever more layers anew, beginning with the first of ``layers``, and compare the maps.

    The cascading randomization of model parameters of Adebayo et al. 2018, https://arxiv.org/abs/1810.03292. A method
    whose maps stay alike shows edges or the middle of the image, not the network.

    Parameters
    ----------
    model : nn.Module
        Copied; the original stays as it is.
    inputs : Tensor of float, shape (B, C, H, W)
    explain : callable
        From (model, inputs) to maps, shape (B, H, W). It must explain a fixed class: with the predicted one, maps would
        change for the answer's sake.
    layers : sequence of str
        Module paths, the network's top first.
    seed : int
        Of the new weights.

    Raises
    ------
    ConfigError
        The network has no such layer, or there is nothing in it to draw.
    """
    modules = dict(model.named_modules())
    for layer in layers:
        if layer not in modules:
            raise ConfigError(unknown("layer", layer, [path for path, _ in model.named_children()]))
    trained = explain(model, inputs)
    broken = copy.deepcopy(model)
    rows = []
    with torch.random.fork_rng([inputs.device] if inputs.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for layer in layers:
            _draw_anew(broken.get_submodule(layer), layer)
            rows.append(rank_correlation(trained, explain(broken, inputs)))
    return RandomizationTest(tuple(layers), torch.stack(rows))


def randomized_copy(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return a copy of a network with all weights drawn anew: what its maps show, it has not learned."""
    broken = copy.deepcopy(model)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        _draw_anew(broken, "")
    return broken


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Spearman's correlation of each pair of maps, shape (B, H, W): float32 of shape (B,), in [-1, 1]."""
    ranks = [torch.from_numpy(rankdata(maps.flatten(1).cpu().numpy(), axis=1)).double() for maps in (first, second)]
    ranks = [rank - rank.mean(1, keepdim=True) for rank in ranks]
    products = (ranks[0] * ranks[1]).sum(1)
    norms = ranks[0].norm(dim=1) * ranks[1].norm(dim=1)
    return (products / torch.where(norms > 0, norms, 1)).float()


def _draw_anew(layer: nn.Module, path: str) -> None:
    """Initialize every part of a layer, BatchNorm's statistics included, as its constructor does."""
    resets = [reset for part in layer.modules() if callable(reset := getattr(part, "reset_parameters", None))]
    if not resets:
        raise ConfigError(f"Layer {path!r} holds no weights that could be drawn anew.")
    for reset in resets:
        reset()
