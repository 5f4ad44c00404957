"""Fake quantization: a network computes with the rounding errors of int8, so that training makes up for them.

Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3; Krishnamoorthi 2018, https://arxiv.org/abs/1806.08342.
Two departures: the range of an activation is that of its batch rather than a moving average, so there is no state to
keep; and BatchNorm stays, since with a scale per output channel rounding before folding is rounding after it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

LARGEST = {7: 64, 8: 127}
"""Largest absolute value of a weight as an integer, by bits; ONNX Runtime takes the same."""
LEVELS = 255
"""Largest value of an activation as an integer."""
SMALLEST_SCALE = 1e-12
WEIGHTED = (torch.conv2d, F.linear)
OPERANDS: dict[Callable[..., Any], int] = {F.adaptive_avg_pool2d: 1, Tensor.add: 2, Tensor.mul: 2}
"""Functions without weights that int8 runtimes compute on integers, with their number of operands."""


class FakeQuantized(nn.Module):
    """A network whose convolutions, linear layers, sums, products and average pooling see rounded numbers.

    Parameters
    ----------
    network : nn.Module
        Not changed: training trains its weights in full precision. Sums in place (``x += y``) see its own numbers.
    weight_bits : int
        A key of `LARGEST`.
    """

    def __init__(self, network: nn.Module, weight_bits: int) -> None:
        super().__init__()
        self.network, self.weight_bits = network, weight_bits

    def forward(self, inputs: Tensor) -> Tensor:
        """Map what the network takes to its logits, rounded too."""
        with _Rounding(LARGEST[self.weight_bits]):
            logits = self.network(inputs)
        return quantize_activation(logits)


def quantize_weight(weight: Tensor, largest: int) -> Tensor:
    """Round a weight to multiples of a scale per output channel, symmetric around zero.

    Parameters
    ----------
    weight : float Tensor, shape (O, ...)
    largest : int
        The largest absolute value of a channel becomes this integer.

    Returns
    -------
    float32 Tensor
        Of the same shape; gradients pass unchanged.
    """
    scale = (weight.detach().flatten(1).abs().amax(1).float() / largest).clamp_(min=SMALLEST_SCALE)
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight.float(), scale, zeros, 0, -largest, largest)


def quantize_activation(activation: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Round a tensor to `LEVELS` steps between ``low`` and ``high``, of which zero is one.

    Parameters
    ----------
    activation : float Tensor
    low, high : float Tensor of shape (), optional
        By default the least and the largest value; zero is taken in.

    Returns
    -------
    Tensor
        Of the same shape and type. Gradients pass unchanged inside the range, and are zero outside.
    """
    if low is None or high is None:
        low, high = activation.detach().aminmax()
    low, high = low.float().clamp(max=0), high.float().clamp(min=0)
    scale = ((high - low) / LEVELS).clamp_(min=SMALLEST_SCALE)
    zero = (-low / scale).round().to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(activation, scale, zero, 0, LEVELS)


class _Rounding(TorchFunctionMode):
    """Rounds operands on their way into the functions of `WEIGHTED` and `OPERANDS`."""

    def __init__(self, largest: int) -> None:
        super().__init__()
        self.largest = largest

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in WEIGHTED:
            inputs, weight, *rest = args
            args = (quantize_activation(inputs), quantize_weight(weight, self.largest), *rest)
        elif count := OPERANDS.get(func, 0):
            operands = args[:count]
            if all(isinstance(value, Tensor) and value.is_floating_point() for value in operands):
                args = (*map(quantize_activation, operands), *args[count:])
        return func(*args, **(kwargs or {}))
