"""``explain.html``: what was measured of a network's heatmaps, what it means, and the heatmaps themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepbloom.explain.evaluate import Located
from deepbloom.explain.faithfulness import CURVE_FRACTIONS
from deepbloom.explain.methods import METHODS
from deepbloom.explain.summary import CONTROLS, MEASURES, Interval, Means
from deepbloom.report.pages import Illustration, PageTable, Section, write_page
from deepbloom.report.run_plots import COLORS, DASHES, FAINT, MARKERS, PERCENT, open_figure

PAGE = "explain.html"
MAX_GALLERIES = 3
"""Galleries in the page, which would be too large with more; the others are files only."""
CURVES = {
    "deletion": ("deletion", "share of the pixels replaced"),
    "insertion": ("insertion", "share of the pixels sharpened"),
    "most_relevant_first": ("ROAD, most relevant first", "share of the pixels interpolated"),
    "least_relevant_first": ("ROAD, least relevant first", "share of the pixels interpolated"),
}


def write(folder: Path, content: Mapping[str, Any], galleries: Sequence[Illustration]) -> Path:
    """Draw the figures into ``folder/figures``, write the page, and return its path; ``content`` is of explain.json."""
    figures, test = folder / "figures", content["randomization"]
    correlations = np.array(test["rank_correlation"])
    plot_measures(content["measures"], figures / "measures.png")
    plot_curves(content["curves"], figures / "curves.png")
    plot_randomization(test["layers"], correlations, figures / "randomization.png")
    curves = Illustration(
        figures / "curves.png",
        "Probability of the class while pixels are deleted, inserted or interpolated.",
        "Deletion, and ROAD with the most relevant first: the faster a line falls, the more its map marks what the "
        "network needs. Insertion, and ROAD with the least relevant first: the higher, the better.",
    )
    randomization = Illustration(
        figures / "randomization.png",
        "Rank correlation with the trained network's map, layer by layer from the top.",
        "Thin lines are single images.",
    )
    explanation = (
        f"The weights are randomized from the last layer down, and each time {name_kind(test['method'])} explains the "
        "same classes of the same images. A map that stays alike shows the image, not the network (Adebayo et al. "
        f"2018). With all layers randomized the mean rank correlation is {correlations[-1].mean():.2f}; 1 is no change."
    )
    left_out = len(galleries) - MAX_GALLERIES
    more = (f"{left_out} more galleries lie in the folder figures/ beside this page.",) if left_out > 0 else ()
    sections = [
        _describe_measures(content, figures / "measures.png"),
        Section("Curves", figures=(curves,)),
        Section("Does the map depend on the weights?", paragraphs=(explanation,), figures=(randomization,)),
        Section("The most confident predictions", paragraphs=more, figures=tuple(galleries[:MAX_GALLERIES])),
    ]
    lead = (
        f"Measured on {content['images']:,} test images. Each map explains the class that the network predicts, at "
        f"layer {', '.join(content['layers'])}. A measure means little alone: compare it with that of the control "
        "maps, which know nothing of what the network has learned."
    )
    write_page(folder / PAGE, f"Where {content['model']} looks, measured", lead, sections)
    return folder / PAGE


def name_kind(kind: str) -> str:
    """Return a method's title or a control's description."""
    return CONTROLS[kind] if kind in CONTROLS else METHODS[kind].title


def _describe_measures(content: Mapping[str, Any], figure: Path) -> Section:
    means: Means = content["measures"]

    def cell(found: Interval | None) -> str:
        return f"{found.mean:.3f}\n[{found.low:.3f}, {found.high:.3f}]" if found else "–"

    measures = {name: MEASURES[name] for name in MEASURES if any(name in columns for columns in means.values())}
    table = PageTable(
        ("Maps", *(f"{measure.title} {measure.arrow}" for measure in measures.values())),
        tuple((name_kind(kind), *(cell(found.get(name)) for name in measures)) for kind, found in means.items()),
        "Means over images, below them 95 % intervals. ↑: higher is better; ↓: lower is better.",
    )
    drawn = Illustration(
        figure,
        "The means of the table with their intervals, a panel for each measure.",
        "Controls are gray. These intervals are of each mean alone; the sentences above compare image by image, with "
        "Holm's correction for their number.",
    )
    masks: Located = content["masks"]
    about_masks = (
        "There are no masks of these images, so it is not measured whether the evidence lies on the flower. Give "
        "masks=FOLDER, or masks=download for Flowers102."
    )
    if masks.flower_share is not None:
        about_masks = (
            f"Masks of the flowers ({masks.origin}): {masks.count:,} of these images have one; the flower covers "
            f"{100 * masks.flower_share:.0f} % of the image on average."
        )
    return Section(
        "Measures",
        paragraphs=(*content["findings"], about_masks),
        tables=(table,),
        meanings=tuple((measure.title, measure.meaning) for measure in measures.values()),
        figures=(drawn,),
    )


def plot_measures(summary: Means, path: Path) -> None:
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
            panel.set_title(f"{MEASURES[name].title} {MEASURES[name].arrow}")
            panel.margins(x=0.15)
        for row in panels:
            row[0].set_yticks(range(len(kinds)), [name_kind(kind) for kind in kinds])
            row[0].set_ylim(len(kinds) - 0.5, -0.5)


def plot_curves(curves: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Draw the mean probability of the class against the share of the pixels, one line for each kind of map."""
    with open_figure(path, 11.0, 3.6) as figure:
        panels = figure.subplots(1, len(CURVES), sharey=True)
        for panel, (curve, (title, label)) in zip(panels, CURVES.items(), strict=True):
            for place, (kind, drawn) in enumerate(curves.items()):
                panel.plot(
                    CURVE_FRACTIONS[curve],
                    drawn[curve],
                    color=COLORS[place % len(COLORS)],
                    linestyle=DASHES[place % len(DASHES)],
                    marker=MARKERS[place % len(MARKERS)],
                    label=name_kind(kind),
                )
            panel.set(title=title, xlabel=label, xlim=(0, 1), xticks=[0, 0.5, 1])
            panel.xaxis.set_major_formatter(PERCENT)
        panels[0].set(ylabel="probability of the class", ylim=(0, 1))
        panels[0].yaxis.set_major_formatter(PERCENT)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)


def plot_randomization(layers: Sequence[str], correlations: np.ndarray, path: Path) -> None:
    """Draw how similar maps stay, shape (L, B), while L layers of the network are randomized from the top."""
    places = np.arange(len(layers) + 1)
    values = np.vstack([np.ones(correlations.shape[1]), correlations])
    with open_figure(path, 1.8 + 0.62 * len(places), 3.8) as figure:
        axis = figure.subplots()
        axis.axhline(0, color=FAINT, linewidth=1.2)
        axis.plot(places, values, color=FAINT, linewidth=0.8, alpha=0.6)
        axis.plot(places, values.mean(1), color=COLORS[0], marker="o", label="mean over images")
        axis.set_xticks(places, ["trained", *layers], rotation=45, ha="right", rotation_mode="anchor")
        axis.set(ylabel="rank correlation with\nthe trained network's map", ylim=(-1.05, 1.05))
        axis.set_title("Randomized from the top, layer by layer")
        axis.legend(loc="upper right")
