"""Ten of timm's networks that make sense on a laptop: parameters, multiply-accumulates and images/s of one thread.

Rates are images per second of processor time on images in memory, the best of several rounds, in fp32: of predictions,
and of training steps where the classifier trains (without the feature cache, which computes the rest only once) and
where the last two blocks train as well, the default of ``model=timm``. Weights are random, so nothing is downloaded.

    python benchmarks/networks.py --batch 16 --rounds 3
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from deepbloom.cost import count_macs
from deepbloom.device import device_name, use_cores
from deepbloom.models.freezing import count_parameters, train_mode
from deepbloom.models.registry import create_model, get_architecture, resolved_trainable

NETWORKS = (
    "mobilenetv3_small_100",
    "levit_128s",
    "mobilenetv4_conv_small",
    "mobilenetv3_large_100",
    "regnetx_004",
    "convnext_atto",
    "fastvit_t8",
    "tf_efficientnetv2_b0",
    "resnet10t",
    "deit_tiny_patch16_224",
)
CLASSES = 102


def best_rate(step: Callable[[], None], images: int, rounds: int) -> float:
    """Return the images per second of processor time of the fastest round; one before them warms up."""
    seconds = []
    for _ in range(rounds + 1):
        started = time.process_time()
        step()
        seconds.append(time.process_time() - started)
    return images / min(seconds[1:])


def prediction_rate(name: str, inputs: torch.Tensor, rounds: int) -> float:
    model = create_model(name, CLASSES).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def step() -> None:
        model(inputs)

    return best_rate(step, len(inputs), rounds)


def training_rate(name: str, trainable: str, inputs: torch.Tensor, rounds: int) -> float:
    paths = resolved_trainable(name, (trainable,))
    model = create_model(name, CLASSES, paths).to(memory_format=torch.channels_last)
    train_mode(model, paths)
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad])
    targets = torch.arange(len(inputs)) % CLASSES

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return best_rate(step, len(inputs), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    use_cores(1)
    print(f"{device_name(torch.device('cpu'))}, {torch.backends.cpu.get_cpu_capability()}, one thread, fp32")
    print("| `model.arch` | pixels | parameters, M | MACs, M | predict | train `head` | train `last:2` |")
    print("|---|---|---|---|---|---|---|")
    for name in NETWORKS:
        size = get_architecture(name).preprocessing.size
        torch.manual_seed(0)
        inputs = torch.randn(arguments.batch, 3, size, size).contiguous(memory_format=torch.channels_last)
        model = create_model(name, CLASSES)
        rates = [prediction_rate(name, inputs, arguments.rounds)]
        rates += [training_rate(name, trainable, inputs, arguments.rounds) for trainable in ("head", "last:2")]
        counts = f"{count_parameters(model)['total'] / 1e6:.1f} | {count_macs(model, size) / 1e6:.0f}"
        print(f"| `{name}` | {size} | {counts} | {' | '.join(f'{rate:.0f}' for rate in rates)} |", flush=True)


if __name__ == "__main__":
    main()
