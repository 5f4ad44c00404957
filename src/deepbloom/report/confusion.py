"""The confusion matrix as a figure."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from numpy.typing import ArrayLike, NDArray

from deepbloom.report.formatting import shorten
from deepbloom.report.style import INK, PERCENT, open_figure

CORRECT, WRONG = ("#FFFFFF", "#56B4E9", "#08306B"), ("#FFFFFF", "#E69F00", "#A63603")


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
