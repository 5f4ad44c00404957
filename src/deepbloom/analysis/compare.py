"""Which runs may be compared, and what the comparison finds.

Runs that differ in their seed or fold only are one model. Models are ranked together only where they were tested on the
same pictures after training on the same pictures: equal data, and an equal split or the same set of folds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from deepbloom.analysis.folds import Unit, join_predictions, make_units
from deepbloom.analysis.runs import CompleteRun, Predictions
from deepbloom.analysis.statistics import (
    Difference,
    compare_runs,
    compare_seeds,
    fold_interval,
    holm,
    seed_interval,
    wilson_interval,
)
from deepbloom.metrics import (
    Reliability,
    bin_by_confidence,
    confusion_matrix,
    expected_calibration_error,
)

SIGNIFICANCE = 0.05
MAX_COMPARED = 20
"""Models compared pair by pair, the most accurate first: 190 pairs are as many as anyone reads."""


@dataclass(frozen=True, eq=False)
class Model:
    """Runs that differ in nothing but their seed and fold.

    Attributes
    ----------
    label : str
        The network's name, and the settings that tell it from others of that name in its table.
    runs : tuple of CompleteRun
        By seed, then fold.
    """

    label: str
    runs: tuple[CompleteRun, ...]

    @cached_property
    def answers(self) -> tuple[Predictions, ...]:
        """Predictions of each seed; those of its folds are joined, so that each picture is in them once."""
        seeds = sorted({run.metrics.seed for run in self.runs})
        return tuple(
            join_predictions([run.predictions for run in self.runs if run.metrics.seed == seed]) for seed in seeds
        )

    @cached_property
    def correct(self) -> np.ndarray:
        """Whether each seed classified each picture correctly: bool, shape (seeds, pictures)."""
        return np.stack([answers.correct for answers in self.answers])

    @cached_property
    def accuracy(self) -> float:
        """Test accuracy, the mean over runs."""
        return float(self._accuracies.mean())

    @cached_property
    def _accuracies(self) -> np.ndarray:
        """Accuracy of each run: float64, shape (seeds, folds); one column where there are no folds."""
        return np.array([run.predictions.correct.mean() for run in self.runs]).reshape(len(self.answers), -1)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy: Wilson's for a single run, Student's t over several seeds or folds.

        Runs that all have the same accuracy give t nothing to work with; Wilson's interval stands for them too.
        """
        folds = self._accuracies.mean(axis=0)
        if len(folds) > 1 and folds.std():
            return fold_interval(folds, self.runs[0].metrics.folds)
        if self.spread:
            return seed_interval(self._accuracies.mean(axis=1)) if len(self.answers) > 1 else self._wilson()
        return self._wilson()

    def _wilson(self) -> tuple[float, float]:
        pictures = self.correct.shape[1]
        low, high = wilson_interval(self.accuracy * pictures, pictures)
        return float(low), float(high)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the accuracy over runs; None for a single one."""
        return float(self._accuracies.std(ddof=1)) if len(self.runs) > 1 else None

    @property
    def calibration_error(self) -> float:
        """Expected calibration error, the mean over runs."""
        return float(np.mean([calibration_error(run) for run in self.runs]))

    @property
    def reliability(self) -> Reliability:
        """Confidence against accuracy, over the predictions of all runs."""
        return bin_by_confidence(
            np.concatenate([answers.confidences for answers in self.answers]), self.correct.reshape(-1)
        )

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


@dataclass(frozen=True)
class Comparison:
    """Two models on the same test pictures.

    Attributes
    ----------
    first, second : Model
        The more accurate one first.
    difference : Difference
        First minus second, with its own 95 % interval and p value.
    adjusted_p : float
        The p value after Holm's correction for all comparisons of the table.
    """

    first: Model
    second: Model
    difference: Difference
    adjusted_p: float

    @property
    def is_tie(self) -> bool:
        """Whether the difference is one that chance explains."""
        return self.adjusted_p >= SIGNIFICANCE

    @property
    def finding(self) -> str:
        """``tie``, or which model is better."""
        return "tie" if self.is_tie else f"{self.first.label} is better"


@dataclass(frozen=True)
class Table:
    """Models that may be ranked together, the most accurate first.

    Attributes
    ----------
    dataset, split_kind, split_fingerprint : str
        The last is that of the first fold, where there are folds.
    folds : int
        Into how many the pictures were divided; 0 for a single split.
    folds_tested : tuple of int
    class_names : tuple of str
    models : tuple of Model
    comparisons : tuple of Comparison
        Every two of the first `MAX_COMPARED` models.
    repeats : tuple of CompleteRun
        Runs left out because another one has the same settings and seed.
    """

    dataset: str
    split_kind: str
    split_fingerprint: str
    folds: int
    folds_tested: tuple[int, ...]
    class_names: tuple[str, ...]
    models: tuple[Model, ...]
    comparisons: tuple[Comparison, ...]
    repeats: tuple[CompleteRun, ...]

    @property
    def name(self) -> str:
        """What the models were tested on, in words."""
        if not self.folds:
            return f"{self.dataset}, {self.split_kind} split, {self.num_pictures} test pictures"
        if len(self.folds_tested) == self.folds:
            return (
                f"{self.dataset}, {self.folds} {self.split_kind} folds, {self.num_pictures} pictures tested once each"
            )
        tested = ", ".join(map(str, self.folds_tested))
        return (
            f"{self.dataset}, only fold{'s' * (len(self.folds_tested) > 1)} {tested} of {self.folds} "
            f"{self.split_kind} folds, {self.num_pictures} test pictures"
        )

    @property
    def num_pictures(self) -> int:
        """Test pictures."""
        return len(self.models[0].answers[0].image_ids)

    @property
    def runs(self) -> list[CompleteRun]:
        """Every run that counts."""
        return [run for model in self.models for run in model.runs]


def calibration_error(run: CompleteRun) -> float:
    """Return a run's expected calibration error on the test pictures."""
    return expected_calibration_error(run.predictions.confidences, run.predictions.correct)


