"""Corrections of a dataset that a person wrote down: other classes for some images, and images to leave out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deepbloom.data.sources import ImageSource
from deepbloom.data.sources.files import FileSource, leave_out
from deepbloom.errors import DataError, name_some, unknown
from deepbloom.runs.parsing import read_columns


def correct(source: ImageSource, labels: str | None, exclude: str | None) -> FileSource:
    """Return the source with the corrections; they are part of its fingerprint, and ``notes`` count them.

    Parameters
    ----------
    source : ImageSource
        In files.
    labels : str or None
        A CSV with ``image_id`` and ``suggested``, the right class, such as label_suspects.csv without the rows that a
        person does not agree with. Where it has ``given``, that must be the class so far.
    exclude : str or None
        A CSV with ``image_id``.

    Raises
    ------
    DataError
        An image or class is unknown, named twice, or has another class than ``given``.
    RunError
        A file cannot be read or lacks a column.
    """
    assert isinstance(source, FileSource)  # the settings see to it
    places = {name: place for place, name in enumerate(source.image_ids)}
    note = []
    if labels:
        targets = source.targets.copy()
        table = read_columns(Path(labels), ("image_id", "suggested"))
        _check(labels, table["image_id"], places)
        for row, (name, wanted) in enumerate(zip(table["image_id"], table["suggested"], strict=True)):
            if wanted not in source.class_names:
                raise DataError(f"data.labels={labels}: {unknown('class', wanted, source.class_names)}")
            now = source.class_names[targets[places[name]]]
            if table.get("given", ("",) * (row + 1))[row] not in ("", now):
                raise DataError(f"data.labels={labels}: {name!r} is of class {now!r}, not {table['given'][row]!r}.")
            targets[places[name]] = source.class_names.index(wanted)
        note.append(f"{_images(table['image_id'])} labeled as in {labels}.")
        source = replace(source, targets=targets)
    excluded: Sequence[str] = ()
    if exclude:
        excluded = read_columns(Path(exclude), ("image_id",))["image_id"]
        _check(exclude, excluded, places)
        note.append(f"{_images(excluded)} left out by {exclude}.")
    return leave_out(source, [places[name] for name in excluded], " ".join(note))


def _check(path: str, names: Sequence[str], places: dict[str, int]) -> None:
    strange = [name for name in names if name not in places]
    if strange:
        raise DataError(f"{_images(strange)} named in {path} but not among these data: {name_some(strange)}.")
    if len(set(names)) < len(names):
        raise DataError(f"{path} names an image twice.")


def _images(names: Sequence[str]) -> str:
    return f"{len(names):,} image{'s are' if len(names) != 1 else ' is'}"
