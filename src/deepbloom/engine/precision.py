"""Arithmetic precision: autocast, and the rule by which ``train.precision=auto`` chooses."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from deepbloom.errors import ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(wanted: str, device: torch.device) -> str:
    """Return the precision that ``train.precision`` stands for on this device: a rule, never a measurement.

    ========================================  =========  ==========================================================
    device                                    ``auto``   why
    ========================================  =========  ==========================================================
    CPU with native bf16 (AVX-512 bf16, AMX)  ``bf16``   training steps take 0.4 to 0.7 of the time of fp32
    any other CPU                             ``fp32``   bf16 is emulated there and slower
    CUDA, compute capability 8.0 or newer     ``bf16``   native, and as wide a range as fp32: needs no scaling
    older CUDA                                ``fp16``   native, with scaled gradients
    MPS                                       ``fp32``   autocast gains little there
    ========================================  =========  ==========================================================

    docs/performance.md has the measurements on CPUs. Depthwise convolutions stay in fp32 in CPU training (`autocast`).

    Raises
    ------
    ConfigError
        ``fp16`` on a CPU, which has no native fp16 training.
    """
    if wanted == "fp16" and device.type == "cpu":
        raise ConfigError("train.precision=fp16 needs a GPU. Use fp32, bf16 or auto on a CPU.")
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and has_native_bf16() else "fp32"


def has_native_bf16() -> bool:
    """Return whether this CPU multiplies bf16 numbers natively."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _DepthwiseInFloat32(TorchFunctionMode):
    """Keep depthwise convolutions of a training step in float32: on CPUs their bf16 backward pass is slow."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func is torch.conv2d and torch.is_grad_enabled():
            inputs, weight, *rest = args
            if weight.shape[1] == 1:  # (out, in / groups, height, width)
                with torch.autocast("cpu", enabled=False):
                    return func(inputs.float(), weight, *rest, **options)
        return func(*args, **options)


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Run forward passes in ``precision``; on a CPU, training steps keep depthwise convolutions in float32."""
    with torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32"):
        if device.type == "cpu" and precision != "fp32":
            with _DepthwiseInFloat32():
                yield
        else:
            yield


def forward(network: nn.Module, inputs: Tensor, precision: str) -> Tensor:
    """Return ``network(inputs)`` in float32, computed in ``precision``; ``inputs`` may be of any floating type."""
    if precision == "fp32":
        inputs = inputs.float()
    with autocast(inputs.device, precision):
        logits: Tensor = network(inputs)
        return logits.float()
