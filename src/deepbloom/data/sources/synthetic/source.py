"""Drawn flowers: images with labels and masks on every machine, without a download.

Up to 102 invented species, each a fixed set of traits (`species`); every image varies pose, color, light, background
and occlusion (`scene`). The parameters determine every byte (see `drawing`), so the fingerprint is computed from the
parameters and the generator's version.
"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from PIL import Image

from deepbloom.config.data_settings import DataConfig
from deepbloom.data.sources import ImageSource
from deepbloom.data.sources.synthetic.drawing import Color, Draws
from deepbloom.data.sources.synthetic.scene import SIZE, Mark, draw_scene
from deepbloom.data.sources.synthetic.species import all_species
from deepbloom.errors import ConfigError

GENERATOR_VERSION = 6  # raised by every change of a single byte of an image
MIN_IMAGES_PER_CLASS = 3  # one each to train, validate and test

_IMAGE_PATH, _MARK_PATH, _ORDER_PATH = 2, 3, 4  # first steps of the paths of random streams; 1 draws species
_MARK_COLORS: tuple[Color, ...] = (
    (0.95, 0.10, 0.10),
    (0.10, 0.20, 0.95),
    (1.00, 0.90, 0.05),
    (0.95, 0.95, 0.95),
    (0.05, 0.05, 0.05),
    (0.05, 0.85, 0.90),
)


@dataclass(frozen=True)
class SyntheticFlowers(ImageSource):
    """Images of 224 x 224 pixels, drawn when they are read.

    An image depends on its species and number alone, not on the number of classes or images.
    """

    seed: int = 0
    shortcut_rate: float = 0.0

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self._draw(index)[0])

    def mask(self, index: int) -> np.ndarray:
        """Return the mask of the visible petals and center of the labeled flower, bool of shape (224, 224)."""
        return self._draw(index)[1]

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        target = int(self.targets[index])
        number = int(self.image_ids[index].rpartition("/")[2])
        marked = Draws(self.seed, _MARK_PATH, target, number).uniform() < self.shortcut_rate
        draws = Draws(self.seed, _IMAGE_PATH, target, number)
        return draw_scene(all_species()[target], draws, shortcut_mark(target) if marked else None)


def load(config: DataConfig) -> SyntheticFlowers:
    """Return the first ``num_classes`` species in the sizes of `class_sizes`.

    A higher ``shortcut_rate`` marks more images and keeps the marks that were there.
    """
    if config.root:
        raise ConfigError(f"data.root={config.root} is not used by drawn images: add data=imagefolder or flowers102.")
    sizes = class_sizes(config.num_classes, config.images_per_class, config.imbalance)
    parameters = {
        "generator": "deepbloom flowers",
        "version": GENERATOR_VERSION,
        "num_classes": config.num_classes,
        "images_per_class": config.images_per_class,
        "seed": config.seed,
        "imbalance": float(config.imbalance),
        "shortcut_rate": float(config.shortcut_rate),
    }
    return SyntheticFlowers(
        name="synthetic",
        image_ids=tuple(f"species_{k:03d}/{i:05d}" for k, size in enumerate(sizes) for i in range(size)),
        targets=np.repeat(np.arange(config.num_classes, dtype=np.int64), sizes),
        class_names=tuple(species.name for species in all_species()[: config.num_classes]),
        fingerprint=hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest(),
        seed=config.seed,
        shortcut_rate=config.shortcut_rate,
    )


def class_sizes(num_classes: int, images_per_class: int, imbalance: float) -> list[int]:
    """Return the images of each class: ``images_per_class * imbalance**(-rank / (num_classes - 1))``, rounded.

    No class has fewer than three. The order of the ranks is mixed and does not depend on the seed of the images.
    """
    order = sorted(range(num_classes), key=lambda number: Draws(0, _ORDER_PATH, number).uniform())
    sizes = [0] * num_classes
    for rank, number in enumerate(order):
        share = round(imbalance ** (-rank / (num_classes - 1)), 9)
        sizes[number] = max(MIN_IMAGES_PER_CLASS, int(images_per_class * share + 0.5))
    return sizes


def shortcut_mark(target: int) -> Mark:
    """Return the mark of a class: a label in one of four corners, in one of thirty ordered pairs of colors."""
    pair, corner = divmod(target, 4)
    first, other = divmod(pair, len(_MARK_COLORS) - 1)
    second = other + (other >= first)
    pixels = np.empty((3, 14, 20), np.float32)
    pixels[:, :, :10] = np.array(_MARK_COLORS[first])[:, None, None]
    pixels[:, :, 10:] = np.array(_MARK_COLORS[second])[:, None, None]
    bottom, right = divmod(corner, 2)
    return Mark(pixels, top=SIZE - 18 if bottom else 4, left=SIZE - 24 if right else 4)
