"""Scores under corruption, by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deepbloom.data.pixel_cache import Pixels
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.engine.checkpoint import Trained
from deepbloom.robustness import evaluate
from deepbloom.robustness.evaluate import CLEAN_CONDITION, Condition, Images, Measured

NOISE, BLUR = Condition("gaussian_noise", 3), Condition("gaussian_blur", 3)
PLAIN = Preprocessing(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Shades(Pixels):
    """Image i is uniformly gray, darker than the middle for even i."""

    reads = 0

    def read(self, indices: np.ndarray) -> np.ndarray:
        self.reads += len(indices)
        values = np.where(indices % 2 == 0, 60, 190).astype(np.uint8)
        return np.broadcast_to(values[:, None, None, None], (len(indices), 8, 8, 3)).copy()


class Brightness(nn.Module):
    """Calls an image bright if its mean is above one half."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright = self.scale * (images.mean((1, 2, 3)) - 0.5)
        return torch.stack([-bright, bright], 1)


BRIGHTNESS = Trained(("dark", "bright"), PLAIN, {"model": "brightness"}, Brightness())


def images(pixels: Shades, count: int = 6) -> Images:
    return Images(pixels, np.arange(count), tuple(map(str, range(count))), np.arange(count) % 2, "fingerprint")


def make(*correct: Any, name: str = "a") -> Measured:
    conditions = (CLEAN_CONDITION, NOISE, BLUR)
    table = {condition: np.array(row, bool) for condition, row in zip(conditions, correct, strict=True)}
    confidence = {condition: np.full(len(row), 0.75, np.float32) for condition, row in table.items()}
    return Measured(name, "file", table, confidence)


def test_a_network_is_measured_under_each_condition(tmp_path):
    wanted = [CLEAN_CONDITION, Condition("darkness", 5), Condition("brightness", 5)]
    correct, confidence = evaluate.run_network(BRIGHTNESS, images(Shades()), wanted, 0, tmp_path, "digest")
    assert correct[CLEAN_CONDITION].tolist() == [True] * 6
    assert correct[wanted[1]].tolist() == [True, False] * 3  # all are dark
    assert correct[wanted[2]].tolist() == [False, True] * 3
    assert all((values >= 0.5).all() and (values <= 1).all() for values in confidence.values())


def test_finished_conditions_are_not_measured_again_and_others_are(tmp_path):
    pixels = Shades()
    first = evaluate.run_network(BRIGHTNESS, images(pixels), [CLEAN_CONDITION, NOISE], 0, tmp_path, "digest")
    assert pixels.reads == 12
    again = evaluate.run_network(BRIGHTNESS, images(pixels), [CLEAN_CONDITION, NOISE], 0, tmp_path, "digest")
    assert pixels.reads == 12
    assert all((first[0][condition] == again[0][condition]).all() for condition in first[0])
    evaluate.run_network(BRIGHTNESS, images(pixels), [NOISE], 0, tmp_path, "of another network")
    evaluate.run_network(BRIGHTNESS, images(pixels), [NOISE], 1, tmp_path, "digest")
    evaluate.run_network(BRIGHTNESS, images(pixels, 4), [NOISE], 0, tmp_path, "digest")
    assert pixels.reads == 12 + 6 + 6 + 4


@pytest.mark.parametrize("content", [b"", b"PK broken", None])
def test_a_damaged_result_is_measured_again(content, tmp_path):
    pixels = Shades()
    evaluate.run_network(BRIGHTNESS, images(pixels), [NOISE], 0, tmp_path, "digest")
    (path,) = tmp_path.glob("*.npz")
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    evaluate.run_network(BRIGHTNESS, images(pixels), [NOISE], 0, tmp_path, "digest")
    assert pixels.reads == 12


def test_summary_by_hand():
    found = evaluate.summarize(make([1, 1, 1, 0], [1, 0, 1, 0], [1, 0, 0, 0]))
    assert found["clean"]["top1_accuracy"] == 0.75
    assert [row["top1_accuracy"] for row in found["conditions"]] == [0.5, 0.25]
    assert found["mean_corruption_accuracy"]["value"] == pytest.approx(3 / 8)
    assert found["relative_loss"] == pytest.approx(0.5)
    assert found["mean_calibration_error"] == pytest.approx((0.25 + 0.5) / 2)
    low, high = (found["mean_corruption_accuracy"][name] for name in ("low", "high"))
    assert 0 <= low < 3 / 8 < high <= 1


def test_classes_that_lose_most_come_first_and_others_are_left_out():
    network = make([1, 1, 1, 1, 0, 0], [0, 0, 1, 0, 1, 0], [0, 0, 1, 1, 1, 0])
    rows = evaluate.suffering_classes(network, np.array([2, 2, 0, 0, 1, 1]), ["a", "b", "c"])
    assert [(row["class_name"], row["clean"], row["corrupted"], row["count"]) for row in rows] == [
        ("c", 1.0, 0.0, 2),
        ("a", 1.0, 0.75, 2),
    ]


def test_networks_are_compared_on_the_same_images():
    rng = np.random.default_rng(0)
    base = rng.random(400) < 0.7
    worse = base & (rng.random(400) < 0.85)
    rows = [make([1] * 400, base, base, name="a"), make([1] * 400, worse, worse, name="b")]
    (pair,) = evaluate.compare_all(rows)
    expected = (base.mean() - worse.mean()).item()
    assert pair["difference"] == pytest.approx(expected)
    assert 0 < pair["low"] < expected < pair["high"]
    (same,) = evaluate.compare_all([rows[0], rows[0]])
    assert same["difference"] == 0
    assert same["low"] < 0 < same["high"]


def test_equal_networks_are_rarely_called_different():
    """Three networks with equal accuracies and independent errors: at most 6 % of families have a false difference."""
    rng, families = np.random.default_rng(1), 400
    false = 0
    for _ in range(families):
        networks = [make([1] * 200, *(rng.random((2, 200)) < 0.6)) for _ in range(3)]
        false += any(pair["low"] > 0 or pair["high"] < 0 for pair in evaluate.compare_all(networks))
    assert false / families <= 0.06
