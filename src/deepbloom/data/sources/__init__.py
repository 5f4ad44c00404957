"""Sources of labeled images: each is a module here with a function ``load(config)``, and a file in ``conf/data``."""

import pkgutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import import_module

import numpy as np
from PIL import Image

from deepbloom.config.data_settings import DataConfig
from deepbloom.config.schema import check_choice


@dataclass(frozen=True)
class ImageSource(ABC):
    """N labeled images that can be read one at a time, from any thread or process (instances are picklable)."""

    name: str
    """``data=NAME``."""
    image_ids: tuple[str, ...]
    """Stable name of each image, unique within the source: a relative path, or class and number."""
    targets: np.ndarray
    """Class of each image, an index into ``class_names``: int64, shape (N,)."""
    class_names: tuple[str, ...]
    fingerprint: str
    """SHA-256 (hex) over names, classes and contents, wherever the images lie."""
    predefined: dict[str, np.ndarray] | None = None
    """Indices (int64) of the predefined ``train``, ``val`` and ``test`` split, if there is one."""
    notes: tuple[str, ...] = ()
    """Sentences for the log: what was left out, and why."""

    def __len__(self) -> int:
        return len(self.image_ids)

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """Return image ``index`` upright, in RGB, in its own size.

        Raises
        ------
        DataError
            The image cannot be read; the message names it.
        """

    def mask(self, index: int) -> np.ndarray | None:
        """Return the object's segmentation, bool of the image's shape (H, W), or None if there is none."""
        return None


def source_names() -> tuple[str, ...]:
    """Return the names of all sources: the modules of this package, without importing them."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "files"))


def find_source(config: DataConfig) -> ImageSource | None:
    """Return the images as `load_source` does, but download nothing: None where Flowers102 is not there yet."""
    from deepbloom.data.cache_folder import cache_folder
    from deepbloom.data.sources import flowers102

    if config.name == "flowers102" and not flowers102.is_in(config.root or cache_folder()):
        return None
    return load_source(config)


def load_source(config: DataConfig) -> ImageSource:
    """Return the images that ``config`` names; with ``allow_missing``, without those absent or unreadable.

    Raises
    ------
    ConfigError
        There is no such source, or a setting does not suit it.
    DataError
        The images cannot be found or are not usable; see each source's loader.
    """
    check_choice("data", config.name, source_names())
    source: ImageSource = import_module(f"{__name__}.{config.name}").load(config)
    if config.labels or config.exclude:
        from deepbloom.data.corrections import correct

        return correct(source, config.labels, config.exclude)
    return source
