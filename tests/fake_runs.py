"""Invented run directories: every file that the report reads, from a few numbers."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.special import ndtr, ndtri

TYPES = {"scratch_cnn": "from scratch", "mini_resnet": "from scratch", "resnet18_frozen": "frozen"}
PARAMETERS = {"scratch_cnn": 2_000_000, "mini_resnet": 4_000_000}


def write_run(
    folder: Path,
    model: str = "mini_resnet",
    seed: int = 0,
    accuracy: float = 0.8,
    num_images: int = 200,
    class_names: tuple[str, ...] = ("daisy", "iris", "lily", "poppy", "rose"),
    kind: str = "stratified",
    split: str = "a",
    epochs: int = 6,
    lr: float = 0.001,
    identity: dict[str, object] | None = None,
    **changes: object,
) -> Path:
    """Write a complete run whose images have a difficulty of their own, shared by all models of the split."""
    folder.mkdir(parents=True)
    correct = _write_predictions(folder, f"{model} {lr}", seed, accuracy, num_images, class_names, split)
    _write_history(folder, correct, epochs, seed)
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "train": {"epochs": epochs}}))
    total = PARAMETERS.get(model, 11_200_000)
    metrics = {
        "model": model,
        "training_type": TYPES.get(model, "partial"),
        "description": f"All about {model}.",
        "dataset": "synthetic",
        "data_split_kind": kind,
        "seed": seed,
        "epochs": epochs,
        "best_epoch": epochs,
        "device": "cpu",
        "device_name": "Some CPU",
        "precision": "fp32",
        "num_threads": 2,
        "weights": "none",
        "classes": list(class_names),
        "test": {
            "top1_accuracy": correct,
            "top5_accuracy": min(1.0, correct + 0.05),
            "macro_f1": correct - 0.01,
            "loss": 2.0 - 1.8 * correct,
            "count": num_images,
        },
        "val": {"top1_accuracy": correct, "loss": 0.4, "count": 80},
        "params": {"total": total, "trainable": total // 10 if "frozen" in model else total},
        "macs": 45 * total,
        "train_seconds": 12.5 * epochs + seed,
        "images_per_second": 210.5,
        "peak_memory_bytes": 900_000_000,
        "dataset_fingerprint": "d" * 64,
        "split_fingerprint": (split * 64)[:64],
        "versions": {"deepbloom": "0.1.0", "torch": "2.10.0", "python": "3.12.1"},
        "git_commit": None,
        "identity": {
            "recipe_version": 1,
            "model.arch": model,
            "model.weights": "none",
            "optimizer.name": "adamw",
            "optimizer.lr": lr,
            "train.epochs": epochs,
            "train.precision": "fp32",
            "train.feature_copies": 4,
            "data.split.kind": kind,
            "dataset_fingerprint": "d" * 64,
            "split_fingerprint": (split * 64)[:64],
            "seed": seed,
        }
        | (identity or {}),
    } | changes
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def _write_predictions(
    folder: Path, model: str, seed: int, accuracy: float, num_images: int, class_names: tuple[str, ...], split: str
) -> float:
    images = np.random.default_rng([ord(c) for c in split])
    targets = np.arange(num_images) % len(class_names)
    difficulty = images.normal(size=num_images) + 0.4 * (targets == 1)
    rng = np.random.default_rng([seed, *(ord(c) for c in model)])
    struggle = difficulty + rng.normal(scale=0.6, size=num_images)
    reached = accuracy + rng.normal(scale=0.004)
    can = np.sqrt(1 + 0.6**2) * ndtri(np.clip(reached, 0.01, 0.99))
    correct = struggle <= can
    step = 1 + rng.geometric(0.6, num_images) % (len(class_names) - 1)
    predictions = np.where(correct, targets, (targets + step) % len(class_names))
    confidences = np.clip(ndtr((can - difficulty) / 0.4), 1 / len(class_names), 1)  # 0.6 would be calibrated
    with open(folder / "predictions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", "target", "prediction", "confidence", "top5"])
        for index in range(num_images):
            top5 = " ".join(str((predictions[index] + i) % len(class_names)) for i in range(min(5, len(class_names))))
            row = [f"{class_names[targets[index]]}/{index:04d}", targets[index], predictions[index]]
            writer.writerow([*row, f"{confidences[index]:.6f}", top5])
    return float(correct.mean())


def _write_history(folder: Path, correct: float, epochs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with open(folder / "history.csv", "w", newline="") as file:
        writer = csv.writer(file)
        file.write("epoch,train_loss,train_accuracy,val_loss,val_accuracy,lr,seconds,images_per_second\n")
        for epoch in range(1, epochs + 1):
            reached = correct * (1 - np.exp(-3 * epoch / epochs)) + rng.normal(scale=0.01)
            row = [epoch, 2 - 1.8 * reached, min(1.0, reached + 0.03), 2.1 - 1.7 * reached, min(1.0, reached)]
            writer.writerow([*row, 0.001, 12.5, 210.5])


@pytest.fixture(name="write_run", scope="session")
def _write_run() -> Callable[..., Path]:
    """Return `write_run`."""
    return write_run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Return a function ``make_run(name, **settings)`` that writes a run into ``tmp_path / "runs" / name``."""
    return lambda name, /, **settings: write_run(tmp_path / "runs" / name, **settings)