def make_tables(runs: Sequence[CompleteRun]) -> list[Table]:
    """Sort runs into tables of comparable models; the table with most runs comes first."""
    tables: dict[tuple, list[Unit]] = {}
    for unit in make_units(runs):
        tables.setdefault(unit.tested_on, []).append(unit)
    groups = sorted(tables.values(), key=lambda units: sum(len(unit.runs) for unit in units), reverse=True)
    return [_make_table(units) for units in groups]


def explain_separation(tables: Sequence[Table]) -> str:
    """Say why runs stand in several tables; empty for a single one."""
    if len(tables) < 2:
        return ""
    reasons = []
    if len({table.dataset for table in tables}) > 1:
        reasons.append("they hold different data")
    if len({table.split_kind for table in tables}) > 1:
        reasons.append(
            "they divide the pictures by different rules (an official split can train on far fewer pictures than a "
            "stratified one, so its accuracies are lower for every model)"
        )
    if len({table.folds for table in tables}) > 1:
        reasons.append(
            "folds test every picture once, in turn, and a single split tests only its test part (or the numbers of "
            "folds differ, and with them the share of pictures that trains)"
        )
    if any(0 < len(table.folds_tested) < table.folds for table in tables):
        reasons.append("some sets of folds are not complete, so they were tested on other pictures")
    if not reasons and len({table.split_fingerprint for table in tables}) == len(tables):
        reasons.append("different pictures went into training and test (their split fingerprints differ)")
    if not reasons:
        reasons.append("their data or their test pictures differ")
    return (
        f"The runs are in {len(tables)} tables that are not ranked together, because {' and '.join(reasons)}: a "
        "difference between tables may come from the pictures alone."
    )


def _make_table(units: Sequence[Unit]) -> Table:
    by_settings: dict[tuple, list[Unit]] = {}
    for unit in units:
        by_settings.setdefault(tuple(sorted(unit.runs[0].settings.items())), []).append(unit)
    groups = [tuple(run for unit in seeds for run in unit.runs) for seeds in by_settings.values()]
    labels = _label([group[0] for group in groups])
    models = sorted((Model(*pair) for pair in zip(labels, groups, strict=True)), key=lambda m: (-m.accuracy, m.label))
    runs = [run for group in groups for run in group]
    one = runs[0].metrics
    largest = max(int(max(run.predictions.targets.max(), run.predictions.answers.max())) for run in runs)
    return Table(
        dataset=one.dataset,
        split_kind=one.data_split_kind,
        split_fingerprint=one.split_fingerprint,
        folds=one.folds,
        folds_tested=tuple(run.metrics.fold for run in units[0].runs) if one.folds else (),
        class_names=one.class_names or tuple(f"class {index}" for index in range(largest + 1)),
        models=tuple(models),
        comparisons=_compare(models[:MAX_COMPARED]),
        repeats=tuple(run for unit in units for run in unit.repeats),
    )


def _label(runs: Sequence[CompleteRun]) -> list[str]:
    """Name each run's model, with the settings in which models of that name differ."""
    labels = []
    for run in runs:
        same_name = [other.settings for other in runs if other.metrics.model == run.metrics.model]
        keys = sorted({key for settings in same_name for key in settings})
        differing = [key for key in keys if len({settings.get(key) for settings in same_name}) > 1]
        details = ", ".join(f"{key}={run.settings.get(key, 'unknown')}" for key in differing)
        labels.append(f"{run.metrics.model} ({details})" if details else run.metrics.model)
    return labels


def _compare(models: Sequence[Model]) -> tuple[Comparison, ...]:
    pairs = list(combinations(models, 2))
    differences = [_difference(first, second) for first, second in pairs]
    adjusted = holm([difference.p_value for difference in differences])
    return tuple(
        Comparison(first, second, difference, float(p))
        for (first, second), difference, p in zip(pairs, differences, adjusted, strict=True)
    )


def _difference(first: Model, second: Model) -> Difference:
    if len(first.answers) == len(second.answers) == 1:
        return compare_runs(first.correct[0], second.correct[0])
    return compare_seeds(first.correct, second.correct)
