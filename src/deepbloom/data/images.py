"""Image files: read, digest and decode them within limits. Nothing else opens one."""

import errno
import hashlib
import io
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import TypeVar

import numpy as np
import PIL
from PIL import (  # decoders are imported before file descriptors or memory can run out
    AvifImagePlugin,  # noqa: F401
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
    features,
)

from deepbloom.data.containers import JPEG_START, without_metadata
from deepbloom.data.conversion import to_upright_rgb, undecoded
from deepbloom.errors import DataError
from deepbloom.file_warnings import warnings_name

log = logging.getLogger("deepbloom")

Item = TypeVar("Item")
Result = TypeVar("Result")

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF")
"""Formats that Pillow decodes; the package pillow-heif adds HEIC. Of several images in a file, the first is read."""
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif"),
    *(".heic", ".heif", ".hif"),
)
MAX_PIXELS = 80_000_000
"""Larger images are refused before they are decoded; below the size at which Pillow itself warns."""
REDUCED_SIDE = 2048
"""The shorter side of a larger JPEG is reduced to this many pixels or up to twice as many."""
MAX_BYTES = 512_000_000
"""Larger files are refused: twice the size of `MAX_PIXELS` in uncompressed RGB."""
MAX_SCANS = 100
"""Scans that a JPEG may have. Ten are usual; a small file with thousands would take minutes to decode."""
MAX_SEGMENTS = 20_000
"""Segments that a JPEG may have. Twenty are usual, plus one for every 64 kB of metadata."""
JPEG_SCAN, JPEG_END = b"\xff\xda", b"\xff\xd9"
JPEG_SEGMENT = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""A marker that begins a segment: not a stuffed or fill byte, nor a marker within the data of a scan."""
UNREADABLE = "unreadable"
"""Stands for the digest of a file that has no readable bytes."""
PATH_ERRORS = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Errors that say something about the path. Others (a failing disk, too many open files) concern the machine."""
RETRY_SECONDS = 0.2
"""After this time a file that the machine failed to read is tried once more."""
ENOUGH_MEMORY = 4 * MAX_PIXELS
"""Where so many bytes cannot be had, no failure to decode says anything about an image."""
READING = 2
"""Raised by hand whenever the same bytes are decoded to other pixels or get another verdict."""


def decoder() -> str:
    """Return what decides how bytes are decoded, as part of a file name: versions of this module and its libraries."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        heif = version("pillow-heif")
    except PackageNotFoundError:
        heif = "none"
    return f"reading{READING}-pillow{PIL.__version__}-heif{heif}"


class UnreadableError(DataError):
    """This file is not an image that can be read; trying again with the same file gives the same error."""


def read_file(path: str | os.PathLike[str], name: str = "") -> bytes:
    """Return the bytes of a regular file; ``name`` stands for the path in messages.

    Raises
    ------
    UnreadableError
        The file is absent, forbidden, too large or not a regular file.
    DataError
        The machine failed to read it, twice: this says nothing about the image.
    """
    name = name or name_file(path)
    try:
        return _read_bytes(path, name)
    except OSError:
        time.sleep(RETRY_SECONDS)
    try:
        return _read_bytes(path, name)
    except (OSError, MemoryError) as error:
        raise DataError(f"Cannot read {name}: {_reason(error)}.") from error


def _read_bytes(path: str | os.PathLike[str], name: str) -> bytes:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would block
            raise UnreadableError(f"Cannot read {name}: it is not a regular file.")
        if status.st_size > MAX_BYTES:
            raise UnreadableError(f"Cannot read {name}: {status.st_size:,} bytes are more than {MAX_BYTES:,}.")
        with open(path, "rb") as file:
            return file.read(MAX_BYTES)
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) or error.errno in PATH_ERRORS:
            raise UnreadableError(f"Cannot read {name}: {_reason(error)}.") from error
        raise


def digest(content: bytes) -> str:
    """Return SHA-256 (hex)."""
    return hashlib.sha256(content).hexdigest()


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Return the image in a file. See `read_file` and `decode`."""
    return decode(read_file(path), name_file(path))


