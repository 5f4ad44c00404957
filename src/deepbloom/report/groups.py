"""Runs sorted into models, and models into groups that may be ranked together.

Runs with the same identity apart from seed and fold are one model. Models are in one group only if they were tested
on the same images after training on the same images: equal data, and an equal split or the same set of folds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepbloom.metrics import Reliability, bin_by_confidence, confusion_matrix, expected_calibration_error
from deepbloom.report.formatting import shorten, shorten_apart
from deepbloom.report.statistics import (
    CONFIDENCE,
    Difference,
    compare_folds,
    compare_runs,
    compare_seeds,
    correct_for_number,
    fold_interval,
    seed_interval,
    wilson_interval,
)
from deepbloom.runs.reading import CompleteRun, Predictions

SIGNIFICANCE = 1 - CONFIDENCE
MAX_COMPARED = 20
"""Models that are compared pair by pair, the most accurate first: they make 190 pairs."""
MAX_VALUE = 24
"""Characters of a setting in a label."""


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
        return float(expected_calibration_error(self._confidences, self.correct.reshape(-1)))

    @property
    def reliability(self) -> Reliability:
        """Confidence and accuracy in bins, over the predictions of all runs: each image once per seed."""
        return bin_by_confidence(self._confidences, self.correct.reshape(-1))

    @property
    def _confidences(self) -> NDArray[np.float64]:
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


@dataclass(frozen=True)
class Group:
    """Models that may be ranked together, the most accurate first, and the comparisons of the first `MAX_COMPARED`.

    ``repeats`` are left out, because another run has the same identity, seed and fold.
    """

    models: tuple[Model, ...]
    comparisons: tuple[Comparison, ...]
    repeats: tuple[CompleteRun, ...]

    @property
    def runs(self) -> list[CompleteRun]:
        """Every run that counts."""
        return [run for model in self.models for run in model.runs]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The same for all runs."""
        return self.runs[0].metrics.class_names

    @property
    def folds(self) -> int:
        """The number of folds; 0 for a single split."""
        return self.runs[0].metrics.folds

    @property
    def folds_tested(self) -> list[int]:
        """The folds that every model has; empty for a single split."""
        return self.models[0].folds if self.folds else []

    @property
    def num_images(self) -> int:
        """Test images."""
        return int(self.models[0].correct.shape[1])

    @property
    def name(self) -> str:
        """What the models were tested on, in words."""
        data, kind = self.runs[0].metrics.dataset, self.runs[0].metrics.data_split_kind
        if not self.folds:
            return f"{data}, {kind} split, {self.num_images} test images"
        if len(self.folds_tested) == self.folds:
            return f"{data}, {self.folds} {kind} folds, {self.num_images} images tested once each"
        tested = f"fold{'s' * (len(self.folds_tested) > 1)} {', '.join(map(str, self.folds_tested))}"
        return f"{data}, only {tested} of {self.folds} {kind} folds, {self.num_images} test images"


@dataclass(eq=False)
class _Unit:
    """A single run, or the folds of one seed that test different images; and repeats that are left out."""

    runs: list[CompleteRun]
    repeats: list[CompleteRun]

    def takes(self, run: CompleteRun) -> bool:
        """Return whether the run is another fold: no run of the unit has its number or tests an image of it."""
        tested = set(run.predictions.image_ids)
        return all(
            run.metrics.fold != other.metrics.fold and tested.isdisjoint(other.predictions.image_ids)
            for other in self.runs
        )


def make_groups(runs: Sequence[CompleteRun]) -> list[Group]:
    """Sort runs into groups of comparable models; the group with most runs comes first."""
    groups: dict[tuple[Any, ...], list[_Unit]] = {}
    for unit in _make_units(runs):
        groups.setdefault(tuple(map(_tested_on, unit.runs)), []).append(unit)
    ordered = sorted(groups.values(), key=lambda units: sum(len(unit.runs) for unit in units), reverse=True)
    return [_make_group(units) for units in ordered]


