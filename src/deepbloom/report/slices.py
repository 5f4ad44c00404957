"""Accuracy by slices of the test images: class size, what can be measured of an image, columns that the user gives."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from deepbloom.errors import RunError
from deepbloom.report.formatting import count_of, format_percent, shorten
from deepbloom.report.groups import Group
from deepbloom.report.intervals import wilson_interval
from deepbloom.report.models import Model
from deepbloom.report.pages import PageTable, Section
from deepbloom.report.thumbnails import Facts
from deepbloom.runs.parsing import read_columns

log = logging.getLogger("deepbloom")

MAX_MODELS = 6
MAX_VALUES = 8
"""Values of a column of words that get a row, the most frequent first; the rest is one row."""
FEW_NUMBERS = 4
"""A column of numbers with at most this many different ones is a column of words."""
ID = "image_id"
CAPTION = (
    "Thirds have equally many images where values allow it. Below each accuracy is its 95 % interval over images "
    "(Wilson); of seeds the mean counts. Slices overlap and are many: one of twenty differs by chance."
)


def read_slices(path: Path) -> dict[str, Facts]:
    """Return the columns of a CSV file by image id: numbers where all of a column are.

    Raises
    ------
    RunError
        The file cannot be read, or has no column ``image_id``.
    """
    table = read_columns(path, (ID,))
    columns = {name: _as_numbers(texts) for name, texts in table.items() if name != ID}
    if not columns:
        raise RunError(f"{path} has no column besides {ID!r}: give one for each property, as in image_id,camera.")
    rows = zip(*columns.values(), strict=True)
    return {image_id: dict(zip(columns, row, strict=True)) for image_id, row in zip(table[ID], rows, strict=True)}


def check_known(path: Path, slices: Mapping[str, Facts], test_images: set[str]) -> None:
    """Raise `RunError` if none of the images in a file of slices was tested; log how many were not."""
    strange = [image_id for image_id in slices if image_id not in test_images]
    if len(strange) == len(slices):
        raise RunError(f"{path}: none of its images is a test image of these runs, such as {strange[0]!r}.")
    if strange:
        log.info("%s: %s not tested in these runs, and left out.", path, count_of(len(strange), "image"))


def _as_numbers(texts: Sequence[str]) -> Sequence[float | str]:
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return texts
    return numbers if np.isfinite(numbers).all() and len(set(numbers)) > FEW_NUMBERS else texts


def describe_slices(group: Group, facts: Mapping[str, Facts]) -> list[Section]:
    """Return the section of slices; none if there are no facts of the group's images."""
    image_ids = group.models[0].predictions[0].image_ids
    known = [facts.get(image_id, {}) for image_id in image_ids]
    models = group.models[:MAX_MODELS]
    rows = [
        (f"{name}\n{label}", f"{chosen.sum()}", *(_cell(model, chosen) for model in models))
        for name in dict.fromkeys(name for row in known for name in row)
        for label, chosen in cut([row.get(name) for row in known])
    ]
    headings = ("Slice", "Images", *(model.short for model in models))
    return [Section("Accuracy by slice", tables=[PageTable(headings, rows, CAPTION)])] if rows else []


def cut(values: Sequence[float | str | None]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each slice of a column: its label, and which images are in it, bool of shape (N,); None is in no slice."""
    if any(isinstance(value, str) for value in values):
        words = [None if value is None else str(value) for value in values]
        counts = Counter(word for word in words if word is not None).most_common()
        kept = [word for word, _ in counts[:MAX_VALUES]]
        for word in kept:
            yield shorten(word) or "(empty)", np.array([other == word for other in words])
        if len(counts) > MAX_VALUES:
            yield "others", np.array([word is not None and word not in kept for word in words])
        return
    numbers = np.array([np.nan if value is None else value for value in values], float)
    first, second = np.nanquantile(numbers, (1 / 3, 2 / 3))
    thirds = (
        (f"up to {first:.3g}", numbers <= first),
        (f"{first:.3g} to {second:.3g}", (numbers > first) & (numbers <= second)),
        (f"above {second:.3g}", numbers > second),
    )
    yield from ((label, chosen) for label, chosen in thirds if chosen.any() and not chosen.all())


def _cell(model: Model, chosen: np.ndarray) -> str:
    accuracy, count = float(model.correct[:, chosen].mean()), int(chosen.sum())
    low, high = wilson_interval(accuracy * count, count)
    return f"{format_percent(accuracy)}\n[{100 * low:.0f}, {100 * high:.0f}]"
