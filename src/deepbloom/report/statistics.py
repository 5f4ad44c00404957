"""Comparisons of accuracies over test images, seeds and folds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from deepbloom.report.intervals import CONFIDENCE, SMALLEST_SPREAD, FloatArray, is_binary, wilson_interval

SMALLEST_P = 1e-12
"""Lower limit of p values that are found by a search."""

Basis = Literal["images", "seeds", "folds", "nothing"]


@dataclass(frozen=True)
class Difference:
    """Difference of two models or maps on the same images, first minus second, with its interval."""

    estimate: float
    low: float
    high: float
    p_value: float
    """Probability that equals differ at least this much. The interval leaves out zero exactly if p < 1 - confidence."""
    basis: Basis = "images"
    """What was sampled. ``nothing``: one model has a single run and the other several, so that nothing is claimed."""


def mcnemar_exact(first: ArrayLike, second: ArrayLike) -> float:
    """Return the two-sided p value for equal accuracy of two classifiers (McNemar 1947, exact binomial form).

    Under the null hypothesis, each classifier is the correct one on half of the images on which exactly one is.
    ``first`` and ``second`` say whether each image is classified correctly: bool, shape (N,).
    """
    first, second = _check_paired(first, second)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0


def compare_runs(first: ArrayLike, second: ArrayLike, confidence: float = CONFIDENCE) -> Difference:
    """Compare two trained networks on N images: bool, shape (N,) each.

    p is McNemar's exact one. The interval is that of Bonett and Price (2012,
    https://doi.org/10.3102/1076998611411915), which adds an image in favor of each network. An end on whose side of
    zero the exact test disagrees is that of the exact interval (Clopper and Pearson) for the images on which exactly
    one network is correct.
    """
    first, second = _check_paired(first, second)
    count, gains, losses = len(first), int((first & ~second).sum()), int((second & ~first).sum())
    discordant = gains + losses
    center = (gains - losses) / (count + 2)
    half = stats.norm.ppf(0.5 + confidence / 2) * np.sqrt(((discordant + 2) / (count + 2) - center**2) / (count + 2))
    tail = (1 - confidence) / 2
    shares = (
        special.betaincinv(gains, losses + 1, tail) if gains else 0.0,
        special.betaincinv(gains + 1, losses, 1 - tail) if losses else 1.0,
    )
    exact_low, exact_high = ((2 * share - 1) * discordant / count for share in shares)
    low, high = center - half, center + half
    return Difference(
        (gains - losses) / count,
        max(-1.0, float(low if (low > 0) == (exact_low > 0) else exact_low)),
        min(1.0, float(high if (high < 0) == (exact_high < 0) else exact_high)),
        mcnemar_exact(first, second),
    )


def compare_seeds(first: ArrayLike, second: ArrayLike, confidence: float = CONFIDENCE) -> Difference:
    """Compare two models trained with several seeds each; both images and seeds are samples.

    Correctness is a two-way table of seeds and images. The difference of the two grand means varies by its images and
    by the seeds of each model (variance components of a crossed random design: Searle, Casella and McCulloch 1992,
    chapter 4):

    V_images = var(difference of the per-image means) / N - the models' interaction mean squares / (S N),
    V_model = variance of its seeds' accuracies / S, for each of the two.

    Each part keeps its own degrees of freedom (Howe 1974, https://doi.org/10.1080/01621459.1974.10482981), so models
    may vary unequally and have unequal numbers of seeds:

        half width² = t(N - 1)² V_images + t(S1 - 1)² V_first + t(S2 - 1)² V_second.

    In simulations of equal models, Satterthwaite's degrees of freedom for the sum found a difference in up to 12 % of
    the cases with 2 seeds and up to 7 % with 3, these in at most 5 %. As in `compare_runs`, V_images counts two more
    images, one in favor of each model. With a single run of one model, the spread over its seeds is unknown, and the
    interval is [-1, 1].

    Parameters
    ----------
    first, second : array of bool, shape (S1, N) and (S2, N)
    """
    tables = _check_tables(first, second)
    per_image = tables[0].mean(0) - tables[1].mean(0)
    estimate, seeds = float(per_image.mean()), [len(table) for table in tables]
    if min(seeds) == 1:
        return Difference(estimate, -1.0, 1.0, 1.0, "nothing")
    in_all = sum(_interaction(table) / table.size for table in tables)
    parts = [max(0.0, _variance_over_images(per_image) - in_all), *(t.mean(1).var(ddof=1) / len(t) for t in tables)]
    return _difference(estimate, parts, [len(per_image) - 1, seeds[0] - 1, seeds[1] - 1], confidence, "seeds")


def compare_folds(
    first: ArrayLike, second: ArrayLike, fold_of: ArrayLike, folds: int, confidence: float = CONFIDENCE
) -> Difference:
    """Compare two models tested on the same folds: the paired corrected t of Nadeau and Bengio, see `fold_interval`.

    The variance is at least that over images alone, which the accuracies of few folds may miss.

    Parameters
    ----------
    first, second : array of bool, shape (S1, N) and (S2, N)
        The predictions of all tested folds joined, for each seed.
    fold_of : array of int in [0, J), shape (N,), J at least 2
        The tested fold of each image.
    folds : int
        The number of folds, tested or not.
    """
    tables = _check_tables(first, second)
    fold_of = np.asarray(fold_of)
    per_image = tables[0].mean(0) - tables[1].mean(0)
    per_fold = np.bincount(fold_of, per_image) / np.bincount(fold_of)
    variance = per_fold.var(ddof=1) * (1 / len(per_fold) + 1 / (folds - 1))
    variance = max(variance, _variance_over_images(per_image))
    return _difference(float(per_fold.mean()), [variance], [len(per_fold) - 1], confidence, "folds")


def compare_values(first: ArrayLike, second: ArrayLike, span: float, confidence: float = CONFIDENCE) -> Difference:
    """Compare two measures of the same images, shape (N,), N at least 1: paired Student's t.

    Two measures of 0 and 1 are compared as in `compare_runs`. Where all differences are equal, their spread is
    unknown, and the score test of the most variable differences in [-span, span] takes the place of Student's t.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if is_binary(first) and is_binary(second):
        return compare_runs(first == 1, second == 1, confidence)
    differences = first - second
    estimate, count = float(differences.mean()), len(differences)
    if np.ptp(differences) > SMALLEST_SPREAD:
        return _difference(estimate, [differences.var(ddof=1) / count], [count - 1], confidence, "images", span)
    ends = wilson_interval(count * (estimate / span + 1) / 2, count, confidence)
    low, high = (span * (2 * float(end) - 1) for end in ends)
    return Difference(estimate, low, high, float(2 * stats.norm.sf(abs(estimate) / span * np.sqrt(count))))


def correct_for_number(
    tests: Sequence[Callable[[float], Difference]], total: int = 0
) -> list[tuple[Difference, float]]:
    """Return the difference that each test finds at a confidence, and its p value after `holm`.

    The confidence of each is raised as its p value is, so an interval leaves out zero exactly if the corrected p value
    is below 1 - `CONFIDENCE`.
    """
    p_values = np.array([test(CONFIDENCE).p_value for test in tests])
    adjusted = holm(p_values, total)
    factors = np.maximum(p_values, SMALLEST_P) / np.maximum(adjusted, SMALLEST_P)
    return [
        (test(1 - (1 - CONFIDENCE) * factor), float(p))
        for test, factor, p in zip(tests, factors, adjusted, strict=True)
    ]


def holm(p_values: ArrayLike, total: int = 0) -> FloatArray:
    """Return p values adjusted for multiple tests (Holm 1979): smallest * m, next * (m - 1), ..., never decreasing.

    m is the number of p values, or ``total`` if more tests were possible and these were chosen by their data.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty_like(p_values)
    factors = max(total, len(p_values)) - np.arange(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * factors))
    return adjusted


def pareto_front(costs: ArrayLike, scores: ArrayLike) -> NDArray[np.bool_]:
    """Return which items are on the Pareto front: no other is at least as good in cost and score and better in one.

    All have shape (M,).
    """
    costs, scores = np.asarray(costs, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    no_worse = (costs <= costs[:, None]) & (scores >= scores[:, None])  # [i, j]: j is no worse than i
    better = (costs < costs[:, None]) | (scores > scores[:, None])
    return np.logical_not((no_worse & better).any(axis=1))


def _difference(
    estimate: float,
    variances: Sequence[float],
    freedoms: Sequence[int],
    confidence: float,
    basis: Basis,
    span: float = 1.0,
) -> Difference:
    """Return a difference in [-span, span] whose parts of variance have their own t: half width² = Σ t(freedom)² V."""

    def half_width(p: float) -> float:
        return float(np.sqrt((special.stdtrit(freedoms, p / 2) ** 2 * variances).sum()))

    half = half_width(1 - confidence)
    if estimate == 0:
        p_value = 1.0
    elif half_width(SMALLEST_P) <= abs(estimate):
        p_value = SMALLEST_P
    else:
        p_value = optimize.brentq(lambda p: half_width(p) - abs(estimate), SMALLEST_P, 1)
    return Difference(estimate, max(-span, estimate - half), min(span, estimate + half), float(p_value), basis)


def _variance_over_images(per_image: FloatArray) -> float:
    """Return the variance of the mean of differences, with two more images, one in favor of each model."""
    return float(np.append(per_image, [1, -1]).var(ddof=1) / len(per_image))


def _interaction(table: FloatArray) -> float:
    """Return the interaction mean square of seeds and images."""
    seeds, count = table.shape
    rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    return float((rest**2).sum() / ((seeds - 1) * (count - 1)))


def _check_paired(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if first.shape != second.shape or first.ndim != 1 or first.size == 0:
        raise ValueError(f"Paired arrays must have one shape (N,), got {first.shape} and {second.shape}.")
    return first, second


def _check_tables(first: ArrayLike, second: ArrayLike) -> list[FloatArray]:
    tables = [np.asarray(table, dtype=np.float64) for table in (first, second)]
    if any(table.ndim != 2 for table in tables) or tables[0].shape[1] != tables[1].shape[1]:
        raise ValueError("Give arrays (S1, N) and (S2, N) over the same images.")
    return tables
