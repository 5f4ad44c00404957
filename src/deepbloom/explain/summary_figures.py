"""Figures of ``deepbloom explain``: measures beside their controls, removal curves, the randomization test."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from deepbloom.explain.measures import MEASURES, REMOVED
from deepbloom.explain.summary import CONTROLS, Interval
from deepbloom.report.canvas import COLORS, DASHES, FAINT, MARKERS, PERCENT, open_figure

CURVES = {
    "deletion": ("deletion", "share of the pixels replaced"),
    "insertion": ("insertion", "share of the pixels made sharp"),
    "most_relevant_first": ("ROAD, most relevant first", "share of the pixels interpolated"),
    "least_relevant_first": ("ROAD, least relevant first", "share of the pixels interpolated"),
}


def name_kind(kind: str, titles: Mapping[str, str]) -> str:
    """Return what a kind of map is called: a method's title or a control's words."""
    return CONTROLS.get(kind, titles.get(kind, kind))


def plot_measures(summary: Mapping[str, Mapping[str, Interval]], titles: Mapping[str, str], path: Path) -> None:
    """Draw each measure in a panel: a dot with its 95 % interval for every kind of map."""
    kinds = list(summary)
    names = [name for name in MEASURES if any(name in summary[kind] for kind in kinds)]
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    with open_figure(path, 1.9 + 2.3 * columns, rows * (0.9 + 0.32 * len(kinds))) as figure:
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for panel in panels.flat[len(names) :]:
            panel.set_axis_off()
        for panel, name in zip(panels.flat, names, strict=False):
            for place, kind in enumerate(kinds):
                if (found := summary[kind].get(name)) is None:
                    continue
                color = FAINT if kind in CONTROLS else COLORS[place % len(COLORS)]
                panel.plot([found.low, found.high], [place, place], color=color)
                panel.plot(found.mean, place, MARKERS[place % len(MARKERS)], color=color)
            panel.set_title(f"{MEASURES[name].title} {'↑' if MEASURES[name].higher_is_better else '↓'}")
            panel.margins(x=0.15)
        for row in panels:
            row[0].set_yticks(range(len(kinds)), [name_kind(kind, titles) for kind in kinds])
            row[0].set_ylim(len(kinds) - 0.5, -0.5)


def plot_curves(curves: Mapping[str, Mapping[str, Sequence[float]]], titles: Mapping[str, str], path: Path) -> None:
    """Draw the mean probability of the class against the share of the pixels, one line for each kind of map."""
    with open_figure(path, 11.0, 3.6) as figure:
        panels = figure.subplots(1, len(CURVES), sharey=True)
        for panel, (curve, (title, label)) in zip(panels, CURVES.items(), strict=True):
            for place, (kind, drawn) in enumerate(curves.items()):
                panel.plot(
                    REMOVED[curve],
                    drawn[curve],
                    color=COLORS[place % len(COLORS)],
                    linestyle=DASHES[place % len(DASHES)],
                    marker=MARKERS[place % len(MARKERS)],
                    label=name_kind(kind, titles),
                )
            panel.set_title(title)
            panel.set_xlabel(label)
            panel.set_xlim(0, 1)
            panel.set_xticks([0, 0.5, 1])
            panel.xaxis.set_major_formatter(PERCENT)
        panels[0].set_ylim(0, 1)
        panels[0].yaxis.set_major_formatter(PERCENT)
        panels[0].set_ylabel("probability of the class")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)


def plot_randomization(layers: Sequence[str], correlations: np.ndarray, path: Path) -> None:
    """Draw how similar maps stay while the network is randomized from the top.

    Parameters
    ----------
    layers : sequence of str, length L
        In the order in which they were randomized.
    correlations : ndarray of float, shape (L, B)
        Of each image.
    path : Path
    """
    places = np.arange(len(layers) + 1)
    values = np.vstack([np.ones(correlations.shape[1]), correlations])
    with open_figure(path, 1.8 + 0.62 * len(places), 3.8) as figure:
        axis = figure.subplots()
        axis.axhline(0, color=FAINT, linewidth=1.2)
        axis.plot(places, values, color=FAINT, linewidth=0.8, alpha=0.6)
        axis.plot(places, values.mean(1), color=COLORS[0], marker="o", label="mean over images")
        axis.set_xticks(places, ["trained", *layers], rotation=45, ha="right", rotation_mode="anchor")
        axis.set_ylim(-1.05, 1.05)
        axis.set_ylabel("rank correlation with\nthe trained network's map")
        axis.set_title("Randomized from the top, layer by layer")
        axis.legend(loc="upper right")
