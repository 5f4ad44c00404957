"""Runs of one model: their accuracy with its interval, their answers, confidence and confusion."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deepbloom.metrics import Reliability, bin_by_confidence, confusion_matrix, expected_calibration_error
from deepbloom.report.folds import join_predictions
from deepbloom.report.statistics import fold_interval, seed_interval, wilson_interval
from deepbloom.runs.reading import CompleteRun, Predictions


@dataclass(frozen=True, eq=False)
class Model:
    """Runs that differ in nothing but their seed and fold.

    Attributes
    ----------
    label : str
        The network's name, and what tells it from others of that name in its table.
    runs : tuple of CompleteRun
        By seed, then fold.
    short : str
        The label in figures: short, and unlike any other of its table.
    """

    label: str
    runs: tuple[CompleteRun, ...]
    short: str

    @cached_property
    def answers(self) -> tuple[Predictions, ...]:
        """Predictions of each seed; those of its folds are joined, so that each image is in them once."""
        seeds = sorted({run.metrics.seed for run in self.runs})
        return tuple(
            join_predictions([run.predictions for run in self.runs if run.metrics.seed == seed]) for seed in seeds
        )

    @cached_property
    def correct(self) -> np.ndarray:
        """Whether each seed classified each image correctly: bool, shape (seeds, images)."""
        return np.stack([answers.correct for answers in self.answers])

    @cached_property
    def accuracy(self) -> float:
        """Test accuracy, the mean over runs."""
        return float(self._accuracies.mean())

    @cached_property
    def _hits(self) -> np.ndarray:
        """Images that each run classified correctly: int64, shape (seeds, folds); one column without folds."""
        return np.array([run.predictions.correct.sum() for run in self.runs]).reshape(len(self.answers), -1)

    @cached_property
    def _sizes(self) -> np.ndarray:
        """Test images of each run, shape of `_hits`."""
        return np.array([len(run.predictions.targets) for run in self.runs]).reshape(self._hits.shape)

    @property
    def _accuracies(self) -> np.ndarray:
        return self._hits / self._sizes

    @cached_property
    def interval_kind(self) -> str:
        """What the interval is over: ``folds`` or ``seeds`` that differ in accuracy, or else ``images``.

        Counts decide: the standard deviation of equal floats may be a little more than 0, and the interval of equal
        accuracies would have no width.
        """
        if np.ptp(self._hits.sum(axis=0) / self._sizes.sum(axis=0)):
            return "folds"
        return "seeds" if np.ptp(self._hits.sum(axis=1)) else "images"

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy: Student's t over folds or seeds, Wilson's over images."""
        if self.interval_kind == "folds":
            return fold_interval(self._accuracies.mean(axis=0), self.runs[0].metrics.folds)
        if self.interval_kind == "seeds":
            return seed_interval(self._hits.sum(axis=1) / self._sizes.sum(axis=1))
        images = self.correct.shape[1]
        low, high = wilson_interval(self.accuracy * images, images)
        return float(low), float(high)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the accuracy over runs; None for a single one."""
        if len(self.runs) == 1:
            return None
        return float(self._accuracies.std(ddof=1)) if np.ptp(self._accuracies) else 0.0

    @property
    def calibration_error(self) -> float:
        """Expected calibration error over the answers of all runs, those in `reliability`."""
        return expected_calibration_error(self._confidences, self.correct.reshape(-1))

    @property
    def reliability(self) -> Reliability:
        """Confidence against accuracy over the answers of all runs: an image is in it once for each seed."""
        return bin_by_confidence(self._confidences, self.correct.reshape(-1))

    @property
    def _confidences(self) -> np.ndarray:
        return np.concatenate([answers.confidences for answers in self.answers])

    def confusion(self, num_classes: int) -> np.ndarray:
        """Return the confusion matrix of all runs together: int64, shape (C, C)."""
        return sum(
            (confusion_matrix(run.predictions.answers, run.predictions.targets, num_classes) for run in self.runs),
            np.zeros((num_classes, num_classes), np.int64),
        )

    def mean(self, get: Callable[[CompleteRun], float | None]) -> float | None:
        """Return the mean of a number over the runs; None where a run does not know it."""
        values = [value for run in self.runs if (value := get(run)) is not None]
        return float(np.mean(values)) if len(values) == len(self.runs) else None
