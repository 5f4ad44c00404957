"""``explain.html``: what was measured of a network's heatmaps, what it says, and the heatmaps themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepbloom.explain import summary_figures as figures
from deepbloom.explain.measures import MEASURES
from deepbloom.explain.summary import Interval
from deepbloom.report.illustrations import Illustration
from deepbloom.report.page import PageTable, Section, write_page

PAGE = "explain.html"
MAX_GALLERIES = 3
"""Galleries in the page; the others are files only, or the page would be too large."""


def write(
    folder: Path,
    content: Mapping[str, Any],
    summary: Mapping[str, Mapping[str, Interval]],
    titles: Mapping[str, str],
    galleries: Sequence[Illustration],
) -> Path:
    """Draw the figures into ``folder/figures`` and write the page.

    Parameters
    ----------
    folder : Path
    content : mapping
        What explain.json holds.
    summary : mapping
        By kind of map and measure.
    titles : mapping
        The methods' titles.
    galleries : sequence of Illustration

    Returns
    -------
    Path
        Of the page.
    """
    drawn = folder / "figures"
    figures.plot_measures(summary, titles, drawn / "measures.png")
    figures.plot_curves(content["curves"], titles, drawn / "curves.png")
    test = content["randomization"]
    figures.plot_randomization(test["layers"], np.array(test["rank_correlation"]), drawn / "randomization.png")
    sections = [
        _describe_measures(content, summary, titles, drawn),
        _describe_curves(drawn),
        _describe_randomization(test, titles, drawn),
        _describe_galleries(galleries),
    ]
    path = folder / PAGE
    write_page(path, f"Where {content['model']} looks, measured", _introduce(content), sections)
    return path


def _introduce(content: Mapping[str, Any]) -> str:
    return (
        f"Measured on {content['images']:,} test images. Every map explains the class that the network predicts, at "
        f"layer {', '.join(content['layers'])}. A measure means little alone: beside the maps stand others that know "
        "nothing of what the network has learned."
    )


def _describe_measures(
    content: Mapping[str, Any],
    summary: Mapping[str, Mapping[str, Interval]],
    titles: Mapping[str, str],
    drawn: Path,
) -> Section:
    names = [name for name in MEASURES if any(name in columns for columns in summary.values())]
    headings = ("Maps", *(f"{MEASURES[name].title} {_arrow(name)}" for name in names))
    rows = tuple(
        (figures.name_kind(kind, titles), *(_write_cell(columns.get(name)) for name in names))
        for kind, columns in summary.items()
    )
    caption = "Means over images, below them 95 % bootstrap intervals. ↑: higher is better; ↓: lower is better."
    return Section(
        "Measures",
        paragraphs=(*content["findings"], _say_masks(content["masks"])),
        tables=(PageTable(headings, rows, caption),),
        meanings=tuple((MEASURES[name].title, MEASURES[name].meaning) for name in names),
        figures=(
            Illustration(
                drawn / "measures.png",
                "The means of the table with their intervals, a panel for each measure.",
                "Grey are the controls. Intervals here are of each mean alone; the sentences above compare image by "
                "image, which is sharper.",
            ),
        ),
    )


def _say_masks(masks: Mapping[str, Any]) -> str:
    if not masks["origin"]:
        return (
            "There are no masks of these images, so it is not measured whether the evidence lies on the flower. Give "
            "masks=FOLDER, or masks=download for Flowers102."
        )
    return (
        f"Masks of the flowers ({masks['origin']}): {masks['count']:,} of these images have one; the flower covers "
        f"{100 * masks['flower_share']:.0f} % of the image on average."
    )


def _describe_curves(drawn: Path) -> Section:
    return Section(
        "Curves",
        figures=(
            Illustration(
                drawn / "curves.png",
                "Probability of the class while pixels are deleted, inserted or interpolated.",
                "Deletion and the most relevant first: the faster a line falls, the more its map marks what the "
                "network needs. Insertion and the least relevant first: the higher, the better.",
            ),
        ),
    )


def _describe_randomization(test: Mapping[str, Any], titles: Mapping[str, str], drawn: Path) -> Section:
    method = titles.get(test["method"], test["method"])
    means = np.array(test["rank_correlation"]).mean(axis=1)
    return Section(
        "Does the map depend on the weights?",
        paragraphs=(
            f"The weights are drawn anew, beginning with the last layer, and each time {method} explains the same "
            "classes of the same images. A map that stays alike shows the image, not the network (Adebayo et al. "
            f"2018). With all layers randomized the mean rank correlation is {means[-1]:.2f}; 1 would be no change.",
        ),
        figures=(
            Illustration(
                drawn / "randomization.png",
                "Rank correlation with the trained network's map, layer by layer from the top.",
                "Thin lines are single images.",
            ),
        ),
    )


def _describe_galleries(galleries: Sequence[Illustration]) -> Section:
    left_out = len(galleries) - MAX_GALLERIES
    more = (f"{left_out} more galleries lie in the folder figures/ beside this page.",) if left_out > 0 else ()
    return Section("The most confident answers", paragraphs=more, figures=tuple(galleries[:MAX_GALLERIES]))


def _arrow(name: str) -> str:
    return "↑" if MEASURES[name].higher_is_better else "↓"


def _write_cell(found: Interval | None) -> str:
    return f"{found.mean:.3f}\n[{found.low:.3f}, {found.high:.3f}]" if found else "–"
