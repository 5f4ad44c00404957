"""Figures of one run. Each function takes plain numbers and writes one PNG."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, PowerNorm

from deepbloom.report.canvas import (
    COLORS,
    FAINT,
    INK,
    PERCENT,
    History,
    column,
    label_epochs,
    open_figure,
    space_markers,
)
from deepbloom.report.formatting import shorten

RIGHT, WRONG = ("#FFFFFF", "#56B4E9", "#08306B"), ("#FFFFFF", "#E69F00", "#A63603")


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
    epochs = column(history, "epoch")
    val_accuracy = column(history, "val_accuracy")
    best = epochs[np.nanargmax(val_accuracy)] if np.isfinite(val_accuracy).any() else None
    with open_figure(path, 9.0, 3.8) as figure:
        axes = figure.subplots(1, 2)
        for axis, kind in zip(axes, ("loss", "accuracy"), strict=True):
            for part, name, color, dash, marker in (
                ("train", "training", COLORS[0], "--", "o"),
                ("val", "validation", COLORS[1], "-", "s"),
            ):
                values = column(history, f"{part}_{kind}")
                axis.plot(
                    epochs,
                    values,
                    color=color,
                    linestyle=dash,
                    marker=marker,
                    label=name,
                    markevery=space_markers(epochs),
                )
            if best is not None:
                axis.axvline(best, color=FAINT, linewidth=1.2, linestyle=":", label=f"best epoch ({best:.0f})")
            axis.set_title(f"{kind.capitalize()} by epoch")
            label_epochs(axis, kind, epochs)
        axes[0].legend()
        figure.suptitle(shorten(title, 100) if title else "Training history")


def plot_confusion(matrix: np.ndarray, class_names: Sequence[str], path: Path, title: str = "") -> None:
    """Draw a confusion matrix: blue on the diagonal is right, orange beside it is wrong.

    Each cell's color is its share of the true class (its row), so that classes of different size compare.

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
        pixels = np.empty((count, count, 4))
        for colors, shown, name, bar_axis in zip(
            (RIGHT, WRONG), (on_diagonal, ~on_diagonal), ("right", "wrong"), bars, strict=True
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
            _write_cells(axis, matrix, shares)
        else:
            edges = np.arange(0.5, count - 1)
            for draw in (axis.hlines, axis.vlines):
                draw(edges, -0.5, count - 0.5, color="#F0F0F0", linewidth=0.4)
        heading = f"Confusion matrix: {shorten(title, 60)}" if title else "Confusion matrix"
        axis.set_title(f"{heading}\ncolour: share of the true class; {matrix.sum()} answers", pad=10)


@contextmanager
def _square_figure(path: Path, names: Sequence[str]) -> Iterator[tuple[Axes, list[Axes]]]:
    """Yield a square axis with a name per row and column, and two axes for color bars.

    Margins follow from the longest name: measuring hundreds of labels would take longer than drawing them.
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


def _write_cells(axis: Axes, matrix: np.ndarray, shares: np.ndarray) -> None:
    for (target, answer), number in np.ndenumerate(matrix):
        if number:
            color = "white" if shares[target, answer] > 0.45 else INK
            axis.text(answer, target, f"{number}", ha="center", va="center", color=color, fontsize=9)
