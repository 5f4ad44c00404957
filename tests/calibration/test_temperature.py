"""Temperature scaling: the right temperature, scores by independent formulas, and predictions that never change."""

import numpy as np
import pytest
from scipy.special import softmax

from deepbloom.calibration.temperature import COLDEST, HOTTEST, assess, fit_temperature, read_temperature
from deepbloom.metrics import expected_calibration_error
from deepbloom.metrics import softmax as calibrated


def draw(count: int, temperature: float, seed: int = 0, classes: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and targets for which ``temperature`` is right: targets follow softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, classes))
    chances = softmax(logits, axis=1).cumsum(1)
    return logits * temperature, (rng.random((count, 1)) > chances).sum(1).clip(max=classes - 1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_temperature_that_made_the_targets_is_found(temperature):
    assert fit_temperature(*draw(20_000, temperature)) == pytest.approx(temperature, rel=0.03)


def test_no_other_temperature_has_a_lower_loss():
    logits, targets = draw(400, 0.6)
    found = fit_temperature(logits, targets)

    def loss(temperature):
        return -np.log(calibrated(logits, temperature)[np.arange(400), targets]).mean()

    grid = np.geomspace(COLDEST, HOTTEST, 2000)
    assert loss(found) == pytest.approx(min(map(loss, grid)), abs=1e-4)
    assert loss(found) < loss(1.0)


def test_validation_without_an_error_gives_no_certainty():
    for count in (3, 30):
        logits = np.eye(4)[np.arange(count) % 4] * 2
        temperature = fit_temperature(logits, np.arange(count) % 4)
        assert COLDEST < temperature < 2
        assert 1 - calibrated(logits, temperature).max() > 0.1 / (count + 1)


def test_no_image_leaves_confidences_as_they_are():
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, int)) == 1


def test_the_fit_is_deterministic_and_bounded():
    logits, targets = draw(50, 1.0)
    assert fit_temperature(logits, targets) == fit_temperature(logits, targets)
    assert fit_temperature(1e6 * logits, targets) == pytest.approx(HOTTEST, rel=1e-3)
    assert fit_temperature(1e-6 * logits, targets) == pytest.approx(COLDEST, rel=1e-3)


def test_predictions_and_their_order_stay():
    logits, _ = draw(200, 1.0)
    for temperature in (0.3, 3.0):
        assert (calibrated(logits, temperature).argsort(1) == logits.argsort(1)).all()


def test_scores_before_and_after():
    logits, targets = draw(3000, 0.4)
    found = assess(logits, targets, 0.4)
    probabilities = softmax(logits / 0.4, axis=1)
    own = probabilities[np.arange(3000), targets]
    after = found["after"]
    assert found["temperature"] == 0.4
    assert after["nll"]["value"] == pytest.approx(-np.log(own).mean())
    brier = ((probabilities - np.eye(8)[targets]) ** 2).sum(1).mean()
    assert after["brier"]["value"] == pytest.approx(brier)
    error = expected_calibration_error(probabilities.max(1), probabilities.argmax(1) == targets)
    assert after["expected_calibration_error"]["value"] == pytest.approx(error)
    for name in ("expected_calibration_error", "nll", "brier"):
        assert after[name]["low"] <= after[name]["value"] <= after[name]["high"]
        assert after[name]["value"] < found["before"][name]["value"]
    spread = np.std(-np.log(own)) / np.sqrt(3000)
    assert after["nll"]["high"] - after["nll"]["low"] == pytest.approx(2 * 1.96 * spread, rel=0.1)


@pytest.mark.parametrize("value", [0, -1, "1", True, float("nan"), float("inf"), None, [1.0], 1e9])
def test_a_temperature_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match="temperature"):
        read_temperature({"temperature": value})


def test_a_file_without_a_temperature_has_one():
    assert read_temperature({}) == 1
    assert read_temperature({"temperature": 2}) == 2
