"""How time and memory of a run grow with images and classes, and a training step with resolution.

    python benchmarks/scaling.py --model scratch_cnn

Trains on drawn flowers from empty caches and prints Markdown tables. Anonymous memory is what the process itself
holds; resident memory also counts the pages of the mapped caches, which the system takes back when it needs them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from training_speed import BATCH, seconds_each

from deepbloom import recipe
from deepbloom.device import use_cores
from deepbloom.models.registry import create_model, get_architecture

RUNS = ((10, 25), (10, 50), (10, 100), (10, 200), (40, 25), (80, 25))  # classes, images of each


def peak_anonymous(process: subprocess.Popen) -> int:
    """Wait for a process to end; return the largest anonymous memory that it was seen with, in bytes."""
    status, peak = Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None:
        for line in status.read_text().splitlines():
            if line.startswith("RssAnon"):
                peak = max(peak, int(line.split()[1]) * 1024)
        time.sleep(0.05)
    return peak


def run(model: str, classes: int, each: int, epochs: int) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        command = [sys.executable, "-m", "deepbloom", "train", f"model={model}", f"output_dir={folder}"]
        command += [f"data.num_classes={classes}", f"data.images_per_class={each}", f"train.epochs={epochs}"]
        command += ["model.weights=none", "train.precision=fp32"]
        started = time.perf_counter()
        environment = os.environ | {"DEEPBLOOM_CACHE": str(Path(name) / "cache")}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        anonymous = peak_anonymous(process)
        seconds = time.perf_counter() - started
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed")
        metrics = json.loads((folder / "metrics.json").read_text())
        cache = sum(path.stat().st_size for path in (Path(name) / "cache").rglob("*") if path.is_file())
    cells = [
        f"{classes * each:,}",
        str(classes),
        f"{seconds:.0f} s",
        f"{metrics['train_seconds']:.0f} s",
        f"{anonymous / 1e6:.0f} MB",
        f"{metrics['peak_memory_bytes'] / 1e6:.0f} MB",
        f"{cache / 1e6:.0f} MB",
    ]
    return f"| {' | '.join(cells)} |"


def step_rate(model: str, side: int) -> float:
    """Return images/s of a training step of the whole network in fp32, on images in memory."""
    network = create_model(recipe(model).model.arch, 102).to(memory_format=torch.channels_last).train()
    inputs = torch.randn(BATCH, 3, side, side).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(102, (BATCH,))

    def step() -> None:
        network.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(network(inputs), targets).backward()

    return BATCH / seconds_each(step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="scratch_cnn")
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()
    print("| images | classes | whole run | training | anonymous memory | resident memory | caches on disk |")
    print("|---" * 7 + "|")
    for classes, each in RUNS:
        print(run(args.model, classes, each, args.epochs), flush=True)
    use_cores()
    native = get_architecture(recipe(args.model).model.arch).preprocessing.size
    rates = ", ".join(f"{side}: {step_rate(args.model, side):.0f}" for side in (native // 2, native, 2 * native))
    print(f"\nImages/s of a training step by the images' side in pixels: {rates}")


if __name__ == "__main__":
    main()
