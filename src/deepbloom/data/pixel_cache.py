"""Resized images as an array: decoded once into a memory-mapped file, or again whenever they are read.

A cache file is a header of `HEADER_BYTES` (one line of JSON, padded) and N x S x S x 3 bytes of pixels. It is written
under another name and renamed when it is complete, so that a file of the right name is a whole one, and it is never
changed afterwards. Whoever reads it holds a shared lock, and only files that nobody reads are deleted for space.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
from tqdm import tqdm

from deepbloom.data.cache_folder import cache_folder, locked_folder
from deepbloom.data.images import UnreadableError, map_ahead
from deepbloom.data.preprocessing import Preprocessing, resize
from deepbloom.data.sources import ImageSource
from deepbloom.data.sources.files import (
    FileSource,
    check_readable,
    recall_unreadable,
    remember_unreadable,
    unreadable_error,
)
from deepbloom.device import available_cores
from deepbloom.errors import DataError

log = logging.getLogger("deepbloom")

FORMAT = "deepbloom pixels 1"
HEADER_BYTES = 4096
SUFFIX = ".pixels"
NAMES = f"*-*-{'[0-9a-f]' * 32}"
"""Pattern of the cache's own files, before their suffix; no other file in their folder is touched."""
BUDGET_BYTES = 20_000_000_000
"""All cache files of a folder together; the least recently used go first."""
SPARE_BYTES = 500_000_000
"""Left free on the disk."""


class Pixels(ABC):
    """The images of a source, resized: uint8 of shape (N, S, S, 3), read by index from any thread."""

    @abstractmethod
    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return a new uint8 array of shape (B, S, S, 3)."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and threads; nothing can be read afterwards."""


class DecodedPixels(Pixels):
    """Decodes and resizes at every reading, by ``num_workers`` threads (0: by the caller's)."""

    def __init__(self, source: ImageSource, preprocessing: Preprocessing, num_workers: int) -> None:
        self.source, self.preprocessing = source, preprocessing
        self._executor = ThreadPoolExecutor(num_workers) if num_workers > 0 else None

    def read(self, indices: np.ndarray) -> np.ndarray:
        side = self.preprocessing.size
        pixels = np.empty((len(indices), side, side, 3), np.uint8)

        def fill(row: int) -> None:
            pixels[row] = resize(self.source.read(int(indices[row])), self.preprocessing)

        apply: Callable = self._executor.map if self._executor else map
        for _ in apply(fill, range(len(indices))):
            pass
        return pixels

    def close(self) -> None:
        if self._executor:
            self._executor.shutdown()


