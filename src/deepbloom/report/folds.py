"""Runs that belong together: a single run, or the folds of one seed, which test different images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepbloom.runs.reading import CompleteRun, Predictions


@dataclass(frozen=True, eq=False)
class Unit:
    """What one seed of one model gave.

    Attributes
    ----------
    runs : tuple of CompleteRun
        A single run, or those of its folds that are there, by fold.
    repeats : tuple of CompleteRun
        Left out, because another one has the same settings, code, seed and fold.
    """

    runs: tuple[CompleteRun, ...]
    repeats: tuple[CompleteRun, ...]

    @property
    def tested_on(self) -> tuple:
        """Data, split and images of each run: units are comparable where this is equal."""
        return tuple(_tested_on(run) for run in self.runs)


def make_units(runs: Sequence[CompleteRun]) -> list[Unit]:
    """Join the folds of each seed of each model on the same data, by name of the first run, then seed.

    The folds of a unit differ in their split fingerprints by nature; that they belong to one set is certain where no
    image is tested twice. Folds of which that is not so stand alone.
    """
    groups: dict[tuple, dict[tuple, list[CompleteRun]]] = {}
    for run in sorted(runs, key=lambda run: run.name):
        metrics = run.metrics
        data = (metrics.dataset, metrics.dataset_fingerprint, metrics.data_split_kind, metrics.folds)
        single = None if metrics.folds else _tested_on(run)
        key = (data, single, tuple(sorted(run.traits.items())), metrics.seed)
        groups.setdefault(key, {}).setdefault((metrics.fold if metrics.folds else 0,), []).append(run)
    units = []
    for folds in groups.values():
        chosen = [folds[fold][0] for fold in sorted(folds)]
        repeats = [run for fold in sorted(folds) for run in folds[fold][1:]]
        tested = [name for run in chosen for name in run.predictions.image_ids]
        if len(set(tested)) == len(tested):
            units.append(Unit(tuple(chosen), tuple(repeats)))
        else:
            units += [Unit((same[0],), tuple(same[1:])) for same in folds.values()]
    return sorted(units, key=lambda unit: unit.runs[0].metrics.seed)


def join_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Return the predictions of several folds as those of one test over all their images, sorted by image."""
    if len(parts) == 1:
        return parts[0]
    image_ids = [name for part in parts for name in part.image_ids]
    order = sorted(range(len(image_ids)), key=image_ids.__getitem__)
    return Predictions(
        tuple(image_ids[i] for i in order),
        np.concatenate([part.targets for part in parts])[order],
        np.concatenate([part.answers for part in parts])[order],
        np.concatenate([part.confidences for part in parts])[order],
    )


def _tested_on(run: CompleteRun) -> tuple:
    metrics, predictions = run.metrics, run.predictions
    data = (metrics.dataset, metrics.dataset_fingerprint, metrics.data_split_kind)
    split = (metrics.split_fingerprint, metrics.folds, metrics.fold)
    return (*data, *split, metrics.class_names, predictions.image_ids, predictions.targets.tobytes())
