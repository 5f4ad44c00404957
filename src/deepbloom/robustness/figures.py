"""Figures of robustness: accuracy by corruption and severity, and samples of what the network saw."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepbloom.report.formatting import shorten
from deepbloom.report.intervals import wilson_interval
from deepbloom.report.run_plots import COLORS, DASHES, MARKERS, PERCENT, open_figure
from deepbloom.robustness.corruptions import corrupt
from deepbloom.robustness.evaluate import CLEAN_CONDITION, Condition, Measured

COLUMNS = 5
SAMPLE_INCHES = 1.1


def plot_curves(networks: Sequence[Measured], path: Path) -> None:
    """Draw accuracy against severity, 0 being clean: a panel per corruption, a line and a 95 % band per network."""
    names = list(dict.fromkeys(condition.corruption for condition in networks[0].correct if condition.severity))
    rows = math.ceil(len(names) / COLUMNS)
    with open_figure(path, 2.2 * COLUMNS, 1.9 * rows + 0.6) as figure:
        axes = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
        for axis, name in zip(axes.flat, names, strict=False):
            for number, network in enumerate(networks):
                chosen = [
                    CLEAN_CONDITION,
                    *(condition for condition in network.correct if condition.corruption == name),
                ]
                severities = [condition.severity for condition in chosen]
                correct = np.array([network.correct[condition].sum() for condition in chosen])
                count = len(network.correct[CLEAN_CONDITION])
                color = COLORS[number % len(COLORS)]
                style = {"color": color, "linestyle": DASHES[number // len(COLORS) % len(DASHES)]}
                axis.plot(severities, correct / count, marker=MARKERS[number % len(MARKERS)], markersize=3, **style)
                axis.fill_between(severities, *wilson_interval(correct, count), color=color, alpha=0.15, linewidth=0)
            axis.set_title(name.replace("_", " "), fontsize=9)
        for axis in axes.flat[len(names) :]:
            axis.set_visible(False)
        axes[0, 0].set_ylim(0, 1.02)
        axes[0, 0].yaxis.set_major_formatter(PERCENT)
        axes[0, 0].set_xticks(sorted({condition.severity for condition in networks[0].correct}))
        figure.supxlabel("severity (0: as it is)", fontsize=10)
        figure.supylabel("test accuracy", fontsize=10)
        labels = [shorten(network.label) for network in networks]
        figure.legend(axes[0, 0].lines, labels, loc="outside upper center", ncols=3)


def draw_samples(image: np.ndarray, image_id: str, wanted: Sequence[Condition], seed: int, path: Path) -> None:
    """Draw one image, uint8 of shape (S, S, 3), under each condition: a row per corruption."""
    names = list(dict.fromkeys(condition.corruption for condition in wanted if condition.severity))
    severities = sorted({condition.severity for condition in wanted})
    rows = [[corrupt(image, name, level, seed, image_id) if level else image for level in severities] for name in names]
    sheet = np.vstack([np.hstack(row) for row in rows])
    side = len(image)
    with open_figure(path, SAMPLE_INCHES * len(severities) + 1.4, SAMPLE_INCHES * len(names) + 0.4) as figure:
        axis = figure.add_subplot()
        axis.imshow(sheet)
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0, labeltop=True, labelbottom=False)
        titles = [f"severity {level}" if level else "as it is" for level in severities]
        axis.set_xticks([side * (column + 0.5) for column in range(len(severities))], titles)
        axis.set_yticks([side * (row + 0.5) for row in range(len(names))], [name.replace("_", " ") for name in names])
