"""Channel pruning: the channels that a network misses least are removed, and the layers that read them are refit."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from deepbloom.cost import count_macs
from deepbloom.data.preprocessing import to_inputs
from deepbloom.engine.checkpoint import Trained
from deepbloom.errors import RunError
from deepbloom.export.channels import Group, Layer, find_groups
from deepbloom.export.refit import Regression, eliminate, unfold
from deepbloom.models.registry import create_model
from deepbloom.models.widths import keep_channels, widths_of

log = logging.getLogger("deepbloom")

MOST_PRUNED = 0.9
"""Share of the channels of a layer that may go."""
MULTIPLE = 8
"""Layers keep a multiple of this number of channels, which suits vectorized code."""
POSITIONS = 50
"""Places of each image that a layer's inputs and outputs are compared at."""
BATCH_SIZE = 16


def prune(trained: Trained, pixels: np.ndarray, target_macs: float) -> dict[str, list[int]]:
    """Remove channels from a network, and return the widths of what is left.

    Only channels inside a branch go, not those of a residual stream, nor those whose readers all have fewer samples
    than inputs (a classifier): the error would be underestimated. Where they go, the layers that read them get the
    weights that reproduce the whole network's outputs best, in least squares and with the inputs that the pruned
    network gives: He et al. 2017, https://arxiv.org/abs/1707.06168, section 3.1 and 3.2. Departures: the channels are
    eliminated one by one by exact least squares (`eliminate`) instead of LASSO; the weights are drawn to the old ones
    by a small ridge; how many channels each group keeps follows from one price for all, the growth of the error over
    the multiply-accumulates saved. Errors are compared as changes of the logits z: an output's squared error counts
    E[(∂(vᵀz)/∂y)²], v random signs, summed over places.

    Parameters
    ----------
    trained : Trained
        On the CPU; its network is changed.
    pixels : ndarray of uint8, shape (N, S, S, 3)
        Training images.
    target_macs : float
        Share of the multiply-accumulates that may be left, in (0, 1).

    Raises
    ------
    RunError
        The network has no channels that can go, or too few.
    """
    network, size, arch = trained.network, trained.preprocessing.size, str(trained.header["arch"])
    network.requires_grad_(False).eval()
    groups, layers = find_groups(network, size)
    if not groups:
        raise RunError(f"{arch} cannot be pruned: none of its channels are inside a branch of convolutions.")
    groups = [group for group in groups if _has_samples(network, group, layers, len(pixels))]
    macs = count_macs(network, size)
    _choose_widths(groups, layers, [[0.0] * group.channels for group in groups], target_macs * macs, arch)
    device = torch.device("cpu")
    parts = np.split(pixels, range(BATCH_SIZE, len(pixels), BATCH_SIZE))
    batches = [to_inputs(part, trained.preprocessing, device) for part in parts]
    log.info("recording the outputs of layers for %d training images", len(pixels))
    readers = _observe(network, groups, layers, batches)
    removals = []
    for group in groups:
        own = [readers[path] for path in group.readers]
        regressions, sensitivities = [each.regression for each in own], [each.sensitivity for each in own]
        removals.append(eliminate(regressions, sensitivities, group.channels, _fewest(group)))
    losses = [loss for _, loss in removals]
    kept = _choose_widths(groups, layers, losses, target_macs * macs, arch)
    fewer = sum(count < group.channels for group, count in zip(groups, kept, strict=True))
    log.info("removing channels from %d of %d groups, and fitting the layers behind them", fewer, len(groups))
    for group, (order, _), count in zip(groups, removals, kept, strict=True):
        if count < group.channels:
            gone = set(order[: group.channels - count])
            stay = torch.tensor([channel for channel in range(group.channels) if channel not in gone])
            _remove(network, group, stay, readers)
            for path in group.readers:
                readers[path].refit(network, batches)
    widths = widths_of(network)
    _check_rebuilt(network, arch, len(trained.classes), size, widths)
    return widths


class _Reached(Exception):
    """Ends a forward pass once the layer in question has its inputs."""


