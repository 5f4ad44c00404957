"""Ensembles: the mean of the probabilities of the seeds of one model, as further rows of a report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepbloom.report.models import Comparison, Model
from deepbloom.report.statistics import compare_values, correct_for_number
from deepbloom.runs.reading import CompleteRun, Predictions, read_probabilities

MAX_ENSEMBLES = 6
"""Models whose seeds are averaged, the most accurate first: each reads the probabilities of all of its runs."""


@dataclass(frozen=True, eq=False)
class Ensemble(Model):
    """The seeds of a model as one classifier; ``runs`` are its members."""

    averaged: Predictions

    @cached_property
    def predictions(self) -> tuple[Predictions, ...]:
        """One, of the mean of the probabilities."""
        return (self.averaged,)

    @property
    def seed_names(self) -> list[str]:
        """The label in figures."""
        return [self.short]

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        return np.array([[[self.averaged.correct.sum()]], [[len(self.averaged.targets)]]])

    @property
    def spread(self) -> None:
        """None: it is a single one."""
        return

    def mean(self, get: Callable[[CompleteRun], Any]) -> None:
        """Return None: what a member is like does not tell what their mean is like."""
        return

    def total(self, get: Callable[[CompleteRun], Any]) -> float | None:
        """Return the sum over the members; None if one lacks it."""
        values = [get(run) for run in self.runs]
        return None if None in values else float(np.sum(values))


def make_ensembles(models: Sequence[Model]) -> list[Ensemble]:
    """Return an ensemble of each of the first `MAX_ENSEMBLES` models with several seeds whose probabilities are there.

    Folds are left out. The most accurate comes first.
    """
    found = []
    for model in [model for model in models if len(model.runs) > 1 and not model.runs[0].metrics.folds][:MAX_ENSEMBLES]:
        known = [probabilities for run in model.runs if (probabilities := read_probabilities(run)) is not None]
        if len(known) == len(model.runs):
            mean = np.mean(known, axis=0)
            first = model.predictions[0]
            averaged = replace(first, predicted=mean.argmax(axis=1), confidences=np.minimum(mean.max(axis=1), 1))
            label, short = (f"ensemble of {len(known)}: {name}" for name in (model.label, model.short))
            found.append(Ensemble(label, model.runs, short, averaged))
    return sorted(found, key=lambda ensemble: -ensemble.accuracy)


def compare_ensembles(models: Sequence[Model], ensembles: Sequence[Ensemble]) -> tuple[Comparison, ...]:
    """Compare ensembles with each other and with the first `MAX_ENSEMBLES` models, corrected for these pairs alone.

    Of a model with several seeds the mean over seeds counts, image by image: the finding holds for these networks.
    """
    rows = sorted([*models[:MAX_ENSEMBLES], *ensembles], key=lambda model: -model.accuracy)
    pairs = [pair for pair in combinations(rows, 2) if any(isinstance(model, Ensemble) for model in pair)]
    tests = [partial(compare_values, a.correct.mean(axis=0), b.correct.mean(axis=0), 1.0) for a, b in pairs]
    return tuple(
        Comparison(*pair, *one) for pair, one in zip(pairs, correct_for_number(tests) if tests else [], strict=True)
    )
