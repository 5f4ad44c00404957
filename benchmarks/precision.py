"""Training steps in fp32 and bf16 side by side: the evidence behind the rule of ``train.precision=auto``.

Each network takes steps on images in memory, in turn in both precisions, in one process. The ratio is that of the
median times; the difference is that of the losses of the first step. Run it on an idle machine:

    python benchmarks/precision.py --batch 16 --rounds 5
"""

import argparse
import copy
import statistics
import time

import torch
from torch.nn import functional as F

from deepbloom import recipe
from deepbloom.device import available_cores, device_name, use_cores
from deepbloom.engine.precision import forward, has_native_bf16
from deepbloom.models.freezing import train_mode
from deepbloom.models.registry import create_model, resolved_trainable

MODELS = ("scratch_cnn", "mini_resnet", "resnet18_partial", "efficientnet_b0_partial", "efficientnet_lite0_partial")
PRECISIONS = ("fp32", "bf16")
CLASSES = 102


def measure(name: str, batch: int, rounds: int) -> tuple[dict[str, float], float]:
    """Return the median seconds of a training step by precision, and the relative difference of the first losses."""
    settings = recipe(name).model
    trainable = resolved_trainable(settings.arch, tuple(settings.trainable))
    torch.manual_seed(0)
    model = create_model(settings.arch, CLASSES, trainable).to(memory_format=torch.channels_last)
    inputs = torch.randn(batch, 3, 192, 192).contiguous(memory_format=torch.channels_last)
    targets = torch.arange(batch) % CLASSES
    networks = {precision: copy.deepcopy(model) for precision in PRECISIONS}
    seconds: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    losses: dict[str, float] = {}
    for _ in range(rounds + 1):  # the first round warms up
        for precision, network in networks.items():
            train_mode(network, trainable)
            started = time.perf_counter()
            torch.manual_seed(1)
            loss = F.cross_entropy(forward(network, inputs, precision), targets)
            loss.backward()
            seconds[precision].append(time.perf_counter() - started)
            losses.setdefault(precision, loss.item())
    medians = {precision: statistics.median(values[1:]) for precision, values in seconds.items()}
    return medians, abs(losses["bf16"] / losses["fp32"] - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    use_cores()
    capability, native = torch.backends.cpu.get_cpu_capability(), "native" if has_native_bf16() else "no native"
    print(f"{device_name(torch.device('cpu'))}, {capability}, {native} bf16, {available_cores()} cores")
    print("| network | fp32, images/s | bf16, images/s | bf16 takes | difference of the loss |\n|---|---|---|---|---|")
    for name in MODELS:
        seconds, difference = measure(name, arguments.batch, arguments.rounds)
        rates = " | ".join(f"{arguments.batch / seconds[precision]:.1f}" for precision in PRECISIONS)
        print(f"| `{name}` | {rates} | {seconds['bf16'] / seconds['fp32']:.2f}x | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    main()
