"""Resized images as an array: decoded once into a memory-mapped file, or again whenever they are read.

A cache file holds a header of `HEADER_BYTES` (text, padded: the format and the digest of the checksums), the CRC-32 of
each image (N x 4 bytes) and the pixels (N x S x S x 3 bytes). It is written under another name and renamed when it is
complete, and never changed afterwards. The checksum of an image is verified when that image is first read.
"""

import hashlib
import logging
import os
import shutil
import zlib
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

import numpy as np

from deepbloom.data.cache_folder import cache_folder, locked_folder
from deepbloom.data.images import UnreadableError, decoder, digest, map_ahead
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
from deepbloom.progress import ProgressBar
from deepbloom.runs.files import sync

log = logging.getLogger("deepbloom")

FORMAT = "deepbloom pixels 3"
HEADER_BYTES = 4096
CHECKSUM = np.dtype("<u4")
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


class DecodedPixels(Pixels):
    """Decodes and resizes at every reading, with ``num_workers`` threads (0: in the caller's)."""

    def __init__(self, source: ImageSource, preprocessing: Preprocessing, num_workers: int) -> None:
        self.source, self.preprocessing, self.num_workers = source, preprocessing, num_workers

    def read(self, indices: np.ndarray) -> np.ndarray:
        def decode(index: int) -> np.ndarray:
            return resize(self.source.read(index), self.preprocessing)

        side = self.preprocessing.size
        return np.array([*map_ahead(decode, indices.tolist(), self.num_workers)], np.uint8).reshape(-1, side, side, 3)


class CachedPixels(Pixels):
    """A memory-mapped cache file of shape (N, S, S, 3). Images that are damaged in it come from ``decoded`` instead.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        Its header or its index of checksums is damaged, or it is of another size.
    """

    def __init__(self, path: Path, decoded: DecodedPixels, shape: tuple[int, ...]) -> None:
        self.path, self._decoded = path, decoded
        with open(path, "rb") as file:
            header, index = file.read(HEADER_BYTES), file.read(shape[0] * CHECKSUM.itemsize)
            if os.fstat(file.fileno()).st_size != _file_bytes(shape) or header.rstrip() != _header(index):
                raise ValueError(f"{path} is damaged")
            self._pixels: np.ndarray = np.memmap(file, np.uint8, "r", HEADER_BYTES + len(index), shape)
        self._checksums = np.frombuffer(index, CHECKSUM)
        self._verified = np.zeros(len(self._checksums), dtype=bool)

    def read(self, indices: np.ndarray) -> np.ndarray:
        indices = np.asarray(indices)
        pixels = np.asarray(self._pixels[indices])
        for row in np.flatnonzero(~self._verified[indices]):
            if zlib.crc32(pixels[row]) == self._checksums[indices[row]]:
                self._verified[indices[row]] = True
            else:
                pixels[row] = self._repaired(indices[row : row + 1])[0]
        return pixels

    def _repaired(self, indices: np.ndarray) -> np.ndarray:
        log.warning("Image %d in %s is damaged. The cache is written again at the next start.", indices[0], self.path)
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        return self._decoded.read(indices)


