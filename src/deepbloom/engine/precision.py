"""Arithmetic precision: autocast, and the choice of the fastest one whose results agree, by measurement."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from deepbloom.device import synchronize

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCE = 0.05
"""Largest relative difference from fp32 (of the loss, or of activations in the Euclidean norm) that counts as equal."""
MARGIN = 1.1
"""A reduced precision must be this much faster than fp32, so that timing noise does not decide."""
REPEATS = 3


class _DepthwiseInFloat32(TorchFunctionMode):
    """Keep depthwise convolutions of a training step in float32: on CPUs their bf16 backward pass is slow."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
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
        return network(inputs).float()


def candidates(device: torch.device) -> list[str]:
    """Return the precisions that the device computes natively, ``fp32`` first."""
    if device.type == "cuda":
        return ["fp32", "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"]
    native = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return ["fp32", "bf16"] if native else ["fp32"]


def choose_fastest(
    names: list[str], run: Callable[[str], Tensor], device: torch.device
) -> tuple[str, dict[str, float]]:
    """Time ``run`` under every precision and return the fastest that agrees with the first, and the seconds of each.

    Parameters
    ----------
    names : list of str
        The first is the reference.
    run : callable
        Does the work under the named precision and returns the result to compare.
    device : torch.device
    """
    if len(names) == 1:
        return names[0], {}
    results = {name: run(name).float() for name in names}  # warm-up
    seconds = dict.fromkeys(names, float("inf"))
    for _ in range(REPEATS):
        for name in names:
            synchronize(device)
            started = time.perf_counter()
            run(name)
            synchronize(device)
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    reference = results[names[0]]
    agreeing = [
        name
        for name in names
        if (results[name] - reference).norm() <= TOLERANCE * reference.norm() and results[name].isfinite().all()
    ]
    best = min(agreeing, key=seconds.__getitem__, default=names[0])
    return (best if seconds[best] * MARGIN < seconds[names[0]] else names[0]), seconds


def choose_training_precision(
    network: nn.Module, inputs: Tensor, targets: Tensor, device: torch.device
) -> tuple[str, dict[str, float]]:
    """Return the fastest precision for a training step of ``network`` on this batch; the network is left as it was.

    ``inputs``: (B, ...); ``targets``: int64 (B,). The candidates' losses must agree with that of fp32.
    """
    trial = copy.deepcopy(network)

    def step(precision: str) -> Tensor:
        trial.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        loss = F.cross_entropy(forward(trial, inputs, precision), targets)
        loss.backward()
        return loss.detach()

    return choose_fastest(candidates(device), step, device)


@torch.inference_mode()
def choose_inference_precision(
    network: nn.Module, inputs: Tensor, device: torch.device
) -> tuple[str, dict[str, float]]:
    """Return the fastest precision for a forward pass of ``network`` on this batch."""

    return choose_fastest(candidates(device), partial(forward, network, inputs), device)
