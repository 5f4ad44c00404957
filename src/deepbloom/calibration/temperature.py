"""Temperature scaling: confidences that mean what they say.

Guo et al. 2017, https://arxiv.org/abs/1706.04599. One number divides all logits, so neither predictions nor the
order of classes change.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepbloom.metrics import bin_by_confidence, brier_scores, cross_entropies, softmax, top_classes

COLDEST, HOTTEST = 0.05, 20.0
"""Bounds of the temperature."""
ERROR_WEIGHT = 0.5
"""Weight of one more, misclassified image, so that a validation split without errors does not give certainty."""
MEASURES = ("expected_calibration_error", "nll", "brier")
RESAMPLES, RESAMPLED_VALUES = 1000, 10_000_000
"""Bootstrap samples, and the most values they may hold together: with many images there are fewer samples."""

Floats = NDArray[np.float64]


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """Return the temperature that minimizes the negative log-likelihood of held-out images.

    The loss is convex in 1/T, so there is one minimum, found without random numbers. One more average image, whose
    second class is the true one, counts with `ERROR_WEIGHT`: without errors the likelihood has no maximum.

    Parameters
    ----------
    logits : ndarray, shape (N, C), finite
    targets : ndarray of int, shape (N,)

    Returns
    -------
    float in [`COLDEST`, `HOTTEST`]
        1 without images.
    """
    from scipy.optimize import minimize_scalar

    if not len(targets):
        return 1.0
    logits = logits.astype(np.float64)
    second = top_classes(logits, 2)[:, -1]

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        likelihood, error = cross_entropies(scaled, targets).sum(), cross_entropies(scaled, second).mean()
        return float(likelihood + ERROR_WEIGHT * error)

    bounds = (math.log(COLDEST), math.log(HOTTEST))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def read_temperature(header: Mapping[str, Any]) -> float:
    """Return the temperature in the header of a model file; 1 where it has none.

    Raises
    ------
    ValueError
        It is not a number between the bounds.
    """
    value = header.get("temperature", 1.0)
    if type(value) not in (int, float) or not COLDEST <= value <= HOTTEST:
        raise ValueError(f"its temperature is {value!r:.40}, not a number from {COLDEST} to {HOTTEST:g}")
    return float(value)


def assess(logits: np.ndarray, targets: np.ndarray, temperature: float) -> dict[str, Any]:
    """Return calibration before and after the temperature: ``test.calibration`` in metrics.json.

    Parameters
    ----------
    logits : ndarray, shape (N, C)
    targets : ndarray of int, shape (N,)
    temperature : float

    Returns
    -------
    dict
        ``temperature``, and in ``before`` and ``after``: ``expected_calibration_error``, ``nll`` (nats) and ``brier``,
        each with ``value`` and the ends of a 95 % interval, ``low`` and ``high``: basic bootstrap over images (Davison
        and Hinkley 1997, section 5.2).
    """
    return {
        "temperature": temperature,
        "before": _score(softmax(logits), targets),
        "after": _score(softmax(logits, temperature), targets),
    }


def _score(probabilities: Floats, targets: np.ndarray) -> dict[str, dict[str, float]]:
    bins = bin_by_confidence(probabilities.max(1), probabilities.argmax(1) == targets)
    own = np.take_along_axis(probabilities, targets[:, None], axis=1)[:, 0]
    nll = -np.log(np.maximum(own, np.finfo(np.float64).tiny))
    gaps = (bins.rates - probabilities.max(1))[:, None] * (bins.bin_of[:, None] == np.arange(len(bins.counts)))
    columns = np.column_stack([nll, brier_scores(probabilities, targets), gaps])

    def measure(weights: NDArray[np.int64]) -> Floats:  # (R, N), of sum N
        means = weights @ columns / len(targets)
        return np.column_stack([np.abs(means[:, 2:]).sum(1), means[:, :2]])  # (R, 3)

    values = measure(np.ones((1, len(targets)), dtype=np.int64))[0]
    number = max(100, min(RESAMPLES, RESAMPLED_VALUES // len(targets)))
    drawn = np.random.default_rng(0).multinomial(len(targets), np.full(len(targets), 1 / len(targets)), number)
    low, high = np.quantile(measure(drawn), (0.025, 0.975), axis=0)
    # The basic interval: resampling biases the error upward, and a percentile interval would do so twice.
    lows, highs = np.maximum(0, 2 * values - high), np.maximum(values, 2 * values - low)
    return {
        name: {"value": float(value), "low": float(low), "high": float(high)}
        for name, value, low, high in zip(MEASURES, values, lows, highs, strict=True)
    }
