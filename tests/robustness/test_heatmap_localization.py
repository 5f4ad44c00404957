"""Heatmaps under corruption: masks move as images do, and the evidence of a network that sees brightness is known."""

import numpy as np
import pytest
import torch
from torch import nn

from deepbloom.data.masks import Masks
from deepbloom.data.pixel_cache import Pixels
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.errors import ConfigError
from deepbloom.explain.targets import Network
from deepbloom.robustness import heatmaps
from deepbloom.robustness.corruptions import CORRUPTIONS, corrupt, corrupt_mask
from deepbloom.robustness.evaluate import CLEAN_CONDITION, Condition, Images

SIDE, COUNT = 32, 4
MASK = np.zeros((SIDE, SIDE), bool)
MASK[6:20, 10:18] = True


def test_a_mask_turns_with_its_image():
    """By 90 and 180 degrees: numpy's own turns, to either side."""
    quarter = corrupt_mask(MASK, "rotation", 3, 0, "a")
    assert any((quarter == np.rot90(MASK, turns)).all() for turns in (1, 3))
    assert (corrupt_mask(MASK, "rotation", 5, 0, "a") == np.rot90(MASK, 2)).all()


@pytest.mark.parametrize("name", [*CORRUPTIONS, "haze+rotation", "crop+jpeg"])
def test_a_white_object_on_black_is_where_its_mask_says(name):
    moves = any(CORRUPTIONS[part].moves for part in name.split("+"))
    mask = corrupt_mask(MASK, name, 2, 0, "a")
    assert (mask == MASK).all() != moves
    if name in ("rotation", "perspective", "crop", "crop+jpeg", "darkness", "jpeg"):
        image = np.where(MASK, 255, 0).astype(np.uint8)[:, :, None].repeat(3, 2)
        seen = corrupt(image, name, 2, 0, "a")[:, :, 0]
        assert ((seen > 100) == mask).mean() > 0.98


class Squares(Pixels):
    """A white object on black, in every image."""

    def read(self, indices: np.ndarray) -> np.ndarray:
        image = np.where(MASK, 255, 0).astype(np.uint8)[:, :, None].repeat(3, 2)
        return np.repeat(image[None], len(indices), axis=0)


class Brightness(nn.Module):
    """The logit of class 0 is the mean brightness, so its map is the brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 1, 1, bias=False)
        nn.init.constant_(self.features.weight, 1 / 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        mean = self.features(inputs).mean((2, 3))
        return torch.cat([mean, mean - 1], 1)


NETWORK = Network(
    "brightness", Brightness(), ("a", "b"), Preprocessing(SIDE, (0.0,) * 3, (1.0,) * 3), layers=("features",)
)
IMAGES = Images(Squares(), np.arange(COUNT), tuple("abcd"), np.zeros(COUNT, np.int64), "fingerprint")
MASKS = Masks(lambda index: MASK, "drawn")


def test_evidence_by_hand():
    wanted = [CLEAN_CONDITION, Condition("rotation", 2), Condition("gaussian_noise", 5), Condition("occlusion", 3)]
    clean, turned, noisy, covered = heatmaps.locate(NETWORK, IMAGES, MASKS, wanted, 0)
    assert clean["energy_inside"] == pytest.approx(1)
    assert (clean["pointing_hit"], clean["count"]) == (1, COUNT)
    assert clean["area_share"] == pytest.approx(MASK.mean())
    assert turned["energy_inside"] > 0.9
    for row in (noisy, covered):
        shares = []
        for name in IMAGES.image_ids:
            image = corrupt(Squares().read(np.arange(1))[0], row["corruption"], row["severity"], 0, name)
            brightness = image.mean(2)
            brightness -= brightness.min()
            shares.append(brightness[MASK].sum() / brightness.sum())
        assert row["energy_inside"] == pytest.approx(np.mean(shares), abs=1e-3)
        assert row["low"] <= row["energy_inside"] <= row["high"]


def test_a_mask_that_stays_would_miss_the_turned_object(monkeypatch):
    """Negative control."""
    monkeypatch.setattr(heatmaps, "corrupt_mask", lambda mask, *rest: mask)
    (turned,) = heatmaps.locate(NETWORK, IMAGES, MASKS, [Condition("rotation", 3)], 0)
    assert turned["energy_inside"] < 0.9


def test_images_without_a_mask_are_left_out():
    some = Masks(lambda index: MASK if index % 2 else None, "a folder")
    assert heatmaps.choose_with_masks(IMAGES, some).image_ids == ["b", "d"]
    with pytest.raises(ConfigError, match="no test image has one"):
        heatmaps.choose_with_masks(IMAGES, Masks(lambda index: None, ""))
