"""Images named on the command line, as inputs of networks; only these, and what is to be shown, stay in memory."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from deepbloom.data.images import decode, name_file, read_file
from deepbloom.data.preprocessing import Preprocessing, preprocess
from deepbloom.errors import DataError

log = logging.getLogger("deepbloom")

SHOWN_SIDE = 1600
"""Longer side of an image that is shown, in pixels."""


@dataclass(frozen=True)
class Readable:
    """An image that was read."""

    path: Path
    inputs: tuple[Tensor, ...]
    """Its input for each network, float32 of shape (3, S, S)."""
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
        inputs = tuple(preprocess(image, preprocessing) for preprocessing in preprocessings)
        if shown_side is None:
            image = decode(content, name_file(path), full_size=True)
    except DataError as error:
        return Unreadable(path, str(error))
    if shown_side == 0:
        return Readable(path, inputs, None)
    if shown_side:
        image.thumbnail((shown_side, shown_side))
    return Readable(path, inputs, image)


def stack_inputs(images: Sequence[Readable], device: torch.device, network: int = 0) -> Tensor:
    """Return the inputs of images for one network as a batch, float32 of shape (B, 3, S, S), channels last."""
    inputs = torch.stack([image.inputs[network] for image in images])
    return inputs.to(device).contiguous(memory_format=torch.channels_last)
