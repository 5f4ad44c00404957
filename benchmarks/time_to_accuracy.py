"""Seconds from cold until a test accuracy is reached: DeepBloom beside the plain loop, same network, weights and split.

    python benchmarks/time_to_accuracy.py --folder IMAGES --epochs 5

DeepBloom trains once, from empty caches, with ``--epochs`` and ``--copies`` that were chosen beforehand on a validation
split. All of its run counts, from the start of the process to its last file, and its accuracy is the one it then
reports. The plain loop has the same network with a new classifier as `nn.Linear` draws it. It is tested after every
epoch, without that time being counted, and stops when it has got there.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path

import torch
from alternatives import BATCH, LR, trained_parameters
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from training_speed import timed

from deepbloom import recipe
from deepbloom.config.data_settings import DataConfig, SplitConfig
from deepbloom.data.sources import load_source
from deepbloom.data.split import make_split
from deepbloom.models.registry import create_model, get_architecture


def run_deepbloom(model: str, folder: Path, epochs: int, copies: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        command = ["-m", "deepbloom", "train", f"model={model}", "data=imagefolder", f"data.root={folder}"]
        command += [f"train.epochs={epochs}", f"train.batch_size={BATCH}", f"output_dir={run}"]
        command += [f"train.feature_copies={copies}"]
        seconds, _ = timed(command, Path(name) / "cache")
        training = re.search(r"(\d+) train,", (run / "train.log").read_text())[1]
        metrics = json.loads((run / "metrics.json").read_text())
    return {
        "seconds": round(seconds, 1),
        "epochs": epochs,
        "training_images": int(training),
        "validation_accuracy": metrics["val"]["top1_accuracy"],
        "test_accuracy": metrics["test"]["top1_accuracy"],
    }


def run_plain(name: str, folder: Path, target: float, most_epochs: int) -> dict[str, object]:
    """Train by an ordinary loop until the target is reached; return its seconds, and the accuracy of every epoch."""
    started = time.perf_counter()
    torch.manual_seed(0)
    settings = recipe(name).model
    preprocessing = get_architecture(settings.arch).preprocessing
    means = preprocessing.mean, preprocessing.std
    ending = [transforms.ToTensor(), transforms.Normalize(*means)]
    resize = transforms.Resize((224, 224))
    augmented = transforms.Compose([resize, transforms.RandomHorizontalFlip(), transforms.RandomRotation(20), *ending])
    plain = transforms.Compose([resize, *ending])
    source = load_source(DataConfig("imagefolder", root=str(folder)))
    split = make_split(source, SplitConfig())
    folders = [ImageFolder(str(folder), transform) for transform in (augmented, plain)]
    assert folders[0].targets == source.targets.tolist()
    train = DataLoader(Subset(folders[0], split.train.tolist()), BATCH, shuffle=True)
    test = DataLoader(Subset(folders[1], split.test.tolist()), 64)
    model = create_model(settings.arch, len(source.class_names), settings.trainable, "imagenet")
    for path in get_architecture(settings.arch).head:
        model.get_submodule(path).reset_parameters()
    optimizer = torch.optim.Adam(trained_parameters(model), LR)
    seconds, accuracies = time.perf_counter() - started, []
    while len(accuracies) < most_epochs and max(accuracies, default=0.0) < target:
        started = time.perf_counter()
        model.train()
        for images, targets in train:
            loss = F.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seconds += time.perf_counter() - started
        model.eval()
        with torch.inference_mode():
            correct = sum(int((model(images).argmax(1) == targets).sum()) for images, targets in test)
        accuracies.append(round(correct / len(split.test), 4))
        print(f"plain loop: {accuracies[-1]} after {seconds:.0f} s", file=sys.stderr, flush=True)
    return {"seconds": round(seconds, 1), "test_accuracies": accuracies}


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="a folder of folders per class")
    parser.add_argument("--model", default="efficientnet_lite0_partial")
    parser.add_argument("--target", type=float, default=0.95)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--copies", type=int, default=0, help="train.feature_copies of DeepBloom")
    parser.add_argument("--most-epochs", type=int, default=12, help="when the plain loop gives up")
    args = parser.parse_args()
    own = run_deepbloom(args.model, args.folder, args.epochs, args.copies)
    print(json.dumps({"deepbloom": own}), flush=True)
    print(json.dumps({"plain": run_plain(args.model, args.folder, args.target, args.most_epochs)}))


if __name__ == "__main__":
    main()