class _Reader:
    """A layer that loses inputs, with samples of what it computes in the whole network."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, images: int, positions: int) -> None:
        self.layer = layer
        self.regression = Regression(layer)
        self.sensitivity = torch.zeros(len(layer.weight), dtype=torch.float64)
        self.outputs: list[Tensor] = []
        """(B * positions, outputs) of each batch."""
        generator = torch.Generator().manual_seed(0)
        places = torch.rand(images, positions, generator=generator).argsort(1)[:, :POSITIONS]
        self._places = places.split(BATCH_SIZE)

    def record(self, layer: nn.Module, taken: tuple[Tensor, ...], given: Tensor) -> None:
        """Sample a batch (a forward hook), and the gradient of its outputs."""
        given.register_hook(self._add_gradient)
        outputs = self._sample(given.detach(), len(self.outputs))
        self.regression.add(self._inputs(taken[0], len(self.outputs)), outputs)
        self.outputs.append(outputs)

    def refit(self, network: nn.Module, batches: Sequence[Tensor]) -> None:
        """Give the layer the weights that reproduce its recorded outputs from its inputs of today."""
        regression = Regression(self.layer)
        for number, batch in enumerate(batches):
            reach = partial(self._reach, regression, number)
            with torch.no_grad(), suppress(_Reached), self.layer.register_forward_pre_hook(reach):
                network(batch)
        regression.fit()

    def _reach(self, regression: Regression, number: int, _: nn.Module, taken: tuple[Tensor, ...]) -> None:
        regression.add(self._inputs(taken[0], number), self.outputs[number])
        raise _Reached

    def _add_gradient(self, gradient: Tensor) -> None:
        self.sensitivity += gradient.square().sum([0, *range(2, gradient.ndim)])

    def _inputs(self, taken: Tensor, number: int) -> Tensor:
        return self._sample(unfold(self.layer, taken.detach()), number)

    def _sample(self, values: Tensor, number: int) -> Tensor:
        """Return the values of a batch, (B, C, ...), at its places: (B * positions, C)."""
        each = values.unflatten(1, (-1, 1)).flatten(2)  # (B, C, places)
        places = self._places[number][:, None].expand(-1, each.shape[1], -1)
        rows: Tensor = each.gather(2, places).transpose(1, 2).flatten(0, 1)
        return rows


def _observe(
    network: nn.Module, groups: Sequence[Group], layers: Mapping[str, Layer], batches: Sequence[Tensor]
) -> dict[str, _Reader]:
    """Return the layers that read the channels of groups, by path, after one pass through the network."""
    images, readers = sum(map(len, batches)), {}
    generator = torch.Generator().manual_seed(0)
    with ExitStack() as hooks:
        for path in (path for group in groups for path in group.readers):
            layer = network.get_submodule(path)
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            readers[path] = _Reader(layer, images, layers[path].positions)
            hooks.enter_context(layer.register_forward_hook(readers[path].record))
        for batch in batches:
            logits = network(batch.clone().requires_grad_())
            signs = torch.randint(0, 2, logits.shape, generator=generator) * 2 - 1
            (logits * signs).sum().backward()
    return readers


def _choose_widths(
    groups: Sequence[Group],
    layers: Mapping[str, Layer],
    losses: Sequence[Sequence[float]],
    most: float,
    arch: str,
) -> list[int]:
    """Return how many channels each group keeps: the cheapest go first, until no more than ``most`` MACs are left.

    Parameters
    ----------
    losses : sequence of sequence of float
        Of each group, the error without the first 0, 1, ... channels.
    """
    kept = [group.channels for group in groups]
    macs = whole = _macs(groups, layers, kept)
    while macs > most:
        found = []
        for number, (group, lost) in enumerate(zip(groups, losses, strict=True)):
            fewer = (kept[number] - 1) // MULTIPLE * MULTIPLE
            if fewer >= _fewest(group):
                tried = [*kept[:number], fewer, *kept[number + 1 :]]
                left = _macs(groups, layers, tried)
                growth = lost[group.channels - fewer] - lost[group.channels - kept[number]]
                found.append((growth / (macs - left), left, tried))
        if not found:
            raise RunError(f"{arch} keeps at least {macs / whole:.2f} of its multiply-accumulates: raise target_macs.")
        _, macs, kept = min(found)
    return kept


def _has_samples(network: nn.Module, group: Group, layers: Mapping[str, Layer], images: int) -> bool:
    """Return whether a layer that reads the channels of a group has more samples than inputs."""
    inputs = {path: network.get_parameter(f"{path}.weight")[0].numel() for path in group.readers}
    return any(images * min(layers[path].positions, POSITIONS) > count for path, count in inputs.items())


def _fewest(group: Group) -> int:
    return max(MULTIPLE, round((1 - MOST_PRUNED) * group.channels))


def _macs(groups: Sequence[Group], layers: Mapping[str, Layer], kept: Sequence[int]) -> float:
    """Return the multiply-accumulates once each group keeps so many channels."""
    shares = dict.fromkeys(layers, 1.0)
    for group, count in zip(groups, kept, strict=True):
        for path in (*group.makers, *group.followers, *group.readers):
            if path in shares:  # a batch normalization is not
                shares[path] *= count / group.channels
    return sum(layers[path].macs * share for path, share in shares.items())


def _remove(network: nn.Module, group: Group, stay: Tensor, readers: Mapping[str, _Reader]) -> None:
    """Cut the layers of a group down to the channels that stay."""
    for path in group.makers:
        keep_channels(network.get_submodule(path), None, stay)
        if path in readers:
            readers[path].outputs = [outputs[:, stay] for outputs in readers[path].outputs]
    for path in group.followers:
        keep_channels(network.get_submodule(path), stay, stay)
    for path in group.readers:
        layer = readers[path].layer
        each = layer.weight.shape[1] // group.channels  # a linear layer reads the places of a channel one by one
        keep_channels(layer, (each * stay[:, None] + torch.arange(each)).flatten(), None)


def _check_rebuilt(network: nn.Module, arch: str, num_classes: int, size: int, widths: dict[str, list[int]]) -> None:
    """Raise `RunError` unless a new network with these widths and weights computes the same."""
    rebuilt = create_model(arch, num_classes, widths=widths)
    rebuilt.load_state_dict(network.state_dict())
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if not torch.allclose(network.eval()(image), rebuilt.eval()(image), rtol=1e-3, atol=1e-4):
            raise RunError(f"{arch} cannot be pruned: the rebuilt network computes something else.")
