"""Intervals of proportions and means."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

CONFIDENCE = 0.95
"""Of every interval."""
FloatArray = NDArray[np.float64]
SMALLEST_SPREAD = 1e-12
"""Values that differ by less are equal but for rounding."""


def wilson_interval(
    successes: ArrayLike, total: ArrayLike, confidence: float = CONFIDENCE
) -> tuple[FloatArray, FloatArray]:
    """Return the interval of a proportion (Wilson 1927), which also holds near 0 and 1.

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n).

    Parameters
    ----------
    successes, total : array of float, broadcast; ``total`` at least 1

    Returns
    -------
    low, high : ndarray of float64 in [0, 1]
    """
    n = np.asarray(total, dtype=np.float64)
    p = np.asarray(successes, dtype=np.float64) / n
    z = stats.norm.ppf(0.5 + confidence / 2)
    center = p + z**2 / (2 * n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    return np.clip((center - half) / scale, 0, 1), np.clip((center + half) / scale, 0, 1)


def seed_interval(accuracies: ArrayLike) -> tuple[float, float]:
    """Return the interval of the mean accuracy over seeds by Student's t: mean ± t √(s²/S), clipped to [0, 1].

    ``accuracies`` has shape (S,), S at least 2: one per seed, all on the same test images. The interval does not cover
    a change of test images.
    """
    return _t_interval(accuracies, 0.0)


def fold_interval(accuracies: ArrayLike, folds: int) -> tuple[float, float]:
    """Return the interval of the mean accuracy over folds, clipped to [0, 1].

    The corrected t of Nadeau and Bengio (2003, https://doi.org/10.1023/A:1024068626366):
    mean ± t √(s² (1/J + n_test/n_train)), with J - 1 degrees of freedom. Folds share most of their training images,
    so their accuracies vary less than those of independent runs; the second term makes up for it.

    Parameters
    ----------
    accuracies : array of float in [0, 1], shape (J,), J at least 2
        One per tested fold.
    folds : int
        The number of folds: n_test/n_train = 1 / (folds - 1).
    """
    return _t_interval(accuracies, 1 / (folds - 1))


def _t_interval(accuracies: ArrayLike, test_to_train: float) -> tuple[float, float]:
    values = np.asarray(accuracies, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"An interval of the mean needs at least 2 accuracies, got shape {values.shape}.")
    scale = np.sqrt(values.var(ddof=1) * (1 / len(values) + test_to_train))
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1) * scale
    return float(max(0.0, values.mean() - half)), float(min(1.0, values.mean() + half))


def mean_interval(values: ArrayLike, lowest: float = 0.0) -> tuple[float, float]:
    """Return the interval of the mean of values in [``lowest``, 1], shape (N,), N at least 1.

    Student's t; Wilson's for values of 0 and 1, and for values that are all equal, whose spread is unknown. Of all
    variables in [0, 1] with the same mean a binary one varies most, so Wilson's is then wide enough.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"A mean needs values of shape (N,), N at least 1, got {values.shape}.")
    if is_binary(values) or np.ptp(values) < SMALLEST_SPREAD:
        ends = wilson_interval((values - lowest).sum() / (1 - lowest), len(values))
        low, high = (lowest + (1 - lowest) * float(end) for end in ends)
        return low, high
    half = -special.stdtrit(len(values) - 1, (1 - CONFIDENCE) / 2) * np.sqrt(values.var(ddof=1) / len(values))
    return float(max(lowest, values.mean() - half)), float(min(1.0, values.mean() + half))


def is_binary(values: FloatArray) -> bool:
    """Return whether all values are 0 or 1."""
    return bool(np.isin(values, (0, 1)).all())
