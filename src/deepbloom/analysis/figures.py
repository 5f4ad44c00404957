"""Figures of runs. Each function takes plain numbers, writes one PNG and leaves no state behind.

Colours are those of Okabe and Ito (2008), which colour-blind people tell apart; markers and dashes say the same again.
Names are drawn as they are: no character in them is markup.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from deepbloom.analysis.formatting import format_percent, shorten
from deepbloom.analysis.statistics import pareto_front, wilson_interval
from deepbloom.metrics import Reliability

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX<>"
DASHES = ("-", "--", ":")
INK, FAINT = "#333333", "#999999"
RIGHT, WRONG = ("#FFFFFF", "#56B4E9", "#08306B"), ("#FFFFFF", "#E69F00", "#A63603")
MAX_LINES = 12
STYLE: Any = {
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "text.parse_math": False,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
}

COUNT_TICKS = tuple(step * 10.0**power for power in range(16) for step in (1, 2, 5))
SECOND_TICKS = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30),
    *(60.0 * minutes for minutes in (1, 2, 5, 10, 20, 30)),
    *(3600.0 * hours for hours in (1, 2, 5, 10, 24, 48, 120, 240)),
)
PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.4g} %")

History = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Cost:
    """One price of a model, for `plot_pareto`.

    Attributes
    ----------
    name, unit : str
        What is paid: ``MACs``, ``multiply-accumulate operations per picture``.
    values : sequence of float or None
        One per model; models without a positive value are left out.
    ticks : sequence of float
        Values that may stand at the axis.
    write : function of float to str
        How a value is written there.
    """

    name: str
    unit: str
    values: Sequence[float | None]
    ticks: Sequence[float]
    write: Callable[[float], str]


def plot_history(history: History, path: Path, title: str = "") -> None:
    """Draw loss and accuracy of one run by epoch, training against validation, with the best epoch marked.

    Parameters
    ----------
    history : sequence of rows of ``history.csv``
        Each with ``epoch``, ``train_loss``, ``train_accuracy``, ``val_loss`` and ``val_accuracy`` (fractions).
    path : Path
        The PNG to write.
    title : str
        Which run it is.
    """
    epochs = _column(history, "epoch")
    val_accuracy = _column(history, "val_accuracy")
    best = epochs[np.nanargmax(val_accuracy)] if np.isfinite(val_accuracy).any() else None
    with _figure(path, 9.0, 3.8) as figure:
        axes = figure.subplots(1, 2)
        for axis, kind in zip(axes, ("loss", "accuracy"), strict=True):
            for part, name, color, dash, marker in (
                ("train", "training", COLORS[0], "--", "o"),
                ("val", "validation", COLORS[1], "-", "s"),
            ):
                values = _column(history, f"{part}_{kind}")
                axis.plot(
                    epochs, values, color=color, linestyle=dash, marker=marker, label=name, markevery=_every(epochs)
                )
            if best is not None:
                axis.axvline(best, color=FAINT, linewidth=1.2, linestyle=":", label=f"best epoch ({best:.0f})")
            axis.set_title(f"{kind.capitalize()} by epoch")
            _label_epochs(axis, kind, epochs)
        axes[0].legend()
        figure.suptitle(shorten(title, 100) if title else "Training history")


def plot_curves(curves: Mapping[str, Sequence[History]], path: Path) -> None:
    """Draw loss and accuracy of several models together: a line per model, a band from lowest to highest seed.

    Parameters
    ----------
    curves : dict of model name to the histories of its runs
        At most the first `MAX_LINES` models are drawn.
    """
    shown = dict(list(curves.items())[:MAX_LINES])
    longest = max((_column(history, "epoch") for runs in shown.values() for history in runs), key=len)
    with _figure(path, 10.0, 7.2) as figure:
        axes = figure.subplots(2, 2, sharey="row")
        for row, kind in zip(axes, ("loss", "accuracy"), strict=True):
            for axis, part, name in zip(row, ("train", "val"), ("Training", "Validation"), strict=True):
                for index, (label, histories) in enumerate(shown.items()):
                    _draw_band(axis, histories, f"{part}_{kind}", index, shorten(label))
                axis.set_title(f"{name} {kind}")
            for axis in row:
                _label_epochs(axis, kind, longest)
        _legend_below(figure, axes[0, 0])
        figure.suptitle("Learning curves (line: mean over seeds, band: lowest to highest seed)")


def plot_confusion(matrix: np.ndarray, class_names: Sequence[str], path: Path, title: str = "") -> None:
    """Draw a confusion matrix: blue on the diagonal is right, orange beside it is wrong.

    Each cell's colour is its share of the true class (its row), so that classes of different size compare.

    Parameters
    ----------
    matrix : ndarray of int, shape (C, C)
        Rows are true classes, columns predicted ones.
    class_names : sequence of str, length C
    path : Path
    title : str
        Which model it is.
    """
    matrix, names = np.asarray(matrix), [shorten(name, 24) for name in class_names]
    count = len(names)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    on_diagonal = np.eye(count, dtype=bool)
    with _square_figure(path, names) as (axis, bars):
        norm = PowerNorm(0.5, 0, 1)  # the square root keeps single mistakes visible
        for colors, hidden, name, bar_axis in zip(
            (RIGHT, WRONG), (~on_diagonal, on_diagonal), ("right", "wrong"), bars, strict=True
        ):
            shades = LinearSegmentedColormap.from_list(name, colors)
            image = axis.imshow(np.ma.masked_where(hidden, shares), cmap=shades, norm=norm)
            bar = bar_axis.figure.colorbar(image, cax=bar_axis, ticks=[0, 0.05, 0.2, 0.5, 1])
            bar_axis.set_title(name, fontsize=9)
            bar_axis.yaxis.set_major_formatter(PERCENT)
            bar_axis.tick_params(labelsize=8)
            bar.outline.set_visible(False)
        if count <= 20:
            _write_cells(axis, matrix, shares)
        else:
            edges = np.arange(0.5, count - 1)
            for draw in (axis.hlines, axis.vlines):
                draw(edges, -0.5, count - 0.5, color="#F0F0F0", linewidth=0.4)
        heading = f"Confusion matrix: {shorten(title, 60)}" if title else "Confusion matrix"
        axis.set_title(f"{heading}\ncolour: share of the true class; {matrix.sum()} answers", pad=10)


def plot_accuracy(
    labels: Sequence[str], accuracies: Sequence[float], intervals: Sequence[tuple[float, float]], path: Path
) -> None:
    """Draw the test accuracy of each model with its 95 % interval, the first on top."""
    rows = np.arange(len(labels))
    with _figure(path, 9.0, 1.5 + 0.36 * len(labels)) as figure:
        axis = figure.add_subplot()
        for row, (accuracy, (low, high)) in enumerate(zip(accuracies, intervals, strict=True)):
            axis.plot([low, high], [row, row], color=COLORS[0], linewidth=2.4, alpha=0.45, solid_capstyle="butt")
            axis.plot([low, low, np.nan, high, high], row + np.array([-0.14, 0.14, 0, -0.14, 0.14]), color=COLORS[0])
            axis.plot(accuracy, row, "o", color=COLORS[0], markersize=7)
            note = f"{format_percent(accuracy)}  [{100 * low:.1f}, {100 * high:.1f}]"
            axis.annotate(note, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=9)
        axis.set_yticks(rows, [shorten(label) for label in labels])
        axis.set_ylim(len(labels) - 0.5, -0.5)
        axis.grid(axis="y", visible=False)
        axis.xaxis.set_major_formatter(PERCENT)
        axis.set_xlabel("test accuracy")
        axis.set_title("Test accuracy with 95 % intervals")


def plot_pareto(labels: Sequence[str], accuracies: Sequence[float], costs: Sequence[Cost], path: Path) -> None:
    """Draw accuracy against each cost, a panel each, and join the models that no other beats on both.

    Parameters
    ----------
    labels, accuracies : length M
        The most accurate first; the first `MAX_LINES` have colours of their own, the rest are grey.
    costs : sequence of `Cost`
    """
    with _figure(path, 11.0, 4.4) as figure:
        axes = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
        for axis, cost in zip(axes, costs, strict=True):
            known = [i for i, value in enumerate(cost.values) if value is not None and value > 0]
            x, y = np.array([cost.values[i] for i in known], float), np.array([accuracies[i] for i in known])
            front = pareto_front(x, y)
            order = np.argsort(x[front])
            axis.step(x[front][order], y[front][order], where="post", color=FAINT, linestyle="--", zorder=1)
            for i, value, accuracy, best in zip(known, x, y, front, strict=True):
                label = shorten(labels[i]) if i < MAX_LINES else "_"  # matplotlib leaves out of the legend
                axis.plot(value, accuracy, label=label, **_point_style(i, best))
            axis.set_title(f"Accuracy against {cost.name}")
            axis.set_xlabel(cost.unit)
            _label_log(axis, x, cost)
        axes[0].yaxis.set_major_formatter(PERCENT)
        axes[0].set_ylabel("test accuracy")
        _legend_below(figure, axes[0])
        figure.suptitle("What accuracy costs (filled and joined: no other model is both cheaper and more accurate)")


def plot_reliability(bins: Mapping[str, Reliability], errors: Mapping[str, float], path: Path) -> None:
    """Draw accuracy against confidence for each model, with 95 % Wilson intervals; the diagonal is honest.

    Parameters
    ----------
    bins : dict of model name to `Reliability`
        At most the first `MAX_LINES` are drawn.
    errors : dict of model name to its expected calibration error
    """
    shown = list(bins.items())[:MAX_LINES]
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    with _figure(path, max(2.7 * columns, 4.5), 2.9 * rows + 0.7) as figure:
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axis, (label, reliability) in zip(axes.flat, shown, strict=False):
            axis.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1.2)
            filled = reliability.counts > 0
            x, y = reliability.mean_confidence[filled], reliability.accuracy[filled]
            low, high = wilson_interval(y * reliability.counts[filled], reliability.counts[filled])
            axis.vlines(x, low, high, color=COLORS[0], linewidth=1.2, alpha=0.55)
            axis.scatter(
                x, y, 10 + 130 * reliability.counts[filled] / reliability.counts.max(), color=COLORS[0], zorder=3
            )
            axis.set_title(f"{shorten(label, 26)}\nECE {format_percent(errors[label])}", fontsize=9.5)
            axis.set(xlim=(-0.04, 1.06), ylim=(-0.04, 1.06), aspect="equal")
            for side in (axis.xaxis, axis.yaxis):
                side.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
                side.set_major_formatter(
                    FuncFormatter(lambda value, _: f"{100 * value:.0f} %" if value in (0, 0.5, 1) else "")
                )
        for axis in axes.flat[len(shown) :]:
            axis.set_visible(False)
        figure.supxlabel("confidence", fontsize=10)
        figure.supylabel("accuracy", fontsize=10)
        figure.suptitle("Calibration (below the diagonal: too sure of itself; larger dots: more answers)", fontsize=11)


@contextmanager
def _figure(path: Path, width: float, height: float, layout: Any = "constrained") -> Iterator[Figure]:
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout=layout)
        yield figure
        figure.savefig(path, dpi=130, metadata={"Software": None})


def _column(history: History, name: str) -> np.ndarray:
    return np.array([row[name] for row in history], dtype=np.float64)


def _every(epochs: np.ndarray) -> int:
    return max(1, len(epochs) // 15)


def _label_epochs(axis: Axes, kind: str, epochs: np.ndarray) -> None:
    axis.set_xlabel("epoch")
    axis.set_ylabel(kind)
    margin = 0.5 + 0.02 * len(epochs)
    axis.set_xlim(epochs.min() - margin, epochs.max() + margin)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if kind == "accuracy":
        axis.yaxis.set_major_formatter(PERCENT)
    else:
        axis.set_ylim(bottom=0)


def _draw_band(axis: Axes, histories: Sequence[History], name: str, index: int, label: str) -> None:
    length = min(len(history) for history in histories)
    epochs = _column(histories[0][:length], "epoch")
    values = np.stack([_column(history[:length], name) for history in histories])  # (seeds, epochs)
    color, dash = COLORS[index % len(COLORS)], DASHES[index // len(COLORS) % len(DASHES)]
    marker = MARKERS[index % len(MARKERS)]
    axis.plot(epochs, values.mean(0), color=color, linestyle=dash, marker=marker, markevery=_every(epochs), label=label)
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


def _label_log(axis: Axes, values: np.ndarray, cost: Cost) -> None:
    axis.set_xscale("log")
    low, high = (values.min() / 1.6, values.max() * 1.6) if len(values) else (1.0, 10.0)
    axis.set_xlim(low, high)
    inside = [tick for tick in cost.ticks if low <= tick <= high]
    axis.xaxis.set_major_locator(FixedLocator(inside[:: math.ceil(len(inside) / 5) or 1]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: cost.write(value)))


@contextmanager
def _square_figure(path: Path, names: Sequence[str]) -> Iterator[tuple[Axes, list[Axes]]]:
    """Yield a square axis with a name per row and column, and two axes for colour bars.

    Margins follow from the longest name: measuring hundreds of labels would take longer than drawing them.
    """
    side = float(np.clip(0.42 * len(names), 4.2, 12.0))
    letters = float(np.clip(72 * 0.7 * side / len(names), 4.5, 10))
    longest = max(sum(0.6 if character.isascii() else 1.05 for character in name) for name in names) * letters / 72
    left, bottom, right, top = longest + 0.5, longest + 0.5, 1.75, 0.75
    width, height = left + side + right, bottom + side + top
    with _figure(path, width, height, layout="none") as figure:
        axis = figure.add_axes((left / width, bottom / height, side / width, side / height))
        axis.grid(False)
        axis.set_xticks(range(len(names)), names, rotation=90)
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(length=0, labelsize=letters)
        axis.set_xlabel("predicted class")
        axis.set_ylabel("true class")
        axis.spines[:].set_visible(False)
        tall = min(0.75 * side, 4.0)
        bars = [
            figure.add_axes(
                ((left + side + offset) / width, (bottom + (side - tall) / 2) / height, 0.14 / width, tall / height)
            )
            for offset in (0.25, 1.0)
        ]
        for bar in bars:
            bar.grid(False)
        yield axis, bars


def _write_cells(axis: Axes, matrix: np.ndarray, shares: np.ndarray) -> None:
    for (row, column), number in np.ndenumerate(matrix):
        if number:
            color = "white" if shares[row, column] > 0.45 else INK
            axis.text(column, row, f"{number}", ha="center", va="center", color=color, fontsize=9)


def _legend_below(figure: Figure, axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, max(len(labels), 1)))
