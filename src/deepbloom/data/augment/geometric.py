"""Geometric operations: maps from output to input coordinates."""

import numpy as np

from deepbloom.data.augment.registry import GEOMETRIC, augmentation


@augmentation("flip", kind=GEOMETRIC, random=True, numbers=1)
def flip(uniform: np.ndarray) -> np.ndarray:
    """Mirror every second image horizontally."""
    maps = identity(len(uniform))
    maps[:, 0, 0] = np.where(uniform[:, 0] < 0.5, -1.0, 1.0)
    return maps


@augmentation("rotate", kind=GEOMETRIC, random=True, numbers=1, degrees=(0, 180))
def rotate(uniform: np.ndarray, degrees: float) -> np.ndarray:
    """Rotate about the center by a uniform angle of at most ``degrees``; a positive angle is counterclockwise."""
    angle = np.radians(degrees) * (2 * uniform[:, 0] - 1)
    cos, sin, zero = np.cos(angle), np.sin(angle), np.zeros(len(uniform))
    return np.array([[cos, -sin, zero], [sin, cos, zero]]).transpose(2, 0, 1)


@augmentation("crop", kind=GEOMETRIC, random=True, numbers=4, min_area=(0.05, 1))
def crop(uniform: np.ndarray, min_area: float) -> np.ndarray:
    """Zoom into a random window.

    The window's share of the area is uniform in [``min_area``, 1]. Its aspect is log-uniform in [3/4, 4/3] as far as it
    stays inside of the image (Szegedy et al. 2015, https://arxiv.org/abs/1409.4842, draw again instead).
    """
    area = min_area + (1 - min_area) * uniform[:, 0]
    low, high = np.log(np.maximum(3 / 4, area)), np.log(np.minimum(4 / 3, 1 / area))
    aspect = np.exp(low + (high - low) * uniform[:, 1])
    width, height = np.sqrt(area * aspect), np.sqrt(area / aspect)  # as shares of the image's sides
    x, y = (1 - width) * (2 * uniform[:, 2] - 1), (1 - height) * (2 * uniform[:, 3] - 1)
    zero = np.zeros(len(uniform))
    return np.array([[width, zero, x], [zero, height, y]]).transpose(2, 0, 1)


def identity(count: int) -> np.ndarray:
    """Return maps that change nothing, float64 of shape (B, 2, 3)."""
    return np.tile(np.eye(2, 3), (count, 1, 1))
