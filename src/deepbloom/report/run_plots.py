"""Figures of one run, and the style of all figures: each is written to a PNG and leaves no state behind.

Colors are those of Okabe and Ito (2008), which color-blind people can tell apart; markers and dashes repeat the
distinction. Names are drawn literally: no character in them is markup.
"""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from deepbloom.metrics import bin_by_confidence, expected_calibration_error, softmax
from deepbloom.report.formatting import shorten
from deepbloom.runs import files as atomic_files

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX<>"
DASHES = ("-", "--", ":")
CORRECT, WRONG = ("#FFFFFF", "#56B4E9", "#08306B"), ("#FFFFFF", "#E69F00", "#A63603")
INK, FAINT = "#333333", "#999999"
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

PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.4g} %")

History = Sequence[Mapping[str, float]]


@contextmanager
def open_figure(path: Path, width: float, height: float, layout: Any = "constrained") -> Iterator[Figure]:
    """Yield a figure of ``width`` by ``height`` inches, and write it as PNG when done."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout=layout)
        yield figure
        content = io.BytesIO()
        figure.savefig(content, dpi=130, metadata={"Software": None})
        atomic_files.write_bytes(path, content.getvalue())


def column(history: History, name: str) -> NDArray[np.float64]:
    """Return one column of a history: float64, shape (epochs,)."""
    return np.array([row[name] for row in history], dtype=np.float64)


def space_markers(epochs: NDArray[np.float64]) -> int:
    """Return the distance between markers in epochs, for about 15 markers."""
    return max(1, len(epochs) // 15)


def label_epochs(axis: Axes, kind: str, epochs: NDArray[np.float64]) -> None:
    """Label an axis of ``loss`` or ``accuracy`` by epoch."""
    axis.set_xlabel("epoch")
    axis.set_ylabel(kind)
    margin = 0.5 + 0.02 * len(epochs)
    axis.set_xlim(epochs.min() - margin, epochs.max() + margin)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if kind == "accuracy":
        axis.yaxis.set_major_formatter(PERCENT)
    else:
        axis.set_ylim(bottom=0)


def plot_history(history: History, path: Path, best: int, title: str = "") -> None:
    """Draw loss and accuracy of one run by epoch, for train and validation, with the best epoch marked.

    ``history`` holds the rows of history.csv, ``best`` is an epoch of it, and ``title`` says which run it is.
    """
    epochs = column(history, "epoch")
    spacing = space_markers(epochs)
    with open_figure(path, 9.0, 3.8) as figure:
        axes = figure.subplots(1, 2)
        for axis, kind in zip(axes, ("loss", "accuracy"), strict=True):
            for part, name, color, dash, marker in (
                ("train", "training", COLORS[0], "--", "o"),
                ("val", "validation", COLORS[1], "-", "s"),
            ):
                values = column(history, f"{part}_{kind}")
                axis.plot(epochs, values, color=color, linestyle=dash, marker=marker, label=name, markevery=spacing)
            axis.axvline(best, color=FAINT, linewidth=1.2, linestyle=":", label=f"best epoch ({best})")
            axis.set_title(f"{kind.capitalize()} by epoch")
            label_epochs(axis, kind, epochs)
        axes[0].legend()
        figure.suptitle(shorten(title, 100) if title else "Training history")


def plot_calibration(logits: NDArray[Any], targets: NDArray[Any], temperature: float, path: Path) -> None:
    """Draw reliability diagrams of one run before and after temperature scaling.

    Parameters
    ----------
    logits : ndarray, shape (N, C)
    targets : ndarray of int, shape (N,)
    temperature : float
    path : Path
    """
    correct = logits.argmax(1) == targets
    with open_figure(path, 7.2, 3.9) as figure:
        axes = figure.subplots(1, 2, sharex=True, sharey=True)
        for axis, divisor, name in zip(axes, (1.0, temperature), ("before", "after"), strict=True):
            confidences = softmax(logits, divisor).max(1)
            bins = bin_by_confidence(confidences, correct)
            axis.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1.2)
            axis.plot(bins.mean_confidence, bins.accuracy, color=COLORS[0], marker="o")
            error = expected_calibration_error(confidences, correct)
            axis.set_title(f"{name}: temperature {divisor:.2f}, ECE {100 * error:.1f} %")
            axis.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal", xlabel="confidence")
            for side in (axis.xaxis, axis.yaxis):
                side.set_major_formatter(PERCENT)
        axes[0].set_ylabel("accuracy")
        figure.suptitle("Calibration on the test split", fontsize=11)


def plot_confusion(matrix: ArrayLike, class_names: Sequence[str], path: Path, title: str = "") -> None:
    """Draw a confusion matrix: correct predictions blue, on the diagonal; wrong ones orange.

    The color of a cell is its share of the true class (its row), so that classes of different size compare.

    Parameters
    ----------
    matrix : ndarray of int, shape (C, C)
        Rows are true classes, columns predicted ones.
    class_names : sequence of str, length C
    path : Path
    title : str
        Which model it is.
    """
    counts, names = np.asarray(matrix), [shorten(name, 24) for name in class_names]
    count = len(names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    on_diagonal = np.eye(count, dtype=bool)
    with _square_figure(path, names) as (axis, bars):
        norm = PowerNorm(0.5, 0, 1)  # the square root keeps single mistakes visible
        pixels = np.empty((count, count, 4))
        for colors, shown, name, bar_axis in zip(
            (CORRECT, WRONG), (on_diagonal, ~on_diagonal), ("correct", "wrong"), bars, strict=True
        ):
            shades = ScalarMappable(norm, LinearSegmentedColormap.from_list(name, colors))
            pixels[shown] = shades.to_rgba(shares[shown])
            bar = bar_axis.figure.colorbar(shades, cax=bar_axis, ticks=[0, 0.05, 0.2, 0.5, 1])
            bar_axis.set_title(name, fontsize=9)
            bar_axis.yaxis.set_major_formatter(PERCENT)
            bar_axis.tick_params(labelsize=8)
            bar.outline.set_visible(False)
        axis.imshow(pixels, interpolation="nearest")
        if count <= 20:
            _write_cells(axis, counts, shares)
        else:
            edges = np.arange(0.5, count - 1)
            for draw in (axis.hlines, axis.vlines):
                draw(edges, -0.5, count - 0.5, color="#F0F0F0", linewidth=0.4)
        heading = f"Confusion matrix: {shorten(title, 60)}" if title else "Confusion matrix"
        axis.set_title(f"{heading}\ncolor: share of the true class; {counts.sum()} predictions", pad=10)


@contextmanager
def _square_figure(path: Path, names: Sequence[str]) -> Iterator[tuple[Axes, list[Axes]]]:
    """Yield a square axis with a name per row and column, and two axes for color bars.

    The longest name sets the margins: measuring hundreds of labels would take longer than drawing them.
    """
    side = float(np.clip(0.42 * len(names), 4.2, 12.0))
    letters = float(np.clip(72 * 0.7 * side / len(names), 4.5, 10))
    longest = max(sum(0.6 if character.isascii() else 1.05 for character in name) for name in names) * letters / 72
    left, bottom, right, top = longest + 0.5, longest + 0.5, 1.75, 0.75
    width, height = left + side + right, bottom + side + top
    with open_figure(path, width, height, layout="none") as figure:
        axis = figure.add_axes((left / width, bottom / height, side / width, side / height))
        axis.grid(False)
        axis.set_axis_off()
        style: dict[str, Any] = {"fontsize": letters, "clip_on": False}
        gap = 0.06 * len(names) / side
        for index, name in enumerate(names):
            axis.text(-0.5 - gap, index, name, ha="right", va="center", **style)
            axis.text(index, len(names) - 0.5 + gap, name, ha="center", va="top", rotation=90, **style)
        figure.text(0.25 / width, (bottom + side / 2) / height, "true class", rotation=90, ha="center", va="center")
        figure.text((left + side / 2) / width, 0.25 / height, "predicted class", ha="center", va="center")
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


def _write_cells(axis: Axes, matrix: NDArray[Any], shares: NDArray[Any]) -> None:
    for (target, predicted), number in np.ndenumerate(matrix):
        if number:
            color = "white" if shares[target, predicted] > 0.45 else INK
            axis.text(predicted, target, f"{number}", ha="center", va="center", color=color, fontsize=9)
