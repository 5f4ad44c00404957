"""Images unlike those of training, and the training images most like a given one.

An image is as far from training as its nearest training image: one minus the cosine of their embeddings, the inputs of
the last layer (k nearest neighbors with k = 1; Sun et al. 2022, https://arxiv.org/abs/2204.06507). No other data are
needed. docs/confidence.md compares it with energy, maximum softmax and Mahalanobis distance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepbloom.errors import CheckpointError

MAX_STORED = 20_000
"""Most training images whose embeddings are kept; larger sets are sampled."""
OUTLIERS = 20
"""Images unlike all others that the label check lists."""
ROWS = 1024
"""Images compared with all others at a time."""
ALIKE = 0.99
"""Share of the validation images that count as like training."""


@dataclass(frozen=True)
class TrainingImages:
    """Embeddings of training images.

    Attributes
    ----------
    embeddings : ndarray of float32, shape (N, F), of length 1
    targets : ndarray of int64, shape (N,)
    image_ids : tuple of str
    """

    embeddings: NDArray[np.float32]
    targets: NDArray[np.int64]
    image_ids: tuple[str, ...]

    def nearest(self, embeddings: np.ndarray, count: int = 1) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return cosine similarities and indices of the most similar training images, best first.

        Parameters
        ----------
        embeddings : ndarray, shape (B, F)
        count : int

        Returns
        -------
        similarities : ndarray of float32 in [-1, 1], shape (B, min(count, N))
        places : ndarray of int64, of the same shape

        Raises
        ------
        CheckpointError
            The embeddings are of a network with another number of features.
        """
        if embeddings.shape[1] != self.embeddings.shape[1]:
            raise CheckpointError(
                f"The stored training images have {self.embeddings.shape[1]} features each and the network's images "
                f"{embeddings.shape[1]}: training_images.safetensors belongs to another network."
            )
        similarities = normalize(embeddings) @ self.embeddings.T
        places = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
        return np.take_along_axis(similarities, places, axis=1), places

    def distances(self, embeddings: np.ndarray) -> NDArray[np.float64]:
        """Return how far images, shape (B, F), are from training, in [0, 2]: float64, shape (B,)."""
        return 1 - self.nearest(embeddings)[0][:, 0].astype(np.float64)


def normalize(embeddings: np.ndarray) -> NDArray[np.float32]:
    """Return embeddings, shape (B, F), scaled to length 1; zeros stay."""
    embeddings = embeddings.astype(np.float32)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def choose_limit(distances: NDArray[np.float64]) -> float:
    """Return the distance beyond which images are unlike training: `ALIKE` of the validation images are not."""
    return float(np.quantile(distances, ALIKE, method="higher"))


def find_outliers(embedded: Sequence[tuple[NDArray[np.int64], np.ndarray]]) -> list[tuple[int, float]]:
    """Return the `OUTLIERS` images that are farthest from the nearest other one, with this distance, in [0, 2].

    Parameters
    ----------
    embedded : sequence of (ndarray of int64, shape (M,), ndarray, shape (M, F))
        Places of images and their embeddings, from networks that were not trained with them. Distances of an image
        that several networks saw are averaged.
    """
    sums: dict[int, list[float]] = {}
    for places, embeddings in embedded:
        for place, distance in zip(places.tolist(), _isolation(normalize(embeddings)).tolist(), strict=True):
            sums.setdefault(place, []).append(distance)
    means = {place: float(np.mean(found)) for place, found in sums.items()}
    return sorted(means.items(), key=lambda pair: (-pair[1], pair[0]))[:OUTLIERS]


def _isolation(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the distance of each embedding, shape (M, F), of length 1, from the nearest other: shape (M,)."""
    nearest = np.full(len(embeddings), -1, dtype=np.float32)
    for start in range(0, len(embeddings), ROWS):
        similarities = embeddings[start : start + ROWS] @ embeddings.T
        rows = np.arange(len(similarities))
        similarities[rows, start + rows] = -1
        nearest[start : start + ROWS] = similarities.max(1)
    return np.asarray(1 - nearest)
