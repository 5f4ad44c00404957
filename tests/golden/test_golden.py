"""Every registered model trains to the values pinned in ``values.json``: the same settings give the same result.

Losses are compared on every machine. Weights are compared bit for bit where the machine is one whose digests are
pinned: processor capability and versions decide the last bits. When a change is meant to alter results, raise
``RECIPE_VERSION`` and run ``python tests/golden/test_golden.py`` to pin the new values.
"""

import csv
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.numpy import load_file

from deepbloom.cli.main import dispatch
from deepbloom.runs.identity import RECIPE_VERSION

VALUES = Path(__file__).with_name("values.json")
MODELS = (
    "scratch_cnn",
    "mini_resnet",
    "resnet18_frozen",
    "resnet18_partial",
    "efficientnet_b0_partial",
    "efficientnet_lite0_frozen",
    "efficientnet_lite0_partial",
)
ALIKE = ("mini_resnet", "resnet18_frozen", "efficientnet_b0_partial")
"""Trained as others are, with another network: `long`."""
SETTINGS = (
    "model.weights=none",
    "data.num_classes=3",
    "data.images_per_class=10",
    "train.epochs=2",
    "train.batch_size=8",
    "train.num_threads=1",
    "train.precision=fp32",
)
RELATIVE_TOLERANCE = 0.02


def machine() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{capability}, torch {torch.__version__}, torchvision {torchvision.__version__}, numpy {np.__version__}"


def train(model: str, folder: Path) -> dict[str, object]:
    """Train for six steps; return the losses of both epochs and a digest of the chosen weights."""
    dispatch(["train", f"model={model}", *SETTINGS, f"output_dir={folder}"])
    with open(folder / "history.csv", newline="") as file:
        history = list(csv.DictReader(file))
    digest = hashlib.sha256()
    for name, array in sorted(load_file(folder / "model.safetensors").items()):
        digest.update(name.encode() + array.tobytes())
    losses = {key: [float(row[key]) for row in history] for key in ("train_loss", "val_loss")}
    return {**losses, "weights": digest.hexdigest()[:16]}


def test_the_values_are_those_of_this_recipe_version():
    assert json.loads(VALUES.read_text())["recipe_version"] == RECIPE_VERSION


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=[pytest.mark.long] if name in ALIKE else []) for name in MODELS]
)
def test_training_gives_the_pinned_values(model, tmp_path):
    pinned = json.loads(VALUES.read_text())
    result = train(model, tmp_path / "run")
    for key in ("train_loss", "val_loss"):
        assert result[key] == pytest.approx(pinned["models"][model][key], rel=RELATIVE_TOLERANCE)
    weights = pinned["weights"].get(machine())
    if weights:
        assert result["weights"] == weights[model]


def pin() -> None:
    """Train every model and write ``values.json``; digests of other machines are dropped, since they are outdated."""
    if json.loads(VALUES.read_text())["recipe_version"] == RECIPE_VERSION:
        sys.exit(f"values.json already holds the values of RECIPE_VERSION {RECIPE_VERSION}: raise it to pin others.")
    with tempfile.TemporaryDirectory() as folder:
        results = {model: train(model, Path(folder, model)) for model in MODELS}
    weights = {machine(): {model: result.pop("weights") for model, result in results.items()}}
    content = {"recipe_version": RECIPE_VERSION, "models": results, "weights": weights}
    VALUES.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    pin()
