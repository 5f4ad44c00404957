"""Images that lie in files: their fingerprint, and which of them can be read."""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
from PIL import Image
from tqdm import tqdm

from deepbloom.data.cache_folder import cache_folder
from deepbloom.data.dataset import ImageSource
from deepbloom.data.preprocessing import MAX_BYTES, read_image
from deepbloom.device import available_cores
from deepbloom.errors import DataError

Source = TypeVar("Source", bound="FileSource")
Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK_BYTES = 1 << 20
NAMED = 3
"""How many of a long list a message names."""


def name_some(names: Sequence[str]) -> str:
    """Return the first few of ``names`` and the number of the others: ``a, b, c and 12 more``."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


@dataclass(frozen=True, kw_only=True)
class FileSource(ImageSource):
    """Images in files, one each.

    Attributes
    ----------
    paths : tuple of Path, length N
    digests : tuple of str, length N
        SHA-256 (hex) of each file's bytes, or ``unreadable``.
    """

    paths: tuple[Path, ...]
    digests: tuple[str, ...]

    def read(self, index: int) -> Image.Image:
        return read_image(self.paths[index])


def fingerprint_files(image_ids: Iterable[str], class_of_each: Iterable[str], digests: Iterable[str]) -> str:
    """Return SHA-256 (hex) over every image's name, class and contents, in the source's order."""
    rows = list(zip(image_ids, class_of_each, digests, strict=True))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def hash_files(paths: Iterable[Path]) -> tuple[str, ...]:
    """Return SHA-256 (hex) of each file's bytes, or ``unreadable``: no regular file, or larger than any image."""
    with ThreadPoolExecutor(available_cores()) as executor:
        return tuple(executor.map(_hash_file, paths))


def _hash_file(path: Path) -> str:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:  # opening a pipe would wait for ever
            return "unreadable"
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()
    except OSError:
        return "unreadable"


def leave_out(source: Source, indices: Iterable[int], note: str) -> Source:
    """Return the source without some images, and without classes of which none is left; ``note`` is added.

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
    parts = source.parts and {
        name: np.searchsorted(kept, np.intersect1d(part, kept)) for name, part in source.parts.items()
    }
    gone = [name for name in source.class_names if name not in class_names]
    note += f" {len(kept):,} images of {len(class_names)} classes remain{f'; none of {name_some(gone)}' * bool(gone)}."
    return replace(
        source,
        image_ids=image_ids,
        targets=targets.astype(np.int64),
        class_names=class_names,
        fingerprint=fingerprint_files(image_ids, (class_names[t] for t in targets), digests),
        parts=parts,
        notes=(*source.notes, note),
        paths=tuple(source.paths[i] for i in kept),
        digests=digests,
    )


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], num_workers: int) -> Iterator[Result]:
    """Yield ``function`` of each item, in order, computed by threads a little ahead; 0 workers compute in this thread.

    Pillow decodes and resizes outside of Python's lock, so that threads are as fast as processes for images.
    """
    if num_workers == 0:
        yield from map(function, items)
        return
    waiting = iter(items)
    executor = ThreadPoolExecutor(num_workers)
    try:
        futures = [executor.submit(function, item) for item in islice(waiting, 4 * num_workers)]
        while futures:
            yield futures.pop(0).result()
            futures += [executor.submit(function, item) for item in islice(waiting, 1)]
    finally:
        executor.shutdown(cancel_futures=True)


def check_readable(source: FileSource, num_workers: int, progress: bool = True) -> dict[str, str]:
    """Decode every image once; return {image_id: reason} of those that cannot be read.

    What was found is remembered per fingerprint in the per-user cache folder, so that the next call decodes nothing.
    """
    known = recall_unreadable(source)
    if known is not None:
        return known

    def reason(index: int) -> str | None:
        try:
            source.read(index)
        except DataError as error:
            return str(error)
        return None

    reasons = tqdm(
        map_ahead(reason, range(len(source)), num_workers),
        "Checking images",
        len(source),
        disable=None if progress else True,
    )
    unreadable = {source.image_ids[i]: text for i, text in enumerate(reasons) if text}
    remember_unreadable(source, unreadable)
    return unreadable


def unreadable_error(source: ImageSource, unreadable: dict[str, str]) -> DataError:
    """Return the error that counts the images that cannot be read and gives the first reasons."""
    reasons = list(unreadable.values())
    more = " ..." * (len(reasons) > NAMED)
    return DataError(
        f"{len(unreadable):,} of {len(source):,} images cannot be read. {' '.join(reasons[:NAMED])}{more} "
        "Repair or remove them, or go on without them: data.allow_missing=true."
    )


def leave_out_unreadable(source: Source, num_workers: int) -> Source:
    """Return the source without the images that `check_readable` finds, and say so in its notes."""
    unreadable = check_readable(source, num_workers)
    if not unreadable:
        return source
    indices = [index for index, name in enumerate(source.image_ids) if name in unreadable]
    note = f"{len(indices):,} of {len(source):,} images cannot be read: {name_some(list(unreadable))}."
    rest = leave_out(source, indices, note)
    remember_unreadable(rest, {})
    return rest


def _memory(source: ImageSource) -> Path:
    return cache_folder() / "unreadable" / f"{source.fingerprint}-pillow{PIL.__version__}.json"


def recall_unreadable(source: ImageSource) -> dict[str, str] | None:
    """Return what `remember_unreadable` noted for images of exactly these contents; None where that is damaged."""
    try:
        content = json.loads(_memory(source).read_text("utf-8"))
        return dict(content["unreadable"]) if content["sha256"] == _digest(content["unreadable"]) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def remember_unreadable(source: ImageSource, unreadable: dict[str, str]) -> None:
    """Note which images cannot be read; where the cache folder cannot be written, the next start checks again."""
    try:
        path = _memory(source)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"sha256": _digest(unreadable), "unreadable": unreadable}
        temporary.write_text(json.dumps(content, indent=1), "utf-8")
        os.replace(temporary, path)
    except OSError:
        pass


def _digest(unreadable: object) -> str:
    return hashlib.sha256(json.dumps(unreadable).encode()).hexdigest()