def stored_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return width and height, in pixels, that the header of an image file gives; nothing is decoded or rotated.

    Raises
    ------
    DataError
        See `read_file` and `decode`.
    """
    name = name_file(path)
    with _opened(read_file(path), name) as image:
        return image.size


def decode(content: bytes, name: str = "this file", full_size: bool = False) -> Image.Image:
    """Decode the bytes of an image file: upright (Exif), in RGB, transparent parts on white.

    ``name`` stands for the file in messages. Metadata other than the orientation are not read. Unless ``full_size``, a
    JPEG has 1/2, 1/4 or 1/8 of its width and height where both sides keep `REDUCED_SIDE` pixels or more. It takes
    much less time and memory, and is the same for training and for everything that uses a trained network.

    Raises
    ------
    UnreadableError
        The bytes are of another kind, truncated, damaged, exceed a limit, or need a package that is absent.
    DataError
        The machine failed to decode them: this says nothing about the image.
    """
    with _opened(content, name) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise UnreadableError(
                f"Cannot read {name}: {width} x {height} pixels are more than {MAX_PIXELS:,}. Scale it down first."
            )
        if not full_size:
            image.draft(image.mode, (REDUCED_SIDE, REDUCED_SIDE))  # only JPEG's decoder does this
        return to_upright_rgb(image)


@contextmanager
def _opened(content: bytes, name: str) -> Iterator[Image.Image]:
    """Open the bytes of an image file, without metadata, for the block that decodes them; errors as in `decode`."""
    try:
        formats = _check_format(content, name)
        _check_scans(content, name)
        lean, info = without_metadata(content)
        with warnings_name(name), Image.open(io.BytesIO(lean), formats=formats) as image:
            image.info.update(info)
            yield image
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise anything on damaged input
        if _lacks_memory(error):
            raise DataError(f"Cannot read {name}: there is not enough memory.") from error
        of_machine = isinstance(error, OSError) and error.errno is not None
        raise (DataError if of_machine else UnreadableError)(f"Cannot read {name}: {_reason(error)}.") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return a PIL image of any mode as `decode` would: upright (Exif), in RGB, transparent parts on white.

    A JPEG that Pillow has opened but not decoded yet is decoded as here, any other image has the size that it has.
    """
    content = undecoded(image)
    return to_upright_rgb(image) if content is None else decode(content)


def _check_format(content: bytes, name: str) -> tuple[str, ...]:
    """Return the formats that the bytes may have; `UnreadableError` if what decodes them is not installed."""
    brands = content[8 : min(int.from_bytes(content[:4], "big"), 256)] if content[4:8] == b"ftyp" else b""
    if b"avi" in brands:
        if not features.check("avif"):
            raise UnreadableError(
                f"Cannot read {name}: this build of Pillow {PIL.__version__} does not decode AVIF. Install another: "
                "pip install --upgrade pillow."
            )
    elif any(brand in brands for brand in HEIC_BRANDS):
        if not register_heif():
            raise UnreadableError(
                f"Cannot read {name}: HEIC images need the package pillow-heif, which is not installed: "
                "pip install 'deepbloom[heic]'."
            )
        return ("HEIF",)
    return FORMATS


@cache
def register_heif() -> bool:
    """Let Pillow decode HEIC; return whether the package for it is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _lacks_memory(error: Exception) -> bool:
    """Return whether a failure to decode may be due to too little memory, which some decoders call damaged data."""
    try:
        np.empty(ENOUGH_MEMORY, np.uint8)  # asks for it without using it
    except MemoryError:
        return True
    return isinstance(error, MemoryError) or "out of memory" in str(error)


def _check_scans(content: bytes, name: str) -> None:
    """Raise `UnreadableError` if a JPEG has too many scans or segments."""
    if not content.startswith(JPEG_START):
        return
    place, scans, segments = 2, 0, 0
    while (found := JPEG_SEGMENT.search(content, place)) and found[0] != JPEG_END:
        place = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")
        scans, segments = scans + (found[0] == JPEG_SCAN), segments + 1
        if scans > MAX_SCANS or segments > MAX_SEGMENTS:
            raise UnreadableError(
                f"Cannot read {name}: a JPEG with more than {MAX_SCANS} scans or {MAX_SEGMENTS:,} segments could take "
                "minutes to decode. Save it again with another program."
            )


def name_file(path: str | os.PathLike[str]) -> str:
    """Return what messages call an image file."""
    return f"image {os.fspath(path)!r}"


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if isinstance(error, UnidentifiedImageError):
        return f"it is not a {', '.join(FORMATS)} or HEIC image, or its beginning is damaged"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).rstrip(".") or type(error).__name__


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int
) -> Generator[Result, None, None]:
    """Yield ``function`` of each item in order, computed a little ahead by threads; 0 workers use this thread.

    Pillow decodes and resizes without Python's global lock, so threads are as fast as processes for images.
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
