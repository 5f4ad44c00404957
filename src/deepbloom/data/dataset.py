"""What every source of images offers: the one interface behind ``flowers102``, ``imagefolder`` and ``synthetic``."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class ImageSource(ABC):
    """A labeled list of images that can be read one at a time, from any process (instances are picklable).

    Attributes
    ----------
    name : str
        ``flowers102``, ``imagefolder`` or ``synthetic``.
    image_ids : tuple of str, length N
        Stable name of each image, unique within the source: a relative path, or class and number.
    targets : ndarray of int64, shape (N,)
        Class of each image, an index into ``class_names``.
    class_names : tuple of str, length C
    parts : dict of str to ndarray of int64, or None
        Indices of ready-made ``train``, ``val`` and ``test`` parts, where the data comes with them.
    fingerprint : str
        SHA-256 (hex) over names, classes and contents: equal exactly when the data are equal.
    notes : tuple of str
        Sentences for the person: what was left out, and why.
    """

    name: str
    image_ids: tuple[str, ...]
    targets: np.ndarray
    class_names: tuple[str, ...]
    fingerprint: str
    parts: dict[str, np.ndarray] | None = None
    notes: tuple[str, ...] = field(default=())

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
        """Return the flower's segmentation, bool of shape (H, W) as ``read``, or None where there is none."""
        return None
