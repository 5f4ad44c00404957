"""What a network costs: multiply-accumulates, time and bytes."""

import statistics
import time

import torch
from torch import Tensor, nn

from deepbloom.device import synchronize


def count_macs(model: nn.Module, input_size: int) -> int:
    """Count the multiply-accumulates of convolutions and linear layers in one forward pass of one image.

    Normalization, activations and pooling are left out, as in the published counts of most papers. Train and eval
    modes, statistics and random streams are left as found.

    Parameters
    ----------
    model : nn.Module
        Takes images of shape (1, 3, input_size, input_size).
    input_size : int
        Height and width in pixels.
    """
    counts = []

    def count(module: nn.Conv2d | nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counts.append(output.numel() * module.weight[0].numel())  # each output value is one product with one filter

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    modes = {module: module.training for module in model.modules()}
    hooks = [layer.register_forward_hook(count) for layer in layers]
    parameter = next(model.parameters())
    image = torch.zeros(1, 3, input_size, input_size, device=parameter.device, dtype=parameter.dtype)
    try:
        model.eval()
        with torch.inference_mode():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return sum(counts)


def model_size_bytes(model: nn.Module) -> int:
    """Return the size in bytes of all parameters and saved buffers, as they lie in a weights file."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def measure_latency_ms(model: nn.Module, input_size: int, passes: int = 30, max_seconds: float = 3.0) -> float:
    """Return the median time of one forward pass of one image in fp32, in milliseconds.

    It depends on the machine, its load and the number of threads. Reading and resizing the image are left out.

    Parameters
    ----------
    model : nn.Module
        Takes images of shape (1, 3, input_size, input_size); its modes are left as found.
    input_size : int
        Height and width in pixels.
    passes : int
        Measured after three that warm up; fewer where ``max_seconds`` are over before.
    """
    parameter = next(model.parameters())
    image = torch.zeros(1, 3, input_size, input_size, device=parameter.device, dtype=parameter.dtype)
    modes = {module: module.training for module in model.modules()}
    times: list[float] = []
    try:
        model.eval()
        with torch.inference_mode():
            for _ in range(3):
                model(image)
            deadline = time.perf_counter() + max_seconds
            while len(times) < passes and (not times or time.perf_counter() < deadline):
                synchronize(parameter.device)
                started = time.perf_counter()
                model(image)
                synchronize(parameter.device)
                times.append(time.perf_counter() - started)
    finally:
        for module, training in modes.items():
            module.training = training
    return 1000 * statistics.median(times)
