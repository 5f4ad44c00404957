"""Images that lie in files, one each: their fingerprint, and which of them can be decoded."""

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from deepbloom.data.cache_folder import cache_folder
from deepbloom.data.images import UnreadableError, decode, decoder, digest, map_ahead, read_file
from deepbloom.data.sources import ImageSource
from deepbloom.device import available_cores
from deepbloom.errors import DataError, RunError, name_some
from deepbloom.progress import ProgressBar
from deepbloom.runs.files import write_json

Source = TypeVar("Source", bound="FileSource")


@dataclass(frozen=True, kw_only=True)
class FileSource(ImageSource):
    """Images in files."""

    paths: tuple[Path, ...]
    digests: tuple[str, ...]
    """SHA-256 (hex) of each file's bytes, or `deepbloom.data.images.UNREADABLE`."""

    def read(self, index: int) -> Image.Image:
        """Decode the bytes that the fingerprint stands for; `DataError` if the file has changed since."""
        name = f"image {self.image_ids[index]!r}"
        content = read_file(self.paths[index], name)
        if digest(content) != self.digests[index]:
            raise DataError(f"The {name} has changed since it was last read. Start again with data.verify=full.")
        return decode(content, name)


def fingerprint_files(image_ids: Iterable[str], class_of_each: Iterable[str], digests: Iterable[str]) -> str:
    """Return SHA-256 (hex) over every image's name, class and contents, in the source's order."""
    rows = list(zip(image_ids, class_of_each, digests, strict=True))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def leave_out(source: Source, indices: Iterable[int], note: str) -> Source:
    """Return the source without some images and without classes that have none left; add ``note``.

    Raises
    ------
    DataError
        No image is left.
    """
    kept = np.setdiff1d(np.arange(len(source)), np.fromiter(indices, np.int64))
    if kept.size == 0:
        raise DataError(f"None of the {len(source):,} images of data={source.name} can be used.")
    classes, targets = np.unique(source.targets[kept], return_inverse=True)
    class_names = tuple(source.class_names[old] for old in classes)
    image_ids = tuple(source.image_ids[i] for i in kept)
    digests = tuple(source.digests[i] for i in kept)
    predefined = source.predefined and {
        name: np.searchsorted(kept, np.intersect1d(part, kept)) for name, part in source.predefined.items()
    }
    gone = [name for name in source.class_names if name not in class_names]
    note += f" {len(kept):,} images of {len(class_names)} classes remain{f'; none of {name_some(gone)}' * bool(gone)}."
    return replace(
        source,
        image_ids=image_ids,
        targets=targets.astype(np.int64),
        class_names=class_names,
        fingerprint=fingerprint_files(image_ids, (class_names[t] for t in targets), digests),
        predefined=predefined,
        notes=(*source.notes, note),
        paths=tuple(source.paths[i] for i in kept),
        digests=digests,
    )


def check_readable(source: FileSource, num_workers: int) -> dict[str, str]:
    """Decode every image once; return {image_id: reason} of those that cannot be read.

    The verdicts are kept in the per-user cache folder for these bytes and this `decoder`.
    """
    known = recall_unreadable(source)
    if known is not None:
        return known

    def reason(index: int) -> str | None:
        try:
            source.read(index)
        except UnreadableError as error:
            return str(error)
        return None

    reasons = ProgressBar(
        map_ahead(reason, range(len(source)), num_workers), "Checking images", len(source), unit="image"
    )
    unreadable = {source.image_ids[i]: text for i, text in enumerate(reasons) if text}
    remember_unreadable(source, unreadable)
    return unreadable


def unreadable_error(source: ImageSource, unreadable: dict[str, str]) -> DataError:
    """Return the error that counts the images that cannot be read and gives the first reasons."""
    reasons = list(unreadable.values())
    more = " ..." * (len(reasons) > 3)
    return DataError(
        f"{len(unreadable):,} of {len(source):,} images cannot be read. {' '.join(reasons[:3])}{more} "
        "Repair or remove them, or leave them out: data.allow_missing=true."
    )


def leave_out_unreadable(source: Source) -> Source:
    """Return the source without the images that `check_readable` finds, and say so in its notes."""
    unreadable = check_readable(source, available_cores())
    if not unreadable:
        return source
    indices = [index for index, name in enumerate(source.image_ids) if name in unreadable]
    note = f"{len(indices):,} of {len(source):,} images cannot be read: {name_some(list(unreadable))}."
    rest = leave_out(source, indices, note)
    remember_unreadable(rest, {})
    return rest


def _memory(source: ImageSource) -> Path:
    return cache_folder() / "unreadable" / f"{source.fingerprint}-{decoder()}.json"


def recall_unreadable(source: ImageSource) -> dict[str, str] | None:
    """Return what `remember_unreadable` wrote for exactly these images; None if it is absent or damaged."""
    try:
        content = json.loads(_memory(source).read_text("utf-8"))
        return dict(content["unreadable"]) if content["sha256"] == _digest(content["unreadable"]) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def remember_unreadable(source: ImageSource, unreadable: dict[str, str]) -> None:
    """Write down which images cannot be read; if the cache folder is not writable, the next start checks again."""
    with suppress(OSError, RunError):
        path = _memory(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"sha256": _digest(unreadable), "unreadable": unreadable})


def _digest(unreadable: dict[str, str]) -> str:
    return digest(json.dumps(unreadable).encode())
