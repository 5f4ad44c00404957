"""Least squares for layers that lose inputs: which they can best do without, and weights for those that stay."""

import copy
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

RIDGE = 1e-3
"""Penalty on the squared distance from the layer's own weights, as a share of the mean square of its inputs."""


def unfold(layer: nn.Conv2d | nn.Linear, inputs: Tensor) -> Tensor:
    """Return, for each output of a layer, the inputs that its weights multiply, in their order.

    Parameters
    ----------
    layer : nn.Conv2d or nn.Linear
        A convolution without groups, padded in any way.
    inputs : Tensor, shape (B, C, H, W) or (B, C)

    Returns
    -------
    Tensor, shape (B, C * kernel, H', W') or (B, C)
    """
    if isinstance(layer, nn.Linear):
        return inputs
    height, width = layer.kernel_size
    each = copy.copy(layer)  # the layer's own forward pass, one weight of 1 at a time
    one_hot = torch.eye(height * width).view(-1, 1, height, width).repeat(layer.in_channels, 1, 1, 1)
    each._parameters = {"weight": nn.Parameter(one_hot, requires_grad=False), "bias": None}
    each._forward_hooks, each._forward_pre_hooks = OrderedDict(), OrderedDict()
    each.groups, each.out_channels = layer.in_channels, len(one_hot)
    return each(inputs)  # type: ignore[no-any-return]


class Regression:
    """Regression of a layer's outputs on its inputs, from sums over samples.

    With H = XᵀX/n + λI it minimizes ||Y − XW||²/n + λ||W − W₀||², where W₀ are the layer's own weights; a bias is the
    weight of an input that is 1.

    Parameters
    ----------
    layer : nn.Conv2d or nn.Linear
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        self._layer = layer
        weights = layer.weight.detach().flatten(1).T.double()  # (inputs, outputs)
        if layer.bias is not None:
            weights = torch.cat([layer.bias.detach()[None].double(), weights])
        self._weights = weights
        self._gram = weights.new_zeros(len(weights), len(weights))
        self._moments = torch.zeros_like(weights)
        self._rows = 0

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Add samples: inputs of shape (n, C * kernel) and outputs of shape (n, outputs)."""
        inputs = inputs.double()
        if self._layer.bias is not None:
            inputs = torch.cat([inputs.new_ones(len(inputs), 1), inputs], 1)
        self._gram += inputs.T @ inputs
        self._moments += inputs.T @ outputs.double()
        self._rows += len(inputs)

    def fit(self) -> None:
        """Give the layer the weights that minimize the error."""
        matrix, ridge = self._matrix()
        found = torch.linalg.solve(matrix, self._moments / self._rows + ridge * self._weights)
        if self._layer.bias is not None:
            self._layer.bias.data.copy_(found[0])
            found = found[1:]
        self._layer.weight.data.copy_(found.T.reshape(self._layer.weight.shape))

    def start(self, channels: int, sensitivity: Tensor) -> "_Elimination":
        """Return the elimination of its input channels, none gone yet, with errors weighted by output."""
        matrix, _ = self._matrix()
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
        inputs = self._layer.weight[0].numel()
        scaled = self._weights * sensitivity.double().sqrt()
        return _Elimination(inverse, scaled, inputs // channels, len(self._weights) - inputs)

    def _matrix(self) -> tuple[Tensor, float]:
        ridge = RIDGE * float(self._gram.diagonal().mean()) / self._rows
        return self._gram / self._rows + ridge * torch.eye(len(self._gram), dtype=torch.float64), ridge


def eliminate(
    regressions: Sequence[Regression], sensitivities: Sequence[Tensor], channels: int, fewest: int
) -> tuple[list[int], list[float]]:
    """Remove the channel that is missed least, again and again, with all other weights refit each time.

    Without the inputs c, the least squares of W grow by tr(W_cᵀ (H⁻¹)_cc⁻¹ W_c), and the other weights change by
    −(H⁻¹)_:c (H⁻¹)_cc⁻¹ W_c: Hassibi and Stork 1992, "Second order derivatives for network pruning: Optimal Brain
    Surgeon", eq. 5, here for all weights of a channel at once, as Frantar and Alistarh 2022,
    https://arxiv.org/abs/2208.11580, do for blocks of weights.

    Parameters
    ----------
    regressions : sequence of Regression
        Those of the layers that read the channels.
    sensitivities : sequence of Tensor, shape (outputs,)
        What a squared error of an output costs, for each of the layers.
    channels : int
    fewest : int
        Channels that stay in any case.

    Returns
    -------
    order : list of int
        The channels that go, the first that goes first.
    losses : list of float
        The error once the first 0, 1, ... of them are gone.
    """
    threads = torch.get_num_threads()
    started = [regression.start(channels, own) for regression, own in zip(regressions, sensitivities, strict=True)]
    left, order, losses = list(range(channels)), [], [0.0]
    torch.set_num_threads(1)  # thousands of small systems: where cores are busy, threads wait for each other
    try:
        while len(left) > fewest:
            scores = torch.stack([one.scores() for one in started]).sum(0)
            place = int(scores.argmin())
            losses.append(losses[-1] + float(scores[place]))
            for one in started:
                one.remove(place)
            left[place], left[-1] = left[-1], left[place]
            order.append(left.pop())
    finally:
        torch.set_num_threads(threads)
    return order, losses


class _Elimination:
    """H⁻¹ and W of the channels that are left; ``first`` rows ahead of them belong to the bias."""

    def __init__(self, inverse: Tensor, weights: Tensor, size: int, first: int) -> None:
        self._inverse, self._weights, self._size, self._first = inverse, weights, size, first

    def scores(self) -> Tensor:
        """Return the growth of the error without each channel, shape (channels,)."""
        weights = self._weights[self._first :].unflatten(0, (-1, self._size))  # (C, size, outputs)
        inverse = self._inverse[self._first :, self._first :]
        blocks = inverse.unflatten(1, (-1, self._size)).unflatten(0, (-1, self._size)).diagonal(dim1=0, dim2=2)
        growth: Tensor = (weights * torch.linalg.solve(blocks.movedim(2, 0), weights)).sum((1, 2))
        return growth

    def remove(self, place: int) -> None:
        """Remove a channel; the last one takes its place, so that what is left is a view."""
        inverse, weights, size = self._inverse, self._weights, self._size
        at = slice(self._first + place * size, self._first + (place + 1) * size)
        last = slice(len(inverse) - size, len(inverse))
        column = inverse[:, at].clone()
        share = torch.linalg.solve(column[at], torch.cat([column.T, weights[at]], 1))
        inverse.addmm_(column, share[:, : len(inverse)], alpha=-1)
        weights.addmm_(column, share[:, len(inverse) :], alpha=-1)
        inverse[at], weights[at] = inverse[last].clone(), weights[last].clone()
        inverse[:, at] = inverse[:, last].clone()
        self._inverse, self._weights = inverse[:-size, :-size], weights[:-size]
