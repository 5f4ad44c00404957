"""Whole training runs from cold, DeepBloom beside what people use instead, on the same images and cores.

    python benchmarks/training_speed.py --folder IMAGES --images 640 --output benchmarks/training_speed.json

``IMAGES`` holds a folder of images per class. DeepBloom's run is timed whole, from the start of the process, with
empty caches, to its last file: decoding, the frozen part, every epoch with validation, the test. It takes the network's
own recipe, with its epochs, batches and train resolutions (``--override train.epochs=20 augment=flip_rotate`` changes
them). Each alternative is timed from the start of its process over a few steps, and the rest of ``--epochs`` over the
same training images is added at that pace: they are all alike, and it neither validates nor tests. The alternatives
train on images of 224 pixels. In each turn they are measured before and after DeepBloom's run, which gives two ratios.
Weights are random: speed does not depend on them. Without AVX-512 and bf16: ``ONEDNN_MAX_CPU_ISA=AVX2
ATEN_CPU_CAPABILITY=avx2`` and ``--override train.precision=fp32``.
"""

import argparse
import csv
import itertools
import json
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from deepbloom import recipe
from deepbloom.cost import count_macs
from deepbloom.device import available_cores, device_name, use_cores
from deepbloom.engine.precision import autocast
from deepbloom.models.cutting import cut
from deepbloom.models.freezing import train_mode
from deepbloom.models.registry import create_model, resolved_trainable

MODELS = (
    "resnet18_frozen",
    "resnet18_partial",
    "efficientnet_b0_partial",
    "efficientnet_lite0_partial",
    "mini_resnet",
    "scratch_cnn",
)
WAYS = ("plain", "lightning", "timm")
BATCH, MIN_PER_CLASS = 32, 10