def open_pixels(source: ImageSource, preprocessing: Preprocessing, cache: str, num_workers: int) -> Pixels:
    """Return the images of ``source``, resized as ``preprocessing`` says.

    Parameters
    ----------
    cache : str
        ``auto``: a cache file in the per-user folder, or none if that is not writable (with a warning);
        ``off``: decode at every reading; otherwise the folder of the cache file.
    num_workers : int
        Threads that decode; -1 takes one per available core.

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
            return _open_cached(folder, source, preprocessing, num_workers)
        except (OSError, _NoRoomError) as error:
            reason = f"No pixel cache can be kept (data.pixel_cache={cache}): {error}."
            if cache != "auto":
                raise DataError(f"{reason} Choose another data.pixel_cache=FOLDER, or auto, or off.") from error
            log.warning("%s Images are decoded in every epoch, which is slower.", reason)
    if isinstance(source, FileSource) and (unreadable := check_readable(source, num_workers)):
        raise unreadable_error(source, unreadable)
    return DecodedPixels(source, preprocessing, num_workers)


class _NoRoomError(Exception):
    """The disk or the budget is too small for another cache file."""


def _open_cached(folder: Path, source: ImageSource, preprocessing: Preprocessing, num_workers: int) -> CachedPixels:
    path = folder / _file_name(source, preprocessing)
    decoded, shape = DecodedPixels(source, preprocessing, 0), (len(source), preprocessing.size, preprocessing.size, 3)

    def find() -> CachedPixels | None:
        try:
            found = CachedPixels(path, decoded, shape)
        except (FileNotFoundError, ValueError):
            return None
        with suppress(OSError):  # another user's, read-only
            os.utime(path)  # the least recently used file is deleted first
        return found

    if found := find():
        return found
    with locked_folder(folder):  # a second process waits here, and then finds what the first has written
        if found := find():
            return found
        if path.exists():
            log.warning("The pixel cache %s is damaged. It is written again.", path)
        for left_over in folder.glob(f"{NAMES}.tmp"):  # of a process that was killed: this one holds the lock
            left_over.unlink()
        _make_room(folder, _file_bytes(shape))
        temporary = path.with_suffix(".tmp")
        try:
            _write(temporary, source, preprocessing, num_workers)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        if made := find():
            return made
    raise OSError(f"{path} was removed as soon as it was written")


def _file_name(source: ImageSource, preprocessing: Preprocessing) -> str:
    content = f"{FORMAT}|{source.fingerprint}|{preprocessing.resizing}|{decoder()}"
    return f"{source.name}-{preprocessing.size}-{hashlib.sha256(content.encode()).hexdigest()[:32]}{SUFFIX}"


def _header(index: bytes) -> bytes:
    return f"{FORMAT} {digest(index)}".encode()


def _file_bytes(shape: tuple[int, ...]) -> int:
    return HEADER_BYTES + shape[0] * CHECKSUM.itemsize + int(np.prod(shape))


def _write(path: Path, source: ImageSource, preprocessing: Preprocessing, num_workers: int) -> None:
    def decode(index: int) -> np.ndarray | UnreadableError:
        try:
            return resize(source.read(index), preprocessing)
        except UnreadableError as error:
            return error

    checksums = np.zeros(len(source), CHECKSUM)
    unreadable: dict[str, str] = {}
    decoded = map_ahead(decode, range(len(source)), num_workers)
    with open(path, "wb") as file:
        file.seek(HEADER_BYTES + checksums.nbytes)
        for index, pixels in enumerate(ProgressBar(decoded, "Decoding images", len(source), unit="image")):
            if isinstance(pixels, UnreadableError):
                unreadable[source.image_ids[index]] = str(pixels)
            elif not unreadable:
                file.write(pixels)
                checksums[index] = zlib.crc32(pixels)
        remember_unreadable(source, unreadable)
        if unreadable:
            raise unreadable_error(source, unreadable)
        file.seek(0)
        file.write(_header(checksums.tobytes()).ljust(HEADER_BYTES) + checksums.tobytes())
        file.flush()
        sync(file.fileno())


def _make_room(folder: Path, needed: int) -> None:
    """Delete least recently used cache files until ``needed`` bytes fit into the budget and the disk.

    A process that has mapped a deleted file keeps it; where the system does not allow that (Windows), it stays.
    """
    if needed > BUDGET_BYTES:
        raise _NoRoomError(f"{needed / 1e9:.1f} GB are needed, more than the budget of {BUDGET_BYTES / 1e9:.0f} GB")
    files = sorted(folder.glob(f"{NAMES}{SUFFIX}"), key=lambda path: path.stat().st_mtime)
    total = sum(path.stat().st_size for path in files)
    while total + needed > BUDGET_BYTES or needed + SPARE_BYTES > shutil.disk_usage(folder).free:
        if not files:
            free = shutil.disk_usage(folder).free
            raise _NoRoomError(
                f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free on the disk and other caches take "
                f"{total / 1e9:.1f} GB of the budget of {BUDGET_BYTES / 1e9:.0f} GB"
            )
        oldest = files.pop(0)
        size = oldest.stat().st_size
        with suppress(PermissionError):
            oldest.unlink()
            total -= size
