"""Which predictions to accept, so that at least a target share of them is correct.

A threshold of the confidence is chosen on validation images by fixed-sequence testing (Bauer 1991; "learn then test",
Angelopoulos et al. 2021, https://arxiv.org/abs/2110.01052): from the most confident images down, each step accepts one
more and is tested by the exact binomial test, which Clopper and Pearson's bound inverts. The first failure ends the
sequence, so all steps together err with the probability of a single one. It holds for images like those of validation.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepbloom.config.settings import TARGET

LEVEL = 0.05
"""Probability that less than the target share is correct."""
NONE = "none of these"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rejection:
    """What a checkpoint knows of its validation images, the most confident first.

    Attributes
    ----------
    confidences : ndarray of float64, shape (N,)
        Calibrated, not increasing.
    correct : ndarray of bool, shape (N,)
    unlike : ndarray of bool, shape (N,)
        Whether they are farther from training than ``limit``.
    limit : float
        Distance beyond which an image is unlike the training images; see `out_of_distribution`.
    """

    confidences: Floats
    correct: NDArray[np.bool_]
    unlike: NDArray[np.bool_]
    limit: float = math.inf

    @classmethod
    def from_validation(
        cls, confidences: Floats, correct: NDArray[np.bool_], distances: Floats | None = None, limit: float = math.inf
    ) -> "Rejection":
        """Sort validation images by confidence; ``distances`` are those from training."""
        order = np.argsort(-confidences, kind="stable")
        unlike = np.zeros(len(order), dtype=np.bool_) if distances is None else distances > limit
        return cls(confidences[order], correct[order], unlike[order], limit)

    def of_alike(self) -> "Rejection":
        """Return the same without the images unlike those of training."""
        alike = ~self.unlike
        return Rejection(self.confidences[alike], self.correct[alike], self.unlike[alike], self.limit)

    @classmethod
    def read(cls, header: Mapping[str, Any]) -> "Rejection | None":
        """Return what the header of a model file holds; None if it holds nothing.

        Raises
        ------
        ValueError
            It is damaged.
        """
        found = header.get("rejection")
        if found is None:
            return None
        try:
            confidences = np.array(found["confidences"], dtype=np.float64)
            correct, unlike = (
                np.array([{"0": False, "1": True}[letter] for letter in found[name]], dtype=np.bool_)
                for name in ("correct", "unlike")
            )
            limit = float(found["limit"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("its validation confidences are damaged") from error
        same = confidences.shape == correct.shape == unlike.shape
        if not same or not limit >= 0 or not ((confidences >= 0) & (confidences <= 1)).all():
            raise ValueError("its validation confidences are damaged")
        if (np.diff(confidences) > 0).any():
            raise ValueError("its validation confidences are not sorted")
        return cls(confidences, correct, unlike, limit)

    def as_header(self) -> dict[str, Any]:
        """Return plain values for the header of a model file: ``confidences``, ``correct`` and ``unlike`` as zeros and
        ones, and ``limit``.
        """
        flags = {
            name: "".join("01"[value] for value in values.astype(int))
            for name, values in (("correct", self.correct), ("unlike", self.unlike))
        }
        return {"confidences": self.confidences.tolist(), **flags, "limit": self.limit}

    def threshold(self, target: float = TARGET) -> float | None:
        """Return the confidence above which at least ``target`` of the predictions are correct, with 95 % confidence.

        Predictions with exactly this confidence are not accepted. Sequences start at several numbers of accepted
        images, which share the level equally, so that one error among the most confident does not end them all.

        Returns
        -------
        float in [-1, 1) or None
            -1 accepts everything. None if the validation images are too few, or too many of them wrong.
        """
        count = len(self.correct)
        starts = _starts(count, target)
        if not starts:
            return None
        errors = np.cumsum(~self.correct, dtype=np.int64)
        ends = np.append(self.confidences[1:] < self.confidences[:-1], True)  # equal ones are accepted together
        sizes = np.arange(1, count + 1)
        passed = _tail(errors, sizes, 1 - target) <= LEVEL / len(starts)
        accepted = 0
        for start in starts:
            steps = np.flatnonzero(ends & (sizes >= start))
            failed = np.flatnonzero(~passed[steps])
            steps = steps[: failed[0]] if len(failed) else steps
            accepted = max(accepted, int(sizes[steps[-1]]) if len(steps) else 0)
        if not accepted:
            return None
        return float(self.confidences[accepted]) if accepted < count else -1.0

    def coverage(self, threshold: float) -> float:
        """Return the share of the validation images that a threshold accepts."""
        return float((self.confidences > threshold).mean())

    def reachable(self) -> float | None:
        """Return the highest target, to half a percent, that has a threshold; None if none above one half has."""
        targets = (np.arange(199, 99, -1) / 200).tolist()
        return next((target for target in targets if self.threshold(target) is not None), None)

    def highest_target(self) -> float | None:
        """Return `TARGET`, or the highest target below that has a threshold; None if none above one half has."""
        reachable = self.reachable()
        return None if reachable is None else min(TARGET, reachable)


def images_needed(target: float, level: float = LEVEL) -> int:
    """Return the smallest number of accepted validation images, all correct, that show a target."""
    return math.ceil(math.log(level) / math.log(target))


def _starts(count: int, target: float) -> list[int]:
    """Return where sequences start: as many doublings of the images needed at a share of the level as there is room."""
    starts: list[int] = []
    while True:
        number = len(starts) + 1
        first = images_needed(target, LEVEL / number)
        if first * 2 ** (number - 1) > count:
            return starts
        starts = [first * 2**step for step in range(number)]


def _tail(errors: NDArray[np.int64], sizes: NDArray[np.int64], rate: float) -> Floats:
    """Return the probability of at most this many errors among this many images at an error rate."""
    from scipy.stats import binom

    return np.asarray(binom.cdf(errors, sizes, rate), dtype=np.float64)


def risk_coverage(confidences: Floats, correct: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return coverage and risk, the error rate of the accepted, as predictions are accepted by decreasing confidence.

    The mean risk is the area under the curve (AURC; Geifman et al. 2019, https://arxiv.org/abs/1805.08206).

    Returns
    -------
    coverage, risk : ndarray of float64, shape (N,)
        Equal confidences count as equally often correct.
    """
    _, group = np.unique(-confidences, return_inverse=True)
    rates = (np.bincount(group, ~correct) / np.bincount(group))[group]
    sizes = np.arange(1, len(correct) + 1)
    return sizes / len(correct), np.cumsum(rates[np.argsort(-confidences, kind="stable")]) / sizes


def assess(confidences: Floats, correct: NDArray[np.bool_], distances: Floats, rejection: Rejection) -> dict[str, Any]:
    """Return how rejection performs on test images: ``rejection`` in metrics.json.

    ``distances`` are those from the training images, shape (N,).

    Returns
    -------
    dict
        ``area_under_risk_coverage``; ``target``, its ``threshold`` (None: not reachable), and of the test images the
        ``coverage``, the number ``accepted`` and their ``accuracy``; ``reachable_target``.
    """
    alike = rejection.of_alike()
    threshold = alike.threshold()
    accepted = (confidences > (math.inf if threshold is None else threshold)) & (distances <= rejection.limit)
    return {
        "area_under_risk_coverage": float(risk_coverage(confidences, correct)[1].mean()),
        "target": TARGET,
        "threshold": threshold,
        "reachable_target": alike.reachable(),
        "coverage": float(accepted.mean()),
        "accepted": int(accepted.sum()),
        "accuracy": float(correct[accepted].mean()) if accepted.any() else None,
    }
