"""A model of a report: its runs, what they share, and how two models compare."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepbloom.metrics import Reliability, bin_by_confidence, confusion_matrix, expected_calibration_error
from deepbloom.report.formatting import shorten
from deepbloom.report.intervals import CONFIDENCE, fold_interval, seed_interval, wilson_interval
from deepbloom.report.statistics import Difference
from deepbloom.runs.reading import CompleteRun, Predictions

SIGNIFICANCE = 1 - CONFIDENCE


@dataclass(frozen=True, eq=False)
class Model:
    """Runs that differ only in seed and fold."""

    label: str
    """The network's name, and the settings that tell it from others of that name in its group."""
    runs: tuple[CompleteRun, ...]
    """By seed, then fold."""
    short: str
    """The label in figures: short and unique in its group."""

    @cached_property
    def predictions(self) -> tuple[Predictions, ...]:
        """The predictions of each seed, with those of its folds joined: each image is in them once."""
        by_seed: dict[int, list[Predictions]] = {}
        for run in self.runs:
            by_seed.setdefault(run.metrics.seed, []).append(run.predictions)
        return tuple(map(_join_folds, by_seed.values()))

    @cached_property
    def seed_names(self) -> list[str]:
        """What each of `predictions` is called: the label in figures, with the run's own name, the seed, or both."""
        runs = {run.metrics.seed: run for run in reversed(self.runs)}
        names = []
        for seed, run in sorted(runs.items()):
            name = run.metrics.name
            alike = sum(other.metrics.name == name for other in runs.values())
            numbered = alike > 1 or (not name and len(runs) > 1)
            names.append(", ".join([self.short, *[shorten(name)] * bool(name), *[f"seed {seed}"] * numbered]))
        return names

    def name_of(self, run: CompleteRun) -> str:
        """Return what one of the runs is called, among several of one model."""
        fold = f", fold {run.metrics.fold}" if run.metrics.folds else ""
        return f"{self.seed_name_of(run)}{fold}"

    def seed_name_of(self, run: CompleteRun) -> str:
        """Return which of `seed_names` one of the runs belongs to."""
        seeds = sorted({other.metrics.seed for other in self.runs})
        return self.seed_names[seeds.index(run.metrics.seed)]

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each seed classified each image correctly: shape (seeds, images)."""
        return np.stack([predictions.correct for predictions in self.predictions])

    @cached_property
    def fold_of(self) -> NDArray[np.int64]:
        """The place of each image's fold among the tested ones: shape (images,)."""
        places = {
            image_id: self.folds.index(run.metrics.fold) for run in self.runs for image_id in run.predictions.image_ids
        }
        return np.array([places[image_id] for image_id in self.predictions[0].image_ids])

    @property
    def folds(self) -> list[int]:
        """The tested folds; [0] for a single split."""
        return sorted({run.metrics.fold for run in self.runs})

    @cached_property
    def accuracy(self) -> float:
        """Test accuracy, the mean over runs."""
        return float(self._accuracies.mean())

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        """Correct and all images of each run: shape (2, seeds, folds)."""
        counts = [(run.predictions.correct.sum(), run.metrics.count) for run in self.runs]
        return np.array(counts).T.reshape(2, len(self.predictions), -1)

    @property
    def _accuracies(self) -> NDArray[np.float64]:
        correct, total = self._counts
        accuracies: NDArray[np.float64] = correct / total
        return accuracies

    @cached_property
    def interval_kind(self) -> str:
        """What the interval covers: ``folds`` or ``seeds`` if their accuracies differ, otherwise ``images``.

        Counts decide, because the standard deviation of equal floats can be slightly above 0.
        """
        correct, total = self._counts
        if np.ptp(correct.sum(axis=0) / total.sum(axis=0)):
            return "folds"
        return "seeds" if np.ptp(correct.sum(axis=1)) else "images"

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy: Student's t over folds or seeds, Wilson's over images."""
        if self.interval_kind == "folds":
            return fold_interval(self._accuracies.mean(axis=0), self.runs[0].metrics.folds)
        correct, total = self._counts.sum(axis=2)  # (seeds,)
        if self.interval_kind == "seeds":
            return seed_interval(correct / total)
        low, high = wilson_interval(correct[0], total[0])
        return float(low), float(high)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the accuracy over runs; None for a single one."""
        if len(self.runs) == 1:
            return None
        return float(self._accuracies.std(ddof=1)) if np.ptp(self._accuracies) else 0.0

    @property
    def calibration_error(self) -> float:
        """Expected calibration error over the predictions of all runs."""
        return float(expected_calibration_error(self.confidences, self.correct.reshape(-1)))

    @property
    def reliability(self) -> Reliability:
        """Confidence and accuracy in bins, over the predictions of all runs: each image once per seed."""
        return bin_by_confidence(self.confidences, self.correct.reshape(-1))

    @property
    def confidences(self) -> NDArray[np.float64]:
        """The confidences of all seeds, one seed after the other: shape (seeds * images,)."""
        return np.concatenate([predictions.confidences for predictions in self.predictions])

    def confusion(self, num_classes: int) -> NDArray[np.int64]:
        """Return the confusion matrix summed over runs: shape (C, C)."""
        targets = np.concatenate([run.predictions.targets for run in self.runs])
        predicted = np.concatenate([run.predictions.predicted for run in self.runs])
        return confusion_matrix(predicted, targets, num_classes)

    def mean(self, get: Callable[[CompleteRun], Any]) -> float | None:
        """Return the mean of a number over the runs; None if a run lacks it."""
        values = [get(run) for run in self.runs]
        return None if None in values else float(np.mean(values))

    def total(self, get: Callable[[CompleteRun], Any]) -> float | None:
        """Return a cost of the model, the mean over its runs; None if one lacks it."""
        return self.mean(get)

    def mean_of(self, key: str) -> float | None:
        """Return the mean of a number of metrics.json over the runs; None if a run lacks it."""
        return self.mean(lambda run: run.values.get(key))


@dataclass(frozen=True)
class Comparison:
    """Two models on the same test images, the more accurate one first.

    ``difference`` is first minus second; ``adjusted_p`` is its p value after Holm's correction for all pairs of the
    group, and its interval is widened by the same correction.
    """

    first: Model
    second: Model
    difference: Difference
    adjusted_p: float

    @property
    def is_tie(self) -> bool:
        """Whether chance alone could explain the difference."""
        return self.adjusted_p >= SIGNIFICANCE

    @property
    def verdict(self) -> str:
        """``tie``, ``first is better``, or ``one run only`` if a single run stands against several seeds."""
        if self.difference.basis == "nothing":
            return "one run only"
        return "tie" if self.is_tie else "first is better"


def _join_folds(parts: Sequence[Predictions]) -> Predictions:
    """Return the predictions of several folds as those of one test of all their images, sorted by image."""
    if len(parts) == 1:
        return parts[0]
    image_ids = [image_id for part in parts for image_id in part.image_ids]
    order = sorted(range(len(image_ids)), key=image_ids.__getitem__)
    return Predictions(
        tuple(image_ids[i] for i in order),
        np.concatenate([part.targets for part in parts])[order],
        np.concatenate([part.predicted for part in parts])[order],
        np.concatenate([part.confidences for part in parts])[order],
        np.concatenate([part.rows for part in parts])[order],
    )
