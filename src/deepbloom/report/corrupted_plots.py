"""The figures of accuracy, and of where the evidence lies, by severity of each corruption."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepbloom.report.formatting import shorten
from deepbloom.report.run_plots import COLORS, DASHES, MARKERS, PERCENT, open_figure

COLUMNS = 5


def plot_severities(
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    path: Path,
    value: str = "top1_accuracy",
    title: str = "test accuracy",
    chance: str = "",
) -> None:
    """Draw a value against severity, 0 being clean: a panel per corruption, a line and a 95 % band per network.

    Parameters
    ----------
    curves : mapping of str to rows
        By network: ``corruption``, ``severity``, the value, ``low`` and ``high``, the clean images first.
    path : Path
    value : str
        The key of the value, a share.
    title : str
        What it is.
    chance : str
        The key of what a constant map would give, a dotted line; empty: none.
    """
    names = list(dict.fromkeys(row["corruption"] for rows in curves.values() for row in rows[1:]))
    columns = min(COLUMNS, len(names))
    height = math.ceil(len(names) / columns)
    with open_figure(path, max(2.2 * columns, 5.0), 1.9 * height + 0.8) as figure:
        axes = figure.subplots(height, columns, sharex=True, sharey=True, squeeze=False)
        lines = []
        for number, rows in enumerate(curves.values()):
            style: dict[str, Any] = {"color": COLORS[number % len(COLORS)]}
            for axis, name in zip(axes.flat, names, strict=False):
                chosen = [rows[0], *(row for row in rows[1:] if row["corruption"] == name)]
                severity, middle, low, high = (
                    [row[key] for row in chosen] for key in ("severity", value, "low", "high")
                )
                dash, marker = DASHES[number // len(COLORS) % len(DASHES)], MARKERS[number % len(MARKERS)]
                (line,) = axis.plot(severity, middle, linestyle=dash, marker=marker, markersize=3, **style)
                axis.fill_between(severity, low, high, alpha=0.15, linewidth=0, **style)
                if chance:
                    constant = [row[chance] for row in chosen]
                    (dotted,) = axis.plot(severity, constant, linestyle=":", linewidth=1.2, color="gray")
                axis.set_title(name.replace("_", " "), fontsize=9)
            lines.append(line)
        for axis in axes.flat[len(names) :]:
            axis.set_visible(False)
        axes[0, 0].set_ylim(0, 1.02)
        axes[0, 0].yaxis.set_major_formatter(PERCENT)
        axes[0, 0].set_xticks(sorted({row["severity"] for rows in curves.values() for row in rows}))
        figure.supxlabel("severity (0: as it is)", fontsize=10)
        figure.supylabel(title, fontsize=10)
        labels = [shorten(label) for label in curves]
        if chance:
            lines, labels = [*lines, dotted], [*labels, "a constant map"]
        figure.legend(lines, labels, loc="outside upper center", ncols=3)
