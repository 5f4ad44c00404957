"""Segmentation masks: those that come with the images, or files in a folder."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from deepbloom.data.folders import read_folder
from deepbloom.data.images import SUFFIXES, read_image
from deepbloom.data.sources import ImageSource
from deepbloom.data.sources.flowers102 import Flowers102, fetch_segmentations
from deepbloom.errors import ConfigError, DataError

AUTO, DOWNLOAD, OFF = "auto", "download", "off"
WHITE = 128
ORIGINS = {
    "synthetic": "drawn with the images: exact",
    "flowers102": "Oxford's segmentations: made by a program, not drawn by hand, and wrong in places",
}


@dataclass(frozen=True)
class Masks:
    """Segmentations of the images of a source."""

    read: Callable[[int], np.ndarray | None]
    """From an image's index to its mask, bool of shape (H, W), True on the flower; None if there is none."""
    origin: str
    """Where the masks come from and how reliable they are; empty without masks."""


def find_masks(source: ImageSource, choice: str) -> Masks:
    """Return the segmentations of a source.

    ``choice`` is ``auto``: those that come with the images, if any; ``download``: Oxford's for Flowers102, downloaded
    if absent; ``off``: none; otherwise a folder with a file for each image: the image's name with any image suffix, the
    flower white, the rest black.

    Raises
    ------
    ConfigError
        There is nothing to download for these images.
    DataError
        The download fails, or the folder is absent or holds no mask of these images.
    """
    if choice == OFF:
        return Masks(lambda index: None, "")
    if choice == DOWNLOAD:
        if not isinstance(source, Flowers102):
            raise ConfigError(
                f"masks=download needs data=flowers102; there are none for data={source.name}. Use masks=auto or "
                "masks=FOLDER."
            )
        fetch_segmentations(source)
    if choice in (AUTO, DOWNLOAD):
        there = any(source.mask(index) is not None for index in range(min(len(source), 3)))
        return Masks(source.mask, ORIGINS.get(source.name, "") if there else "")
    return _find_files(source, Path(os.path.expanduser(choice)))


def _find_files(source: ImageSource, folder: Path) -> Masks:
    if not folder.is_dir():
        raise DataError(f"masks={folder} is not a folder. Give auto, download, off or a folder of masks.")
    found = {
        file.relative_to(folder).with_suffix("").as_posix(): file
        for file in sorted(read_folder(folder)[0].all_images())
    }
    paths = {
        index: found[name] for index, image_id in enumerate(source.image_ids) if (name := _stem(image_id)) in found
    }
    if not paths:
        raise DataError(
            f"masks={folder} holds no mask of these images. A mask is named like its image, for example "
            f"{_stem(source.image_ids[0])}.png."
        )
    return Masks(
        lambda index: _read_white(paths[index]) if index in paths else None,
        f"{len(paths):,} of {len(source):,} images have one in {folder}",
    )


def _stem(image_id: str) -> str:
    path = PurePosixPath(image_id)
    return path.with_suffix("").as_posix() if path.suffix.lower() in SUFFIXES else image_id


def _read_white(path: Path) -> np.ndarray:
    return np.asarray(read_image(path).convert("L"), dtype=np.uint8) >= WHITE
