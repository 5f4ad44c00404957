"""Runs sorted into models, and models into groups that may be ranked together.

Runs with the same identity apart from seed and fold are one model. Models are in one group only if they were tested
on the same images after training on the same images: equal data, and an equal split or the same set of folds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

from deepbloom.report.ensembles import Ensemble, compare_ensembles, make_ensembles
from deepbloom.report.formatting import shorten, shorten_apart
from deepbloom.report.models import Comparison, Model
from deepbloom.report.statistics import (
    Difference,
    compare_folds,
    compare_runs,
    compare_seeds,
    correct_for_number,
)
from deepbloom.runs.reading import CompleteRun

MAX_COMPARED = 20
"""Models that are compared pair by pair, the most accurate first: they make 190 pairs."""
MAX_VALUE = 24
"""Characters of a setting in a label."""


@dataclass(frozen=True)
class Group:
    """Models that may be ranked together, the most accurate first, and the comparisons of the first `MAX_COMPARED`.

    ``repeats`` are left out, because another run has the same identity, seed and fold.
    """

    models: tuple[Model, ...]
    comparisons: tuple[Comparison, ...]
    repeats: tuple[CompleteRun, ...]
    ensembles: tuple[Ensemble, ...] = ()
    """Of the seeds of a model, the most accurate first."""
    ensemble_comparisons: tuple[Comparison, ...] = ()

    @property
    def rows(self) -> list[Model]:
        """Models and ensembles, the most accurate first."""
        return sorted([*self.models, *self.ensembles], key=lambda model: -model.accuracy)

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
        metrics = self.runs[0].metrics
        data = metrics.data_name or metrics.dataset
        kind = name_split(metrics.data_split_kind, metrics.dataset)
        if not self.folds:
            return f"{data}, {kind} split, {self.num_images} test images"
        if len(self.folds_tested) == self.folds:
            return f"{data}, {self.folds} {kind} folds, {self.num_images} images tested once each"
        tested = f"fold{'s' * (len(self.folds_tested) > 1)} {', '.join(map(str, self.folds_tested))}"
        return f"{data}, only {tested} of {self.folds} {kind} folds, {self.num_images} test images"


def name_split(kind: str, dataset: str) -> str:
    """Return a kind of split in words: only Flowers102 has an official one, folders have a predefined one."""
    return "predefined" if kind == "official" and dataset != "flowers102" else kind


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
    ensembles = make_ensembles(models)
    return Group(tuple(models), compare_models(models), repeats, tuple(ensembles), compare_ensembles(models, ensembles))


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
