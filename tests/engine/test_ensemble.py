"""The mean of probabilities, by hand, with predictors that are no networks."""

from dataclasses import dataclass

import numpy as np
import pytest

from deepbloom.data.preprocessing import Preprocessing
from deepbloom.engine.ensemble import Ensemble, Mirrored
from deepbloom.engine.predictor import Predictor
from deepbloom.errors import CheckpointError
from deepbloom.metrics import softmax

CLASSES = ("left", "right")


@dataclass(frozen=True)
class Bright(Predictor):
    """Its logits are the sums of the left and the right half of the image, times ``scale``."""

    scale: float = 1.0

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        middle = pixels.shape[2] // 2
        halves = [pixels[:, :, :middle], pixels[:, :, middle:]]
        return self.scale * np.stack([half.sum((1, 2, 3)) for half in halves], axis=1).astype(np.float32)


def bright(
    scale: float = 1.0, temperature: float = 1.0, classes: tuple[str, ...] = CLASSES, split: str = "a"
) -> Bright:
    header = {"model": "bright", "temperature": temperature, "dataset_fingerprint": "x", "split_fingerprint": split}
    return Bright(classes, Preprocessing(size=4), header, scale)


def ensemble(*members: Predictor) -> Ensemble:
    return Ensemble(tuple(f"run{number}" for number in range(len(members))), members)


def image() -> np.ndarray:
    pixels = np.zeros((1, 4, 4, 3), np.uint8)
    pixels[0, 0, 0, 0] = 2
    return pixels


def test_a_mirrored_predictor_gives_the_mean_of_both_sides() -> None:
    member = bright(temperature=2.0)
    assert member.probabilities(image())[0, 0] == pytest.approx(np.e / (np.e + 1))
    both = Mirrored(member.classes, member.preprocessing, member.header, member)
    np.testing.assert_allclose(both.probabilities(image()), [[0.5, 0.5]])
    lopsided = image()
    lopsided[0, 3, 3, 0] = 1
    expected = (member.probabilities(lopsided) + member.probabilities(lopsided[:, :, ::-1])) / 2
    np.testing.assert_allclose(both.probabilities(lopsided), expected, rtol=1e-6)


def test_an_ensemble_averages_calibrated_probabilities_and_not_logits() -> None:
    first, second = bright(scale=1.0), bright(scale=-3.0, temperature=2.0)
    both = ensemble(first, second)
    logits = both.average([member.logits(image()) for member in both.members])
    by_hand = (1 / (1 + np.exp(-2)) + 1 / (1 + np.exp(3))) / 2
    assert softmax(logits, both.temperature)[0, 0] == pytest.approx(by_hand, rel=1e-6)
    mean_of_logits = softmax((first.logits(image()) + second.logits(image())) / 2)[0, 0]
    assert abs(by_hand - mean_of_logits) > 0.1
    assert both.label == "ensemble of bright + bright"


def test_an_ensemble_of_one_is_that_one() -> None:
    member = bright(scale=2.0, temperature=3.0)
    alone = ensemble(member)
    logits = member.logits(image())
    assert alone.average([logits]) is logits
    assert (alone.temperature, alone.label) == (3.0, "bright")


def test_logits_far_apart_stay_finite_and_such_that_are_not_are_seen() -> None:
    far = ensemble(bright(scale=1000.0), bright(scale=1000.0))
    logits = far.average([member.logits(image()) for member in far.members])
    assert np.isfinite(logits).all()
    broken = ensemble(bright(scale=np.inf), bright())
    with np.errstate(invalid="ignore"):
        assert not np.isfinite(broken.average([member.logits(image()) for member in broken.members])).all()


def test_members_must_agree_on_classes_and_for_a_test_on_the_split() -> None:
    for classes in (("right", "left"), ("left", "right", "up")):
        with pytest.raises(CheckpointError, match="run1 does not tell the same classes apart as run0"):
            ensemble(bright(), bright(classes=classes))
    ensemble(bright(), bright()).check_same_split()
    with pytest.raises(CheckpointError, match="run1 was trained with other splits than run0"):
        ensemble(bright(), bright(split="b")).check_same_split()
