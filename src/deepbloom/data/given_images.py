"""Images that a person names on the command line: one, many, a folder, a pattern."""

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from deepbloom.data.preprocessing import Preprocessing, preprocess, read_image
from deepbloom.errors import DataError

log = logging.getLogger("deepbloom")

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Readable:
    """An image, and what a network is given for it."""

    path: Path
    image: Image.Image
    inputs: Tensor
    """float32, shape (3, S, S)."""


@dataclass(frozen=True)
class Unreadable:
    """A file that is no image, and why."""

    path: Path
    error: str


def find_images(image: str | Sequence[str]) -> list[Path]:
    """Return the files that ``image`` names: a file, a folder (searched through), a pattern, or a list of these.

    Files named one by one are taken whatever their suffix; in folders only images are.

    Raises
    ------
    DataError
        Nothing is there, or a folder holds no image.
    """
    names = [image] if isinstance(image, str) else list(image)
    found: list[Path] = []
    for name in map(str, names):
        path = Path(os.path.expanduser(name))
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
            if not inside:
                raise DataError(f"image={name} is a folder without images. Looked for: {', '.join(SUFFIXES)}.")
            found += inside
        elif path.exists() or path.is_symlink():
            found.append(path)
        else:
            matches = sorted(map(Path, glob.glob(str(path), recursive=True)))
            if not matches:
                raise DataError(f"image={name}: there is no such file, folder or pattern. Several go in [a.jpg,b.jpg].")
            found += matches
    return list(dict.fromkeys(found))


def read_batches(
    paths: Sequence[Path], preprocessing: Preprocessing, batch_size: int
) -> Iterator[list[Readable | Unreadable]]:
    """Yield the images in groups of ``batch_size``; the log says which cannot be read.

    Raises
    ------
    DataError
        Not one of them can be read.
    """
    errors = []
    for start in range(0, len(paths), batch_size):
        images = [_read(path, preprocessing) for path in paths[start : start + batch_size]]
        errors += [image.error for image in images if isinstance(image, Unreadable)]
        if len(errors) == len(paths):
            more = f" None of the {len(paths)} images can be read." if len(paths) > 1 else ""
            raise DataError(errors[0] + more)
        for image in images:
            if isinstance(image, Unreadable):
                log.warning("%s", image.error)
        yield images


def printable(name: str) -> str:
    """Return a name on one line that no terminal takes for an instruction: other characters become Python's escapes."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in name)


def _read(path: Path, preprocessing: Preprocessing) -> Readable | Unreadable:
    try:
        image = read_image(path)
    except DataError as error:
        return Unreadable(path, str(error))
    return Readable(path, image, preprocess(image, preprocessing))


def stack_inputs(images: Sequence[Readable], device: torch.device) -> Tensor:
    """Return the inputs of images as one batch, float32 of shape (B, 3, S, S), channels last."""
    inputs = torch.stack([image.inputs for image in images])
    return inputs.to(device).contiguous(memory_format=torch.channels_last)