def choose_images(folder: Path, count: int, target: Path) -> int:
    """Link about ``count`` images, the same number of each class, into ``target``; return how many there are."""
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    classes = random.Random(0).sample(classes, max(1, min(len(classes), count // MIN_PER_CLASS)))
    linked = 0
    for entry in classes:
        (target / entry.name).mkdir(parents=True)
        for image in sorted(entry.iterdir())[: max(MIN_PER_CLASS, count // len(classes))]:
            (target / entry.name / image.name).symlink_to(image.resolve())
            linked += 1
    return linked


def timed(command: list[str], cache: Path) -> tuple[float, str]:
    """Run a command with ``cache`` as DeepBloom's cache folder; return its seconds and output."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env=os.environ | {"DEEPBLOOM_CACHE": str(cache)},
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - started, done.stdout


def run_deepbloom(model: str, folder: Path, overrides: list[str], work: Path) -> dict[str, Any]:
    """Train from cold; return the seconds of the whole run, and what the run says of itself."""
    run, cache = work / "run", work / "cache"
    shutil.rmtree(run, ignore_errors=True)
    shutil.rmtree(cache, ignore_errors=True)
    command = ["-m", "deepbloom", "train", f"model={model}", "model.weights=none", "data=imagefolder"]
    command += [f"data.root={folder}", f"output_dir={run}", *overrides]
    seconds, _ = timed(command, cache)
    metrics = json.loads((run / "metrics.json").read_text())
    with open(run / "history.csv", newline="") as file:
        rates = [float(row["images_per_second"]) for row in csv.DictReader(file)]
    sides = metrics["train_resolutions"]
    return {
        "seconds": seconds,
        "training_images": int(re.search(r"(\d+) train,", (run / "train.log").read_text())[1]),
        "training_seconds": metrics["train_seconds"],
        "sides": sides,
        "epochs": metrics["epochs"],
        "images_per_second": statistics.median(rates[-(len(rates) // len(sides)) :]),  # at the last of the sides
        "precision": metrics["precision"],
        "copies": metrics["feature_copies"],
    }


@dataclass(frozen=True)
class Pace:
    """How fast an alternative is: measured over its start and a few steps."""

    seconds: float
    steps: int
    step_seconds: float

    def whole_run(self, steps: float) -> float:
        """Return the seconds of a run of so many steps: its start as measured, the rest at the pace of those timed."""
        return self.seconds + (steps - self.steps) * self.step_seconds


def run_alternative(way: str, model: str, folder: Path, steps: int, work: Path) -> Pace:
    script = Path(__file__).with_name("alternatives.py")
    command = [str(script), way, "--folder", str(folder), "--model", model, "--steps", str(steps)]
    seconds, output = timed(command, work / "cache")
    return Pace(seconds, steps + 1, json.loads(output.splitlines()[-1])["step_seconds"])


def limits(model: str, precision: str, side: int, classes: int) -> dict[str, float]:
    """Return how fast this machine trains on tensors in memory, and its matrix product at the same precision.

    Of a network with a frozen part, only the rest is trained, as in a run.
    """
    use_cores()
    device, config = torch.device("cpu"), recipe(model)
    settings, batch = config.model, config.train.batch_size
    trainable = resolved_trainable(settings.arch, tuple(settings.trainable))
    network = create_model(settings.arch, classes, trainable).to(memory_format=torch.channels_last)
    inputs = torch.randn(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
    parts = cut(network, trainable, inputs[:1])
    train_mode(network, trainable)
    macs, tail = count_macs(network, side), network
    if parts:
        macs, tail = macs - count_macs(parts.prefix, side), parts.tail
        with torch.no_grad():
            inputs = parts.prefix(inputs).clone()
    targets = torch.randint(classes, (batch,))
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 1e-3, fused=True)

    def step() -> None:
        with autocast(device, precision):
            logits = tail(inputs)
        loss = torch.nn.functional.cross_entropy(logits.float(), targets, label_smoothing=0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    seconds = seconds_each(step)
    matrix = torch.randn(2048, 2048, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    product = 2 * 2048**3 / seconds_each(lambda: matrix @ matrix)
    flops = 2 * 3 * macs * batch / seconds  # forward, and twice as much backward
    return {"in_memory_images_per_second": batch / seconds, "flops": flops, "matrix_product_flops": product}


def seconds_each(work: Callable[[], object], at_least: float = 3.0) -> float:
    """Run ``work`` again and again; return the median of its seconds."""
    work()
    ends = [time.perf_counter()]
    while ends[-1] - ends[0] < at_least or len(ends) < 4:
        work()
        ends.append(time.perf_counter())
    return statistics.median(after - before for before, after in itertools.pairwise(ends))


def measure(model: str, folder: Path, args: argparse.Namespace, work: Path) -> dict[str, object]:
    """Run DeepBloom and the alternatives in turn."""
    turns = []
    for turn in range(args.repeats):
        before = {way: run_alternative(way, model, folder, args.steps, work) for way in args.ways}
        own = run_deepbloom(model, folder, args.override, work)
        after = {way: run_alternative(way, model, folder, args.steps, work) for way in args.ways}
        limit = limits(model, own["precision"], own["sides"][-1], sum(1 for _ in folder.iterdir()))
        steps = args.epochs * own["training_images"] / BATCH
        others = {way: [pace.whole_run(steps) for pace in (before[way], after[way])] for way in args.ways}
        turns.append({"deepbloom": own, "limit": limit, **others})
        ratios = ", ".join(f"{way} {mean(seconds) / own['seconds']:.1f}x" for way, seconds in others.items())
        print(f"{model}, turn {turn + 1}: {own['seconds']:.0f} s; {ratios}", file=sys.stderr, flush=True)
    return {"model": model, "turns": turns}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="a folder of images per class")
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--epochs", type=int, default=20, help="epochs of the alternatives")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each alternative")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--override", nargs="*", default=[], help="settings of DeepBloom, such as augment=flip_rotate")
    parser.add_argument("--output", type=Path, default=Path("training_speed.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        images = choose_images(args.folder, args.images, work / "images")
        machine = {
            "processor": device_name(torch.device("cpu")),
            "cores": available_cores(),
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
        }
        results: list[dict[str, object]] = []
        for model in args.models:
            results.append(measure(model, work / "images", args, work))
            content = {
                "machine": machine,
                "images": images,
                "epochs": args.epochs,
                "override": args.override,
                "results": results,
            }
            args.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
