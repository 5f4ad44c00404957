"""Which runs may be compared, and what the comparison finds.

Runs that differ in their seed or fold only are one model; those that another version of the code trained are another
model. Models are ranked together only where they were tested on the
same images after training on the same images: equal data, and an equal split or the same set of folds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from deepbloom.report.folds import Unit, make_units
from deepbloom.report.formatting import shorten_apart
from deepbloom.report.model import Model
from deepbloom.report.statistics import Difference, compare_runs, compare_seeds, holm
from deepbloom.runs.reading import CompleteRun

SIGNIFICANCE = 0.05
MAX_COMPARED = 20
"""Models compared pair by pair, the most accurate first: 190 pairs are as many as anyone reads."""


@dataclass(frozen=True)
class Comparison:
    """Two models on the same test images.

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
    def verdict(self) -> str:
        """``tie`` or ``first is better``."""
        return "tie" if self.is_tie else "first is better"


@dataclass(frozen=True)
class Table:
    """Models that may be ranked together, the most accurate first.

    Attributes
    ----------
    dataset, split_kind, split_fingerprint : str
        The last is that of the first fold, where there are folds.
    folds : int
        Into how many the images were divided; 0 for a single split.
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
            return f"{self.dataset}, {self.split_kind} split, {self.num_images} test images"
        if len(self.folds_tested) == self.folds:
            return f"{self.dataset}, {self.folds} {self.split_kind} folds, {self.num_images} images tested once each"
        tested = ", ".join(map(str, self.folds_tested))
        return (
            f"{self.dataset}, only fold{'s' * (len(self.folds_tested) > 1)} {tested} of {self.folds} "
            f"{self.split_kind} folds, {self.num_images} test images"
        )

    @property
    def num_images(self) -> int:
        """Test images."""
        return len(self.models[0].answers[0].image_ids)

    @property
    def runs(self) -> list[CompleteRun]:
        """Every run that counts."""
        return [run for model in self.models for run in model.runs]


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
            "they divide the images by different rules (an official split can train on far fewer images than a "
            "stratified one, so its accuracies are lower for every model)"
        )
    if len({table.folds for table in tables}) > 1:
        reasons.append(
            "folds test every image once, in turn, and a single split tests only its test part (or the numbers of "
            "folds differ, and with them the share of images that trains)"
        )
    if any(0 < len(table.folds_tested) < table.folds for table in tables):
        reasons.append("some sets of folds are not complete, so they were tested on other images")
    if not reasons and len({table.split_fingerprint for table in tables}) == len(tables):
        reasons.append("different images went into training and test (their split fingerprints differ)")
    if not reasons:
        reasons.append("their data or their test images differ")
    return (
        f"The runs are in {len(tables)} tables that are not ranked together, because {' and '.join(reasons)}: a "
        "difference between tables may come from the images alone."
    )


def _make_table(units: Sequence[Unit]) -> Table:
    by_traits: dict[tuple, list[Unit]] = {}
    for unit in units:
        by_traits.setdefault(tuple(sorted(unit.runs[0].traits.items())), []).append(unit)
    groups = [tuple(run for unit in seeds for run in unit.runs) for seeds in by_traits.values()]
    runs = [run for group in groups for run in group]
    one = runs[0].metrics
    models = _name_models(groups)
    largest = max(int(max(run.predictions.targets.max(), run.predictions.answers.max())) for run in runs)
    return Table(
        dataset=one.dataset,
        split_kind=one.data_split_kind,
        split_fingerprint=one.split_fingerprint,
        folds=one.folds,
        folds_tested=tuple(run.metrics.fold for run in units[0].runs) if one.folds else (),
        class_names=one.class_names or tuple(f"class {index}" for index in range(largest + 1)),
        models=models,
        comparisons=compare_models(models[:MAX_COMPARED]),
        repeats=tuple(run for unit in units for run in unit.repeats),
    )


def _name_models(groups: Sequence[tuple[CompleteRun, ...]]) -> tuple[Model, ...]:
    """Return a model for each group of runs, the most accurate first."""
    labels = _label([group[0] for group in groups])
    models = [Model(label, group, label) for label, group in zip(labels, groups, strict=True)]
    models.sort(key=lambda model: (-model.accuracy, model.label))
    names = shorten_apart([model.label for model in models])
    return tuple(replace(model, short=name) for model, name in zip(models, names, strict=True))


def _label(runs: Sequence[CompleteRun]) -> list[str]:
    """Name each run's model, with the settings and the code in which models of that name differ."""
    labels = []
    for run in runs:
        same_name = [other.traits for other in runs if other.metrics.model == run.metrics.model]
        keys = sorted({key for traits in same_name for key in traits})
        differing = [key for key in keys if len({traits.get(key) for traits in same_name}) > 1]
        details = ", ".join(f"{key}={run.traits.get(key, 'unknown')}" for key in differing)
        labels.append(f"{run.metrics.model} ({details})" if details else run.metrics.model)
    return labels


def compare_models(models: Sequence[Model]) -> tuple[Comparison, ...]:
    """Compare every two models, with Holm's correction for their number."""
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