def compare_models(models: Sequence[Model]) -> tuple[Comparison, ...]:
    """Compare every two of the first `MAX_COMPARED` models, with Holm's correction for all pairs of models."""
    pairs = list(combinations(models[:MAX_COMPARED], 2))
    found = correct_for_number([_test(*pair) for pair in pairs], math.comb(len(models), 2))
    return tuple(Comparison(*pair, *one) for pair, one in zip(pairs, found, strict=True))


def _test(first: Model, second: Model) -> Callable[[float], Difference]:
    """Return what compares two models at a confidence."""
    if len(first.folds) > 1:
        return partial(compare_folds, first.correct, second.correct, first.fold_of, first.runs[0].metrics.folds)
    if len(first.correct) == len(second.correct) == 1:
        return partial(compare_runs, first.correct[0], second.correct[0])
    return partial(compare_seeds, first.correct, second.correct)


def _make_units(runs: Sequence[CompleteRun]) -> list[_Unit]:
    """Join the folds of each seed of each model, ordered by seed.

    The folds of a set have different split fingerprints; they belong together if they test different images.
    """
    sets: dict[tuple[Any, ...], list[_Unit]] = {}
    for run in sorted(runs, key=lambda run: run.name):
        split = None if run.metrics.folds else _tested_on(run)
        units = sets.setdefault((_data(run), split, _identity(run), run.metrics.seed), [])
        if same := [unit for unit in units if _tested_on(run) in map(_tested_on, unit.runs)]:
            same[0].repeats.append(run)
        elif free := [unit for unit in units if unit.takes(run)]:
            free[0].runs.append(run)
        else:
            units.append(_Unit([run], []))
    found = [unit for units in sets.values() for unit in units]
    for unit in found:
        unit.runs.sort(key=lambda run: run.metrics.fold)
    return sorted(found, key=lambda unit: unit.runs[0].metrics.seed)


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
    )


def _data(run: CompleteRun) -> tuple[Any, ...]:
    metrics = run.metrics
    return metrics.dataset, metrics.dataset_fingerprint, metrics.data_split_kind, metrics.folds


def _tested_on(run: CompleteRun) -> tuple[Any, ...]:
    """Return data, split and images: runs are comparable if these are equal."""
    metrics, predictions = run.metrics, run.predictions
    split = (metrics.split_fingerprint, metrics.fold, metrics.class_names)
    return (*_data(run), *split, predictions.image_ids, predictions.targets.tobytes())


def _identity(run: CompleteRun) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(run.model_identity.items()))


def _make_group(units: Sequence[_Unit]) -> Group:
    by_identity: dict[tuple[tuple[str, str], ...], list[CompleteRun]] = {}
    for unit in units:
        by_identity.setdefault(_identity(unit.runs[0]), []).extend(unit.runs)
    labels = _label([runs[0] for runs in by_identity.values()])
    models = [Model(label, tuple(runs), "") for label, runs in zip(labels, by_identity.values(), strict=True)]
    models.sort(key=lambda model: (-model.accuracy, model.label))
    names = shorten_apart([model.label for model in models])
    models = [replace(model, short=name) for model, name in zip(models, names, strict=True)]
    repeats = tuple(run for unit in units for run in unit.repeats)
    return Group(tuple(models), compare_models(models), repeats)


def _label(runs: Sequence[CompleteRun]) -> list[str]:
    """Name the model of each run, with the settings in which models of that name differ."""
    labels = []
    for run in runs:
        same_name = [other.model_identity for other in runs if other.metrics.model == run.metrics.model]
        keys = sorted({key for identity in same_name for key in identity})
        differing = [key for key in keys if len({identity.get(key) for identity in same_name}) > 1]
        details = ", ".join(f"{key}={shorten(run.model_identity.get(key, '–'), MAX_VALUE)}" for key in differing)
        labels.append(f"{run.metrics.model} ({details})" if details else run.metrics.model)
    return labels
