"""The label check: labels that are probably wrong, near-duplicates with different labels, and outliers.

``labels.html`` of ``deepbloom data`` and the report, where the folds of a group test every image, show the same tables.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deepbloom.calibration.out_of_distribution import find_outliers
from deepbloom.data.label_check import LabelCheck, find_suspects, find_typical, read_out_of_fold
from deepbloom.data.sources import ImageSource
from deepbloom.errors import RunError
from deepbloom.report.evidence import near_duplicates, to_webp
from deepbloom.report.formatting import count_of, shorten
from deepbloom.report.groups import Group
from deepbloom.report.pages import Cell, PageTable, Photo, Section, write_page
from deepbloom.report.thumbnails import QUALITY, SIDE, TestImages
from deepbloom.runs.reading import CompleteRun

log = logging.getLogger("deepbloom")


class Room(NamedTuple):
    """The ``most`` rows of a table, and how many are visible at once. The CSV files have all."""

    most: int
    shown: int


ON_PAGE, IN_REPORT = Room(200, 25), Room(50, 10)
Show = Callable[[int], Cell]
"""From an image's place to its cell."""


def check(runs: Sequence[CompleteRun], image_ids: Sequence[str], targets: np.ndarray, num_classes: int) -> LabelCheck:
    """Return the label check of N images by runs whose folds test all of them, without near-duplicates.

    Raises
    ------
    RunError
        Folds are missing, or the probabilities of one.
    """
    probabilities, embedded = read_out_of_fold(runs, image_ids, num_classes)
    suspects, typical = find_suspects(probabilities, targets), find_typical(probabilities, targets)
    return LabelCheck(suspects, typical, [], find_outliers(embedded))


def check_group(group: Group) -> LabelCheck | None:
    """Return the label check of a group with all folds, and the near-duplicates that its runs name; otherwise None."""
    if not group.folds or len(group.folds_tested) < group.folds:
        return None
    predictions = group.models[0].predictions[0]
    try:
        found = check(group.runs, predictions.image_ids, predictions.targets, len(group.class_names))
    except RunError as error:
        log.warning("The report has no label check: %s", error)
        return None
    place_of = {image_id: place for place, image_id in enumerate(predictions.image_ids)}
    pairs = [(place_of[a], place_of[b]) for a, b in near_duplicates(group) if {a, b} <= place_of.keys()]
    targets = predictions.targets
    return found._replace(conflicts=[(a, b) for a, b in pairs if targets[a] != targets[b]])


def list_shown(found: LabelCheck) -> list[int]:
    """Return the places of the images that the report shows."""
    suspects, suggested = found.suspects.places[: IN_REPORT.most], found.suspects.suggested[: IN_REPORT.most]
    typical = found.typical[suggested]
    pairs = [place for pair in found.conflicts[: IN_REPORT.most] for place in pair]
    return [*suspects.tolist(), *typical[typical >= 0].tolist(), *pairs, *(place for place, _ in found.outliers)]


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
    write_page(path, "Labels to look at", lead, _describe(found, source.targets, source.class_names, show, ON_PAGE))


def describe_group_labels(group: Group, images: TestImages) -> list[Section]:
    """Return the section of a group's label check; none unless its folds test every image."""
    found = images.labels
    if found is None:
        return []
    predictions = group.models[0].predictions[0]
    lead = (
        f"{count_of(len(found.suspects.places), 'label')} of {group.num_images:,} may be wrong according to "
        f"{count_of(len(group.runs), 'run')}, none of which was trained with the images that it tested."
    )
    advice = (
        "To correct labels, run deepbloom data ... check=labels runs=FOLDER. It writes label_suspects.csv, "
        "label_conflicts.csv and label_outliers.csv, and looks for near-duplicates within a fold as well. Delete the "
        "rows that you do not agree with, and train with data.labels=FILE or data.exclude=FILE."
    )

    def show(place: int) -> Cell:
        return images.show(predictions.image_ids[place], place)

    sections = _describe(found, predictions.targets, group.class_names, show, IN_REPORT)
    return [Section("Label check", paragraphs=[lead, advice], sections=sections)]


def _describe(
    found: LabelCheck, targets: np.ndarray, class_names: Sequence[str], show: Show, room: Room
) -> list[Section]:
    """Return a section for each kind of finding, in tables that take ``room``."""
    names = [shorten(name) for name in class_names]
    return [
        _describe_suspects(found, targets, names, show, room),
        _describe_conflicts(found.conflicts, targets, names, show, room),
        _describe_outliers(found.outliers, targets, names, show, room),
    ]


def _describe_suspects(found: LabelCheck, targets: np.ndarray, names: Sequence[str], show: Show, room: Room) -> Section:
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
            suspects.places[: room.most].tolist(),
            suspects.suggested[: room.most].tolist(),
            suspects.scores[: room.most].tolist(),
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
    table = PageTable(headings, rows, caption, frozenset({1, 2, 4}), shown=room.shown)
    return Section(
        heading, tables=[table], notes=_count_left_out(len(suspects.places), room.most, "label_suspects.csv")
    )


def _describe_conflicts(
    pairs: Sequence[tuple[int, int]], targets: np.ndarray, names: Sequence[str], show: Show, room: Room
) -> Section:
    heading = "Near-duplicates with different labels"
    rows = [(show(a), names[targets[a]], show(b), names[targets[b]]) for a, b in pairs[: room.most]]
    if not rows:
        return Section(heading, paragraphs=["There are none."])
    caption = "At least one label of each pair is wrong, or the image shows both classes."
    table = PageTable(
        ("Image", "Label", "Near-duplicate", "Its label"), rows, caption, frozenset({1, 2, 3}), shown=room.shown
    )
    return Section(heading, tables=[table], notes=_count_left_out(len(pairs), room.most, "label_conflicts.csv"))


def _describe_outliers(
    outliers: Sequence[tuple[int, float]], targets: np.ndarray, names: Sequence[str], show: Show, room: Room
) -> Section:
    heading = "Outliers"
    rows = [(show(place), names[targets[place]], f"{distance:.3f}") for place, distance in outliers]
    if not rows:
        return Section(heading, paragraphs=["The runs hold no embeddings, so outliers are not known."])
    caption = (
        f"The {count_of(len(rows), 'image')} least like any other image of its fold: one minus the cosine of their "
        "embeddings. The list is as long for a dataset without a strange image."
    )
    table = PageTable(("Image", "Label", "Distance"), rows, caption, frozenset({1}), shown=room.shown)
    return Section(heading, tables=[table])


def _count_left_out(count: int, most: int, file: str) -> list[str]:
    return [f"{count - most:,} more are in {file}."] if count > most else []
