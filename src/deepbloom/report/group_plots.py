"""Figures of a group of models: ``plot_`` functions draw plain numbers, ``draw_`` functions a group with a caption."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from deepbloom.report.formatting import count_of, format_count, format_percent, format_seconds, shorten
from deepbloom.report.groups import Group
from deepbloom.report.pages import Illustration
from deepbloom.report.run_plots import (
    COLORS,
    DASHES,
    FAINT,
    MARKERS,
    PERCENT,
    History,
    column,
    label_epochs,
    open_figure,
    space_markers,
)
from deepbloom.report.statistics import pareto_front

MAX_LINES = 12
COUNT_TICKS = tuple(step * 10.0**power for power in range(16) for step in (1, 2, 5))
SECOND_TICKS = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30),
    *(60.0 * minutes for minutes in (1, 2, 5, 10, 20, 30)),
    *(3600.0 * hours for hours in (1, 2, 5, 10, 24, 48, 120, 240)),
)

MAX_BARS = 30
LONGEST_LABEL = 40
HELP = {
    "accuracy": "Dots are accuracies, bars their 95 % intervals. Overlapping bars do not mean a tie: the comparison of "
    "pairs is sharper, because both models classified the same images.",
    "curves": "If training is far better than validation, the network overfits. Accuracies that still rise at the end "
    "may gain from more epochs. Augmentation and dropout act in training only, so validation may look better. "
    "Curves bend where the train resolution changes.",
    "cost": "Costs are on a logarithmic scale. Filled points on the dashed line are the Pareto front: no other model "
    "is at least as accurate and cheaper. The front ignores uncertainty: in a tie, the cheaper model may be as "
    "good.",
}
"""How to read each figure."""


class Cost(NamedTuple):
    """A cost of models for `plot_pareto`: one value per model (None is not drawn), and the ticks that may be shown."""

    name: str
    unit: str
    values: Sequence[float | None]
    ticks: Sequence[float]
    write: Callable[[float], str]


def plot_curves(curves: Mapping[str, Sequence[History]], path: Path) -> None:
    """Draw loss and accuracy of the first `MAX_LINES` models: a line per model, a band from lowest to highest run."""
    shown = dict(list(curves.items())[:MAX_LINES])
    longest = max((column(history, "epoch") for runs in shown.values() for history in runs), key=len)
    with open_figure(path, 10.0, 7.2) as figure:
        axes = figure.subplots(2, 2, sharey="row")
        for row, kind in zip(axes, ("loss", "accuracy"), strict=True):
            for axis, part, name in zip(row, ("train", "val"), ("Training", "Validation"), strict=True):
                for index, (label, histories) in enumerate(shown.items()):
                    _draw_band(axis, histories, f"{part}_{kind}", index, shorten(label))
                axis.set_title(f"{name} {kind}")
            for axis in row:
                label_epochs(axis, kind, longest)
        legend_below(figure, axes[0, 0])
        figure.suptitle("Learning curves (line: mean over runs, band: lowest to highest run)")


def plot_accuracy(
    labels: Sequence[str], accuracies: Sequence[float], intervals: Sequence[tuple[float, float]], path: Path
) -> None:
    """Draw the test accuracy of each model with its 95 % interval, the first on top; as wide as a phone shows."""
    with open_figure(path, 5.4, 1.2 + 0.48 * len(labels)) as figure:
        axis = figure.add_subplot()
        for row, (label, accuracy, (low, high)) in enumerate(zip(labels, accuracies, intervals, strict=True)):
            axis.plot([low, high], [row, row], color=COLORS[0], linewidth=2.4, alpha=0.45, solid_capstyle="butt")
            axis.plot([low, low, np.nan, high, high], row + np.array([-0.14, 0.14, 0, -0.14, 0.14]), color=COLORS[0])
            axis.plot(accuracy, row, "o", color=COLORS[0], markersize=7)
            note = f"{format_percent(accuracy)}  [{100 * low:.1f}, {100 * high:.1f}]"
            for text, across, side in ((shorten(label, LONGEST_LABEL), 0.01, "left"), (note, 0.99, "right")):
                axis.annotate(text, (across, row - 0.36), xycoords=("axes fraction", "data"), ha=side, va="center")
        axis.set_yticks([])
        axis.set_ylim(len(labels) - 0.5, -0.7)
        axis.xaxis.set_major_formatter(PERCENT)
        axis.set_xlabel("test accuracy")
        axis.set_title("Test accuracy with 95 % intervals")


def plot_pareto(labels: Sequence[str], accuracies: Sequence[float], costs: Sequence[Cost], path: Path) -> None:
    """Draw accuracy against each cost, a panel each, with the Pareto front.

    The most accurate model comes first; the first `MAX_LINES` have colors of their own, the rest are gray.
    """
    with open_figure(path, 11.0, 4.4) as figure:
        axes = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
        for axis, cost in zip(axes, costs, strict=True):
            known = [i for i, value in enumerate(cost.values) if value is not None and value > 0]
            x, y = np.array([cost.values[i] for i in known], float), np.array([accuracies[i] for i in known])
            front = pareto_front(x, y)
            order = np.argsort(x[front])
            axis.step(x[front][order], y[front][order], where="post", color=FAINT, linestyle="--", zorder=1)
            for i, value, accuracy, best in zip(known, x, y, front, strict=True):
                label = shorten(labels[i]) if i < MAX_LINES else "_"  # not in the legend
                axis.plot(value, accuracy, label=label, **_point_style(i, best))
            axis.set_title(f"Accuracy against {cost.name}")
            axis.set_xlabel(cost.unit)
            _label_log(axis, x, cost)
        axes[0].yaxis.set_major_formatter(PERCENT)
        axes[0].set_ylabel("test accuracy")
        legend_below(figure, axes[0])
        figure.suptitle("Accuracy and cost (filled and joined: the Pareto front)")


def _draw_band(axis: Axes, histories: Sequence[History], name: str, index: int, label: str) -> None:
    length = min(len(history) for history in histories)
    epochs = column(histories[0][:length], "epoch")
    values = np.stack([column(history[:length], name) for history in histories])  # (seeds, epochs)
    color, dash = COLORS[index % len(COLORS)], DASHES[index // len(COLORS) % len(DASHES)]
    marker = MARKERS[index % len(MARKERS)]
    axis.plot(
        epochs, values.mean(0), color=color, linestyle=dash, marker=marker, markevery=space_markers(epochs), label=label
    )
    if len(values) > 1:
        axis.fill_between(epochs, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)


def _point_style(index: int, on_front: bool) -> dict[str, Any]:
    if index >= MAX_LINES:
        return {"color": "#BBBBBB", "marker": ".", "markersize": 5, "linestyle": ""}
    color = COLORS[index % len(COLORS)]
    return {
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 9,
        "markeredgecolor": color,
        "markeredgewidth": 1.8,
        "markerfacecolor": color if on_front else "white",
        "linestyle": "",
    }


def _label_log(axis: Axes, values: NDArray[np.float64], cost: Cost) -> None:
    axis.set_xscale("log")
    low, high = (values.min() / 1.6, values.max() * 1.6) if len(values) else (1.0, 10.0)
    axis.set_xlim(low, high)
    inside = [tick for tick in cost.ticks if low <= tick <= high]
    if len(inside) < 2 and len(values):
        inside = sorted({values.min(), values.max()}) if values.max() > 1.3 * values.min() else [values.max()]
    shown: list[float] = []
    for tick in inside:
        if not shown or math.log(tick / shown[-1]) > math.log(high / low) / 5:  # else their labels would touch
            shown.append(tick)
    axis.xaxis.set_major_locator(FixedLocator(shown))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: cost.write(value)))


def legend_below(figure: Figure, axis: Axes) -> None:
    """Put the legend of an axis below the figure, in as many columns as its labels leave room for."""
    handles, labels = axis.get_legend_handles_labels()
    longest = 0.5 + 0.09 * max(map(len, labels), default=0)  # inches of a label and its line
    columns = int(np.clip(figure.get_figwidth() / longest, 1, 4))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def draw_accuracy(group: Group, path: Path, explain: bool) -> Illustration:
    """Draw accuracies with their intervals."""
    shown = group.rows[:MAX_BARS]
    plot_accuracy([m.short for m in shown], [m.accuracy for m in shown], [m.interval for m in shown], path)
    worst, best = format_percent(shown[-1].accuracy), format_percent(shown[0].accuracy)
    return Illustration(
        path,
        f"Test accuracy of {count_of(len(shown), 'model')} with 95 % intervals, from {worst} to {best}.",
        join(HELP["accuracy"] if explain else "", say_left_out(len(shown), group)),
    )


def draw_curves(group: Group, path: Path, explain: bool) -> Illustration:
    """Draw the learning curves of those models that have a history."""
    histories = {model.short: [run.history for run in model.runs if run.history] for model in group.models}
    curves = {name: known for name, known in histories.items() if known}
    plot_curves(curves, path)
    count = min(len(curves), MAX_LINES)
    return Illustration(
        path,
        f"Loss and accuracy by epoch of {count_of(count, 'model')}, for train and validation.",
        join(HELP["curves"] if explain else "", say_left_out(count, group)),
    )


def draw_cost(group: Group, path: Path, explain: bool) -> Illustration:
    """Draw accuracy against parameters, MACs and training time, with the Pareto fronts."""
    models, operations = group.models, "multiply-accumulate operations per image"
    costs = [
        Cost(
            "parameters", "parameters", [model.mean_of("params_total") for model in models], COUNT_TICKS, format_count
        ),
        Cost("MACs", operations, [model.mean_of("macs") for model in models], COUNT_TICKS, format_count),
        Cost(
            "training time",
            "training time",
            [model.mean_of("train_seconds") for model in models],
            SECOND_TICKS,
            format_seconds,
        ),
    ]
    plot_pareto([m.short for m in models], [m.accuracy for m in models], costs, path)
    gray = f"Gray: models after the first {MAX_LINES}." if len(models) > MAX_LINES else ""
    return Illustration(
        path,
        f"Test accuracy of {count_of(len(models), 'model')} against parameters, MACs and training time.",
        join(HELP["cost"] if explain else "", gray),
    )


def join(*sentences: str) -> str:
    """Return the sentences that are not empty as one text."""
    return " ".join(filter(None, sentences))


def say_left_out(shown: int, group: Group) -> str:
    """Say that not all models are drawn; empty if they are."""
    total = len(group.models)
    return f"The {shown} most accurate of {total} models are drawn." if shown < total else ""
