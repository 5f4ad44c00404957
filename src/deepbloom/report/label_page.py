"""``labels.html``: images whose label is probably wrong, near-duplicates with different labels, and outliers."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from deepbloom.data.label_check import LabelCheck
from deepbloom.data.sources import ImageSource
from deepbloom.report.evidence import to_webp
from deepbloom.report.formatting import count_of, shorten
from deepbloom.report.pages import Cell, PageTable, Photo, Section, write_page
from deepbloom.report.thumbnails import QUALITY, SIDE

MOST = 200
"""Rows of a table; label_suspects.csv and the other files have all."""
SHOWN = 25
"""Rows that are visible at once."""

Show = Callable[[int], Cell]
"""From an image's place to its cell."""


def write(path: Path, source: ImageSource, found: LabelCheck, thumbnails: bool) -> None:
    """Write the page; without ``thumbnails`` it names images and shows none.

    Raises
    ------
    DataError
        An image cannot be read.
    RunError
        The page cannot be written.
    """

    def show(place: int) -> Cell:
        name = shorten(source.image_ids[place], 60)
        return Photo(to_webp(source.read(place), (SIDE, SIDE), QUALITY), f"Image {name}", name) if thumbnails else name

    lead = (
        f"{count_of(len(found.suspects.places), 'label')} of {len(source):,} may be wrong. Look at the images, delete "
        "the rows of label_suspects.csv that you do not agree with, and train with data.labels=FILE. data.exclude=FILE "
        "leaves images out."
    )
    names = [shorten(name) for name in source.class_names]
    sections = [
        _describe_suspects(found, source.targets, names, show),
        _describe_conflicts(found.conflicts, source.targets, names, show),
        _describe_outliers(found.outliers, source.targets, names, show),
    ]
    write_page(path, "Labels to look at", lead, sections)


def _describe_suspects(found: LabelCheck, targets: np.ndarray, names: Sequence[str], show: Show) -> Section:
    heading, suspects = "Labels that are probably wrong", found.suspects
    rows = [
        (
            show(place),
            names[targets[place]],
            names[suggested],
            f"{score:.3f}",
            show(typical) if (typical := int(found.typical[suggested])) >= 0 else "–",
        )
        for place, suggested, score in zip(
            suspects.places[:MOST].tolist(),
            suspects.suggested[:MOST].tolist(),
            suspects.scores[:MOST].tolist(),
            strict=True,
        )
    ]
    if not rows:
        return Section(heading, paragraphs=["None was found."])
    caption = (
        "Most suspicious first. The score is one minus the probability that networks which were not trained with the "
        "image give its label. The last column shows the image of the suggested class that they are surest of."
    )
    headings = ("Image", "Given label", "Suggested label", "Score", "Typical of the suggested label")
    table = PageTable(headings, rows, caption, frozenset({1, 2, 4}), shown=SHOWN)
    return Section(heading, tables=[table], notes=_count_left_out(len(suspects.places), "label_suspects.csv"))


def _describe_conflicts(
    pairs: Sequence[tuple[int, int]], targets: np.ndarray, names: Sequence[str], show: Show
) -> Section:
    heading = "Near-duplicates with different labels"
    rows = [(show(a), names[targets[a]], show(b), names[targets[b]]) for a, b in pairs[:MOST]]
    if not rows:
        return Section(heading, paragraphs=["There are none."])
    caption = "At least one label of each pair is wrong, or the image shows both classes."
    table = PageTable(
        ("Image", "Label", "Near-duplicate", "Its label"), rows, caption, frozenset({1, 2, 3}), shown=SHOWN
    )
    return Section(heading, tables=[table], notes=_count_left_out(len(pairs), "label_conflicts.csv"))


def _describe_outliers(
    outliers: Sequence[tuple[int, float]], targets: np.ndarray, names: Sequence[str], show: Show
) -> Section:
    heading = "Outliers"
    rows = [(show(place), names[targets[place]], f"{distance:.3f}") for place, distance in outliers]
    if not rows:
        return Section(heading, paragraphs=["The runs hold no embeddings, so outliers are not known."])
    caption = (
        f"The {count_of(len(rows), 'image')} least like any other image of its fold: one minus the cosine of their "
        "embeddings. The list is as long for a dataset without a strange image."
    )
    return Section(heading, tables=[PageTable(("Image", "Label", "Distance"), rows, caption, frozenset({1}))])


def _count_left_out(count: int, file: str) -> list[str]:
    return [f"{count - MOST:,} more are in {file}."] if count > MOST else []
