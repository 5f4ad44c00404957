"""What a network costs: multiply-accumulates, time and bytes."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from deepbloom.device import synchronize


def count_macs(model: nn.Module, input_size: int) -> int:
    """Return the multiply-accumulates of one forward pass of one image: half of the FLOPs that torch counts.

    Convolutions, matrix products and attention count; normalization, activations and pooling do not, as in most
    papers. Modes and statistics are left as found.

    Parameters
    ----------
    model : nn.Module
        Takes images of shape (1, 3, input_size, input_size).
    input_size : int
        Height and width in pixels.
    """
    with _in_eval_mode(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(_black_image(model, input_size))
    return int(counter.get_total_flops()) // 2


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
        Passes to measure, after three for warm-up; fewer if ``max_seconds`` pass first.
    """
    image = _black_image(model, input_size)
    times: list[float] = []
    with _in_eval_mode(model), torch.inference_mode():
        for _ in range(3):
            model(image)
        deadline = time.perf_counter() + max_seconds
        while len(times) < passes and (not times or time.perf_counter() < deadline):
            synchronize(image.device)
            started = time.perf_counter()
            model(image)
            synchronize(image.device)
            times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def _black_image(model: nn.Module, input_size: int) -> Tensor:
    return next(model.parameters()).new_zeros(1, 3, input_size, input_size)


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
