"""The figures of a group of models: which are drawn, and their captions."""

import re
from pathlib import Path

import numpy as np

from deepbloom.report import plots
from deepbloom.report.confusion import plot_confusion
from deepbloom.report.formatting import format_count, format_percent, format_seconds, shorten
from deepbloom.report.groups import Group, Model
from deepbloom.report.pages import Illustration

MAX_CONFUSIONS = 8
"""Models whose confusion matrices are all drawn; of more, the `BEST_CONFUSIONS` most accurate."""
BEST_CONFUSIONS = 3
MANY_CLASSES = 40
"""With this many classes, only one matrix is drawn of many models: each takes a second."""
FEW_CLASSES = 12
"""With this many classes or fewer, confusion matrices are small enough to stand side by side."""
MAX_BARS = 30
HELP = {
    "accuracy": "Dots are accuracies, bars their 95 % intervals. Overlapping bars do not mean a tie: the comparison of "
    "pairs is sharper, because both models classified the same images.",
    "curves": "If training is far better than validation, the network overfits. Accuracies that still rise at the end "
    "may gain from more epochs. Augmentation and dropout act in training only, so validation may look better. "
    "Curves bend where the train resolution changes.",
    "cost": "Costs are on a logarithmic scale. Filled points on the dashed line are the Pareto front: no other model "
    "is at least as accurate and cheaper. The front ignores uncertainty: in a tie, the cheaper model may be as "
    "good.",
    "calibration": "Of the predictions with 80 % confidence, a calibrated model gets 80 % right: its points are on the "
    "diagonal. Below it a model is overconfident, above it underconfident. ECE is the mean distance to the "
    "diagonal. Larger dots hold more predictions; lines are 95 % intervals over images (Wilson).",
}
"""How to read each figure."""


def draw_accuracy(group: Group, path: Path, explain: bool) -> Illustration:
    """Draw accuracies with their intervals."""
    shown = group.models[:MAX_BARS]
    plots.plot_accuracy([m.short for m in shown], [m.accuracy for m in shown], [m.interval for m in shown], path)
    worst, best = format_percent(shown[-1].accuracy), format_percent(shown[0].accuracy)
    return Illustration(
        path,
        f"Test accuracy of {_models(len(shown))} with 95 % intervals, from {worst} to {best}.",
        _caption(
            HELP["accuracy"] if explain else "",
            _say_left_out(len(shown), group),
        ),
    )


def draw_curves(group: Group, path: Path, explain: bool) -> Illustration:
    """Draw the learning curves of those models that have a history."""
    histories = {model.short: [run.history for run in model.runs if run.history] for model in group.models}
    curves = {name: known for name, known in histories.items() if known}
    plots.plot_curves(curves, path)
    return Illustration(
        path,
        f"Loss and accuracy by epoch of {_models(min(len(curves), plots.MAX_LINES))}, for train and validation.",
        _caption(
            HELP["curves"] if explain else "",
            _say_left_out(min(len(curves), plots.MAX_LINES), group),
        ),
    )


def draw_cost(group: Group, path: Path, explain: bool) -> Illustration:
    """Draw accuracy against parameters, MACs and training time, with the Pareto fronts."""
    models, count = group.models, (plots.COUNT_TICKS, format_count)
    costs = [
        plots.Cost(name, unit, _means(group, key), *axis)
        for key, name, unit, axis in (
            ("params_total", "parameters", "parameters", count),
            ("macs", "MACs", "multiply-accumulate operations per image", count),
            ("train_seconds", "training time", "training time", (plots.SECOND_TICKS, format_seconds)),
        )
    ]
    plots.plot_pareto([m.short for m in models], [m.accuracy for m in models], costs, path)
    gray = f"Gray: models after the first {plots.MAX_LINES}." if len(models) > plots.MAX_LINES else ""
    return Illustration(
        path,
        f"Test accuracy of {_models(len(models))} against parameters, MACs and training time.",
        _caption(
            HELP["cost"] if explain else "",
            gray,
        ),
    )


def draw_calibration(group: Group, path: Path, explain: bool) -> Illustration:
    """Draw reliability diagrams."""
    shown = group.models[: plots.MAX_LINES]
    errors = {model.short: model.calibration_error for model in shown}
    seeds = {model.short: len(model.predictions) for model in shown}
    plots.plot_reliability({model.short: model.reliability for model in shown}, errors, seeds, path)
    pooled = (
        "Dots and ECE cover the predictions of all seeds; the intervals count each image once."
        if max(seeds.values()) > 1
        else ""
    )
    listed = "; ".join(f"{label} {format_percent(error)}" for label, error in errors.items())
    return Illustration(
        path,
        f"Reliability diagrams. Expected calibration error: {listed}.",
        _caption(
            HELP["calibration"] if explain else "",
            pooled,
            _say_left_out(len(shown), group),
        ),
    )


def draw_confusions(group: Group, prefix: Path) -> list[Illustration]:
    """Draw the confusion matrices of the most accurate models; file names begin with that of ``prefix``."""
    best = 1 if len(group.class_names) >= MANY_CLASSES else BEST_CONFUSIONS
    shown = group.models if len(group.models) <= MAX_CONFUSIONS else group.models[:best]
    return [
        _draw_confusion(group, model, prefix.with_name(f"{prefix.name}_{rank}_{_slug(model.label)}.png"), rank)
        for rank, model in enumerate(shown, 1)
    ]


def _draw_confusion(group: Group, model: Model, path: Path, rank: int) -> Illustration:
    matrix, label = model.confusion(len(group.class_names)), shorten(model.label, 80)
    plot_confusion(matrix, group.class_names, path, model.label)
    mistakes = matrix * ~np.eye(len(matrix), dtype=bool)
    row, column = np.unravel_index(mistakes.argmax(), mistakes.shape)
    names = [shorten(group.class_names[place]) for place in (row, column)]
    worst = (
        f" Most common mistake: {names[0]} confused with {names[1]}, {mistakes.max()} times." if mistakes.any() else ""
    )
    runs = f" of {len(model.runs)} runs" if len(model.runs) > 1 else ""
    return Illustration(
        path,
        f"Confusion matrix of {label}: {np.trace(matrix)} of {matrix.sum()} predictions{runs} are correct.{worst}",
        f"{label}.{worst}",
        title="" if len(group.class_names) <= FEW_CLASSES else shorten(model.label, 120),
        is_open=rank == 1,
    )


def _means(group: Group, key: str) -> list[float | None]:
    return [model.mean(lambda run: run.values[key]) for model in group.models]


def _caption(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def _models(count: int) -> str:
    return f"{count} model{'s' * (count != 1)}"


def _say_left_out(shown: int, group: Group) -> str:
    total = len(group.models)
    return f"The {shown} most accurate of {total} models are drawn." if shown < total else ""


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:40] or "model"
