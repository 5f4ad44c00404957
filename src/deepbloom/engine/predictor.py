"""What gives predictions for images: a checkpoint's network or an exported file. Imports no torch."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from deepbloom.calibration.rejection import Rejection
from deepbloom.calibration.temperature import read_temperature
from deepbloom.data.pixel_cache import Pixels
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.metrics import softmax

EXPORTED = (".onnx", ".xml", ".pte")
"""Suffixes of exported files."""
METADATA = "deepbloom"
"""The key of a file's metadata under which its header lies, as JSON."""
EVALUATION_BATCH = 64
"""Images per forward pass; results do not depend on it beyond rounding."""


def read_header(header: Mapping[str, Any]) -> tuple[tuple[str, ...], Preprocessing]:
    """Return classes and preprocessing from the header of a file; whatever else predictions take from it is checked.

    Raises
    ------
    ConfigError, KeyError, TypeError, ValueError
        It does not describe a network of this version.
    """
    classes, fields = tuple(str(name) for name in header["classes"]), header["preprocessing"]
    preprocessing = Preprocessing(**fields | {"size": int(fields["size"])})
    if not isinstance(header["model"], str):
        raise ValueError("the name of its model is not text")
    read_temperature(header)
    Rejection.read(header)
    return classes, preprocessing


@dataclass(frozen=True)
class Predictor(ABC):
    """A trained classifier of C classes."""

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    header: dict[str, Any]
    """All that its file says of itself."""
    gives_embeddings: ClassVar[bool] = False
    """Whether it has `embedded_logits`."""

    @property
    def label(self) -> str:
        """The name of the model that was trained."""
        return str(self.header["model"])

    @property
    def temperature(self) -> float:
        """What divides logits before the softmax, so that confidences are calibrated."""
        return read_temperature(self.header)

    @abstractmethod
    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Return logits, float32 of shape (B, C), for resized images, uint8 of shape (B, S, S, 3)."""

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Return probabilities, float64 of shape (B, C), for resized images, uint8 of shape (B, S, S, 3)."""
        return softmax(self.logits(pixels), self.temperature)

    def embedded_logits(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return logits as `logits` does, and embeddings, the inputs of the last layer: float32 of shape (B, F)."""
        raise NotImplementedError(f"{type(self).__name__} gives no embeddings")

    def faster(self) -> "Predictor":
        """Return a predictor of the same logits up to rounding that takes less time for each of many images."""
        return self

    @contextmanager
    def shared(self) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
        """Give a function like `logits` that several threads may call at once; here they take turns."""
        turn = threading.Lock()

        def take_turns(pixels: np.ndarray) -> np.ndarray:
            with turn:
                return self.logits(pixels)

        yield take_turns

    def all_logits(self, pixels: Pixels, indices: np.ndarray, batch_size: int = EVALUATION_BATCH) -> np.ndarray:
        """Return the logits of images in order, float32 of shape (N, C); a batch is read while the one before is used.

        Parameters
        ----------
        pixels : Pixels
        indices : ndarray of int64, shape (N,), N at least 1
        batch_size : int
        """
        from deepbloom.data.batches import prefetch

        starts = range(0, len(indices), batch_size)
        read = (pixels.read(indices[start : start + batch_size]) for start in starts)
        return np.concatenate([self.logits(batch) for batch in prefetch(read, depth=1)])
