"""Real images for tests."""

import shutil
from pathlib import Path

import numpy as np

from deepbloom.data.sources.flowers102 import Flowers102


def copy_flowers(root: Path, folder: Path) -> Path:
    """Copy 40 images of each of the five classes of Flowers102 that have most, and return the folder of classes."""
    flowers = Flowers102.create(str(root), allow_missing=True)
    for number in np.bincount(flowers.targets).argsort()[-5:]:
        inside = folder / flowers.class_names[number]
        inside.mkdir(parents=True)
        for index in np.flatnonzero(flowers.targets == number)[:40]:
            shutil.copy(flowers.paths[index], inside)
    return folder
