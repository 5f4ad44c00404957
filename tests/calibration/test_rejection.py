"""Rejection: the guarantee holds over many validation sets, thresholds by hand, and what is not reachable is said."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import beta

from deepbloom.calibration.rejection import Rejection, assess, images_needed, risk_coverage


def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return confidences and whether each prediction is correct: about 94 % are, and confidence ranks them well."""
    confidences = 1 - rng.beta(0.4, 5, count)
    return confidences, rng.random(count) < chance(confidences)


def chance(confidences: np.ndarray) -> np.ndarray:
    return 1 - 1.2 * (1 - confidences) ** 1.2


@pytest.fixture(scope="module")
def true_accuracy() -> Callable[[float], float]:
    """Accuracy of all predictions above a threshold, of very many."""
    confidences = np.sort(draw(np.random.default_rng(99), 500_000)[0])[::-1]
    means = np.cumsum(chance(confidences)) / np.arange(1, len(confidences) + 1)
    return lambda threshold: float(means[max(0, int(np.searchsorted(-confidences, -threshold)) - 1)])


@pytest.mark.parametrize(("count", "target"), [(350, 0.95), (1500, 0.99)])
def test_the_guarantee_fails_in_at_most_five_percent_of_validation_sets(true_accuracy, count, target):
    rng = np.random.default_rng(count)
    found = [Rejection.from_validation(*draw(rng, count)).threshold(target) for _ in range(400)]
    chosen = [value for value in found if value is not None]
    broken = sum(true_accuracy(value) < target for value in chosen)
    assert len(chosen) > 20
    assert broken / 400 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)


def test_without_a_bound_the_guarantee_would_not_hold(true_accuracy):
    """Negative control: the lowest threshold at which validation itself reaches the target."""
    rng = np.random.default_rng(5)
    broken = 0
    for _ in range(100):
        confidences, correct = draw(rng, 1500)
        order = np.argsort(-confidences)
        best = np.flatnonzero(np.cumsum(correct[order]) / np.arange(1, 1501) >= 0.98)[-1]
        broken += true_accuracy(confidences[order][best]) < 0.98
    assert broken / 100 > 0.2


def test_thresholds_by_hand():
    """0.95 ** 59 is just below 5 %, so 59 correct ones are needed, and the 60th may be the first wrong one."""
    assert images_needed(0.95) == 59
    confidences = np.linspace(0.99, 0.5, 80)
    correct = np.arange(80) < 62
    rejection = Rejection.from_validation(confidences, correct)
    assert rejection.threshold(0.95) == confidences[62]
    assert rejection.coverage(confidences[62]) == 62 / 80
    all_correct = Rejection.from_validation(confidences, np.ones(80, bool))
    assert (all_correct.threshold(0.95), all_correct.coverage(-1.0)) == (-1.0, 1.0)


def test_the_bound_is_clopper_and_pearsons():
    rng = np.random.default_rng(1)
    confidences, correct = draw(rng, 350)
    rejection = Rejection.from_validation(confidences, correct)
    threshold = rejection.threshold(0.95)
    accepted = confidences > threshold
    right, total = int(correct[accepted].sum()), int(accepted.sum())
    assert beta.ppf(0.05 / 2, right, total - right + 1) >= 0.95 or beta.ppf(0.05, right, total - right + 1) >= 0.95


def test_too_few_or_too_many_wrong_have_no_threshold_and_say_what_is_reachable():
    few = Rejection.from_validation(np.linspace(1, 0.5, 298), np.ones(298, bool))
    assert few.threshold(0.99) is None
    assert few.reachable() == 0.985
    wrong = Rejection.from_validation(np.linspace(1, 0.5, 500), np.zeros(500, bool))
    assert wrong.reachable() is None
    assert Rejection.from_validation(np.zeros(0), np.zeros(0, bool)).threshold(0.6) is None


def test_equal_confidences_are_accepted_or_rejected_together():
    correct = np.ones(100, bool)
    correct[70:] = False
    rejection = Rejection.from_validation(np.r_[np.full(60, 0.9), np.full(40, 0.8)], correct)
    assert rejection.threshold(0.95) == pytest.approx(0.8)
    assert Rejection.from_validation(np.full(100, 0.9), correct).threshold(0.95) is None


def test_the_header_holds_all_of_it():
    rejection = Rejection.from_validation(*draw(np.random.default_rng(2), 400))
    again = Rejection.read({"rejection": rejection.as_header()})
    assert again is not None
    np.testing.assert_array_equal(again.confidences, rejection.confidences)
    np.testing.assert_array_equal(again.correct, rejection.correct)
    assert Rejection.read({}) is None


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        "x",
        {"confidences": [0.5], "correct": "11", "unlike": "00", "limit": 1},
        {"confidences": [1.5], "correct": "1", "unlike": "0", "limit": 1},
        {"confidences": [0.5], "correct": "2", "unlike": "0", "limit": 1},
        {"confidences": [0.5], "correct": "1", "unlike": "0"},
        {"confidences": [0.5], "correct": "1", "unlike": "0", "limit": "near"},
        {"confidences": [0.5], "correct": "1", "unlike": "0", "limit": float("nan")},
        {"confidences": ["a"], "correct": "1", "unlike": "0", "limit": 1},
        {"confidences": [0.5, 0.6], "correct": "11", "unlike": "00", "limit": 1},
        {"confidences": [float("nan")], "correct": "1", "unlike": "0", "limit": 1},
    ],
)
def test_a_damaged_header_is_refused(content):
    with pytest.raises(ValueError, match="validation confidences"):
        Rejection.read({"rejection": content})


def test_images_unlike_training_are_left_out_and_rejected():
    unlike = np.arange(100) % 10 == 0
    rejection = Rejection.from_validation(np.linspace(1, 0.5, 100), ~unlike, unlike * 0.5, 0.4)
    assert rejection.threshold(0.95) is None
    assert rejection.of_alike().threshold(0.95) == -1
    again = Rejection.read({"rejection": rejection.as_header()})
    assert again is not None
    assert (again.limit, again.unlike.sum()) == (0.4, 10)
    found = assess(np.full(3, 0.9), np.array([True, True, False]), np.array([0.1, 0.4, 0.41]), rejection)
    assert found["threshold"] is None
    of_all = Rejection.from_validation(np.linspace(1, 0.5, 400), np.ones(400, bool), np.zeros(400), 0.4)
    found = assess(np.full(3, 0.9), np.array([True, True, False]), np.array([0.1, 0.4, 0.41]), of_all)
    assert (found["accepted"], found["accuracy"]) == (2, 1.0)


def test_risk_and_coverage_by_hand():
    coverage, risk = risk_coverage(np.array([0.5, 0.9, 0.7, 0.7]), np.array([False, True, False, True]))
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk == pytest.approx([0, 0.25, 1 / 3, 0.5])


def test_test_images_are_assessed_with_the_threshold_of_validation():
    rejection = Rejection.from_validation(np.linspace(1, 0.5, 400), np.arange(400) < 320)
    confidences, correct = np.array([0.99, 0.95, 0.7, 0.55]), np.array([True, True, True, False])
    found = assess(confidences, correct, np.zeros(4), rejection)
    assert (found["coverage"], found["accepted"], found["accuracy"]) == (0.75, 3, 1.0)
    assert found["area_under_risk_coverage"] == pytest.approx(1 / 16)
    few = assess(confidences, correct, np.zeros(4), Rejection.from_validation(np.ones(10), np.ones(10, bool)))
    assert (few["threshold"], few["coverage"], few["accuracy"]) == (None, 0.0, None)
    assert few["reachable_target"] == 0.74
