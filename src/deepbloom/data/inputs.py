"""Images named on the command line, as inputs of networks; only these, and what is to be shown, stay in memory."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from deepbloom.data.images import decode, name_file, read_file
from deepbloom.data.preprocessing import Preprocessing, resize
from deepbloom.errors import DataError

log = logging.getLogger("deepbloom")

SHOWN_SIDE = 1600
"""Longer side of an image that is shown, in pixels."""


@dataclass(frozen=True)
class Readable:
    """An image that was read."""

    path: Path
    pixels: tuple[np.ndarray, ...]
    """Resized for each network, uint8 of shape (S, S, 3)."""
    shown: Image.Image | None
    """The upright image, if it is to be shown."""


@dataclass(frozen=True)
class Unreadable:
    """A file that cannot be read as an image, and why."""

    path: Path
    error: str


def read_batches(
    paths: Sequence[Path], preprocessings: Sequence[Preprocessing], batch_size: int, shown_side: int | None = 0
) -> Iterator[list[Readable | Unreadable]]:
    """Yield the images in groups of ``batch_size``; log those that cannot be read.

    Parameters
    ----------
    paths : sequence of Path
    preprocessings : sequence of Preprocessing
        One for each network.
    batch_size : int
    shown_side : int or None
        Longer side, in pixels, to which `Readable.shown` is scaled down; None: not at all; 0: it is not kept.
    """
    for start in range(0, len(paths), batch_size):
        images = [_read(path, preprocessings, shown_side) for path in paths[start : start + batch_size]]
        for image in images:
            if isinstance(image, Unreadable):
                log.warning("%s", image.error)
        yield images


def _read(path: Path, preprocessings: Sequence[Preprocessing], shown_side: int | None) -> Readable | Unreadable:
    try:
        content = read_file(path)
        image = decode(content, name_file(path))
        pixels = tuple(resize(image, preprocessing) for preprocessing in preprocessings)
        if shown_side is None:
            image = decode(content, name_file(path), full_size=True)
    except DataError as error:
        return Unreadable(path, str(error))
    if shown_side == 0:
        return Readable(path, pixels, None)
    if shown_side:
        image.thumbnail((shown_side, shown_side))
    return Readable(path, pixels, image)


def stack_pixels(images: Sequence[Readable], network: int = 0) -> np.ndarray:
    """Return images that were resized for one network as a batch, uint8 of shape (B, S, S, 3)."""
    return np.stack([image.pixels[network] for image in images])