class CachedPixels(Pixels):
    """A cache file, memory-mapped. See `find_cache`.

    Attributes
    ----------
    path : Path
    """

    def __init__(self, path: Path, file: BinaryIO, header: dict) -> None:
        self.path, self._file, self._header = path, file, header
        self._pixels = np.memmap(file, np.uint8, "r", HEADER_BYTES, tuple(header["shape"]))

    def read(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(self._pixels[np.asarray(indices)])

    def is_whole(self) -> bool:
        """Return whether every byte is as it was written, by the SHA-256 in the header."""
        digest = hashlib.sha256()
        for image in self._pixels:
            digest.update(image)
        return digest.hexdigest() == self._header["sha256"]

    def close(self) -> None:
        del self._pixels
        self._file.close()  # and with it the shared lock


def open_pixels(
    source: ImageSource, preprocessing: Preprocessing, cache: str, num_workers: int, progress: bool = True
) -> Pixels:
    """Return the images of ``source``, resized as ``preprocessing`` says.

    Parameters
    ----------
    cache : str
        ``auto``: a cache file in the per-user folder, or none where that cannot be written (with a warning);
        ``off``: decode at every reading; else the folder of the cache file.
    num_workers : int
        Threads that decode; -1 takes one per available core. What is read does not depend on it.
    progress : bool
        Show a bar while decoding, in a terminal.

    Raises
    ------
    DataError
        Images cannot be read (all are tried before, and counted), or the folder named by ``cache`` cannot be used.
    """
    num_workers = available_cores() if num_workers < 0 else num_workers
    if known := recall_unreadable(source):
        raise unreadable_error(source, known)
    if cache != "off":
        try:
            folder = cache_folder() / "pixels" if cache == "auto" else Path(os.path.expanduser(cache))
            return _open_cached(folder, source, preprocessing, num_workers, progress)
        except (OSError, _NoRoomError) as error:
            reason = f"No pixel cache can be kept (data.pixel_cache={cache}): {error}."
            if cache != "auto":
                raise DataError(f"{reason} Choose another data.pixel_cache=FOLDER, or auto, or off.") from error
            log.warning("%s Images are decoded in every epoch, which is slower.", reason)
    if isinstance(source, FileSource) and (unreadable := check_readable(source, num_workers, progress)):
        raise unreadable_error(source, unreadable)
    return DecodedPixels(source, preprocessing, num_workers)


class _NoRoomError(Exception):
    """The disk or the budget is too small for another cache file."""


def _open_cached(
    folder: Path, source: ImageSource, preprocessing: Preprocessing, num_workers: int, progress: bool
) -> CachedPixels:
    path = folder / _file_name(source, preprocessing)
    shape = (len(source), preprocessing.size, preprocessing.size, 3)
    found = find_cache(path, shape)
    if found:
        return found
    with locked_folder(folder):  # a second process waits here, and then finds what the first has made
        found = find_cache(path, shape)
        if found:
            return found
        if path.exists():
            log.warning("The pixel cache %s is damaged. It is made again.", path)
        for left_over in folder.glob(f"{NAMES}.tmp"):  # of a process that was killed: this one holds the lock
            left_over.unlink()
        _make_room(folder, HEADER_BYTES + int(np.prod(shape)))
        temporary = path.with_suffix(".tmp")
        try:
            _write(temporary, shape, source, preprocessing, num_workers, progress)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        made = find_cache(path, shape)
    if made is None:
        raise OSError(f"{path} was removed as soon as it was made")
    return made


def _file_name(source: ImageSource, preprocessing: Preprocessing) -> str:
    pillow = PIL.__version__.split(".")[0]  # resampling and decoding may change with it
    content = f"{FORMAT}|{source.fingerprint}|{preprocessing.size}|{preprocessing.interpolation}|pillow {pillow}"
    return f"{source.name}-{preprocessing.size}-{hashlib.sha256(content.encode()).hexdigest()[:32]}{SUFFIX}"


def find_cache(path: Path, shape: tuple[int, ...]) -> CachedPixels | None:
    """Return the cache file at ``path`` if it is there and undamaged, else None."""
    try:
        file = open(path, "rb")  # noqa: SIM115 - stays open as long as its pixels are used
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH)
        header = json.loads(file.read(HEADER_BYTES))
        same_file = os.path.samestat(os.fstat(file.fileno()), os.stat(path))  # not deleted while the lock was awaited
        whole = os.fstat(file.fileno()).st_size == HEADER_BYTES + int(np.prod(shape))
        if same_file and whole and header["format"] == FORMAT and tuple(header["shape"]) == shape:
            found = CachedPixels(path, file, header)
            if found.is_whole():
                with suppress(OSError):  # another user's, readable only
                    os.utime(path)  # used now
                return found
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        pass
    file.close()
    return None


def _write(
    path: Path,
    shape: tuple[int, ...],
    source: ImageSource,
    preprocessing: Preprocessing,
    num_workers: int,
    progress: bool,
) -> None:
    def decode(index: int) -> np.ndarray | UnreadableError:
        try:
            return resize(source.read(index), preprocessing)
        except UnreadableError as error:
            return error

    digest = hashlib.sha256()
    unreadable: dict[str, str] = {}
    decoded = map_ahead(decode, range(len(source)), num_workers)
    with open(path, "wb") as file:
        file.write(b" " * HEADER_BYTES)
        for index, pixels in enumerate(
            tqdm(decoded, "Decoding images", len(source), disable=None if progress else True)
        ):
            if isinstance(pixels, UnreadableError):
                unreadable[source.image_ids[index]] = str(pixels)
            elif not unreadable:
                file.write(pixels)
                digest.update(pixels)
        remember_unreadable(source, unreadable)
        if unreadable:
            raise unreadable_error(source, unreadable)
        file.seek(0)
        file.write(json.dumps({"format": FORMAT, "shape": shape, "sha256": digest.hexdigest()}).encode())
        file.flush()
        os.fsync(file.fileno())


def _make_room(folder: Path, needed: int) -> None:
    """Delete least recently used cache files that nobody reads until ``needed`` bytes fit into budget and disk."""
    if needed > BUDGET_BYTES:
        raise _NoRoomError(f"{needed / 1e9:.1f} GB are needed, more than the budget of {BUDGET_BYTES / 1e9:.0f} GB")
    files = sorted(folder.glob(f"{NAMES}{SUFFIX}"), key=lambda path: path.stat().st_mtime)
    total = sum(path.stat().st_size for path in files)
    for path in files:
        if total + needed <= BUDGET_BYTES and needed + SPARE_BYTES <= shutil.disk_usage(folder).free:
            return
        size = path.stat().st_size
        with open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # in use
            path.unlink()
        total -= size
    if total + needed > BUDGET_BYTES or needed + SPARE_BYTES > shutil.disk_usage(folder).free:
        free = shutil.disk_usage(folder).free
        raise _NoRoomError(
            f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free on the disk and caches in use take "
            f"{total / 1e9:.1f} GB of the budget of {BUDGET_BYTES / 1e9:.0f} GB"
        )
