"""Scores under corruption, by hand."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deepbloom.data.pixel_cache import Pixels
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.engine.checkpoint import Trained
from deepbloom.engine.predictor import Predictor
from deepbloom.metrics import softmax
from deepbloom.robustness import evaluate
from deepbloom.robustness.evaluate import CLEAN_CONDITION, Condition, Images, Measured

NOISE, BLUR = Condition("gaussian_noise", 3), Condition("gaussian_blur", 3)
PLAIN = Preprocessing(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Shades(Pixels):
    """Image i is uniformly gray, darker than the middle for even i."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    @property
    def reads(self) -> int:
        return sum(self.counts)

    def read(self, indices: np.ndarray) -> np.ndarray:
        self.counts.append(len(indices))
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


class Meeting(Brightness):
    """Waits until two threads are in it, and notes how many threads each computes with."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = threading.Barrier(2, timeout=20)
        self.num_threads: set[int] = set()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.barrier.wait()
        self.num_threads.add(torch.get_num_threads())
        return super().forward(images)


class TurnTaking(Predictor):
    """Notes how many threads are in it at once."""

    inside, most = 0, 0

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        TurnTaking.inside += 1
        TurnTaking.most = max(TurnTaking.most, TurnTaking.inside)
        time.sleep(0.01)
        TurnTaking.inside -= 1
        return np.zeros((len(pixels), 2), np.float32)


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


def test_the_number_of_threads_does_not_change_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(128, 2)]
    network = Trained(("dark", "bright"), PLAIN, {"model": "small"}, nn.Sequential(*layers).eval())
    wanted, found = [CLEAN_CONDITION, NOISE, BLUR], []
    for count in (1, 3):
        monkeypatch.setattr(evaluate, "available_cores", lambda count=count: count)
        found.append(evaluate.run_network(network, images(Shades(), 75), wanted, 0, tmp_path, str(count)))
    for one, other in zip(*found, strict=True):
        assert list(one) == list(other) == wanted
        assert all((one[condition] == other[condition]).all() for condition in wanted)
    alone = softmax(network.logits(images(Shades(), 75).read(np.arange(75), NOISE, 0))).max(1)
    np.testing.assert_allclose(found[0][1][NOISE], alone, rtol=1e-5)
    assert len(np.unique(found[0][1][NOISE])) > 70  # each image has its own noise, so their order is tested


def test_a_network_on_the_cpu_computes_in_all_threads_at_once_with_a_core_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "available_cores", lambda: 2)
    network, before = Meeting(), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        trained = Trained(("dark", "bright"), PLAIN, {"model": "meeting"}, network)
        evaluate.run_network(trained, images(Shades(), 64), [NOISE], 0, tmp_path, "digest")
        assert network.num_threads == {1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_other_predictors_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "available_cores", lambda: 4)
    predictor = TurnTaking(("dark", "bright"), PLAIN, {"model": "turns"})
    evaluate.run_network(predictor, images(Shades(), 96), [NOISE], 0, tmp_path, "digest")
    assert TurnTaking.most == 1


def test_an_interruption_ends_all_threads_and_keeps_finished_conditions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, arrays: dict[str, np.ndarray], kept: Any = evaluate.files.write_arrays) -> None:
        if list(tmp_path.glob("*.npz")):
            raise KeyboardInterrupt
        kept(path, arrays)

    wanted, pixels, before = [CLEAN_CONDITION, NOISE, BLUR], Shades(), threading.active_count()
    monkeypatch.setattr(evaluate.files, "write_arrays", write)
    with pytest.raises(KeyboardInterrupt):
        evaluate.run_network(BRIGHTNESS, images(pixels), wanted, 0, tmp_path, "digest")
    assert threading.active_count() == before
    assert len(list(tmp_path.glob("*.npz"))) == 1
    monkeypatch.undo()
    pixels.counts.clear()
    resumed = evaluate.run_network(BRIGHTNESS, images(pixels), wanted, 0, tmp_path, "digest")
    assert pixels.reads == 2 * 6
    whole = evaluate.run_network(BRIGHTNESS, images(pixels), wanted, 0, tmp_path, "the same under another name")
    for part in (0, 1):
        assert list(resumed[part]) == list(whole[part])
        assert all((resumed[part][condition] == whole[part][condition]).all() for condition in wanted)


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
