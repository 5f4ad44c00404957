"""A dataset ready for a network: its source, its split, and its resized pixels."""

import hashlib
import logging
from dataclasses import dataclass

import numpy as np

from deepbloom.config.data_settings import DataConfig
from deepbloom.data.pixel_cache import Pixels, open_pixels
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.data.sources import ImageSource, load_source
from deepbloom.data.split import Split, make_split

log = logging.getLogger("deepbloom")


@dataclass(frozen=True)
class PreparedData:
    """What training and evaluation read."""

    source: ImageSource
    split: Split
    pixels: Pixels
    preprocessing: Preprocessing

    @property
    def split_fingerprint(self) -> str:
        return self.split.fingerprint(self.source)


def prepare(
    config: DataConfig, preprocessing: Preprocessing, num_workers: int, source: ImageSource | None = None
) -> PreparedData:
    """Find the images, split them, and decode those that are not cached yet; what was found is logged.

    ``source`` is what `load_source` found already.

    Raises
    ------
    DataError
        Images are absent or unreadable (and ``allow_missing`` is off), or there are too few to split.
    """
    source = source or load_source(config)
    for note in source.notes:
        log.info("%s", note)
    split = make_split(source, config.split)
    for note in split.notes:
        log.info("%s", note)
    pixels = open_pixels(source, preprocessing, config.pixel_cache, num_workers)
    return PreparedData(source, split, pixels, preprocessing)


def choose_images(data: PreparedData, part: np.ndarray, count: int, seed: int | str) -> np.ndarray:
    """Return ``count`` images of a split (0: all), chosen by name and seed alone."""

    def key(index: int) -> bytes:
        return hashlib.sha256(f"{seed}:{data.source.image_ids[index]}".encode("utf-8", "surrogateescape")).digest()

    chosen = sorted(part.tolist(), key=key)[: count or len(part)]
    return np.array(chosen, dtype=np.int64)
