"""Images that are probably of no use: near-empty, very dark, very blurred, tiny, or of an odd aspect."""

from typing import Any

import numpy as np

from deepbloom.data.dataset import PreparedData
from deepbloom.data.images import stored_size
from deepbloom.data.sources.files import FileSource
from deepbloom.progress import ProgressBar

COLUMNS = ("image_id", "problem", "value")
LEAST_CONTRAST = 8.0
"""Standard deviation of gray, of 255. No image of 300 of Flowers102 has less than 31."""
LEAST_BRIGHTNESS = 60.0
"""Gray of 255 that the brightest twentieth reaches; the darkest of the 300 reaches 117."""
LEAST_SHARPNESS = 0.05
"""Deviation of the Laplacian over that of gray, at the network's size. The 300 have at least 0.13; blurred by
a Gaussian of three pixels, at most 0.04."""
LEAST_SIDE = 64
"""Shorter side of the file's image, in pixels."""
LARGEST_ASPECT = 3.0
READ_AT_ONCE = 64
GRAY = np.array([0.299, 0.587, 0.114])


def find_problems(data: PreparedData) -> list[dict[str, Any]]:
    """Return a row per image and problem: ``image_id``, ``problem`` and the ``value`` that shows it."""
    names, rows = data.source.image_ids, []
    for start in ProgressBar(range(0, len(names), READ_AT_ONCE), "Checking quality"):
        indices = np.arange(start, min(start + READ_AT_ONCE, len(names)))
        for index, pixels in zip(indices.tolist(), data.pixels.read(indices), strict=True):
            found = judge_pixels(pixels)
            if isinstance(data.source, FileSource):
                found |= judge_size(*stored_size(data.source.paths[index]))
            rows += [{"image_id": names[index], "problem": name, "value": f"{v:.3g}"} for name, v in found.items()]
    return rows


def judge_pixels(pixels: np.ndarray) -> dict[str, float]:
    """Return the problems of an image, uint8 of shape (H, W, 3), with the value of each."""
    gray = pixels @ GRAY
    contrast, brightness = float(gray.std()), float(np.quantile(gray, 0.95))
    if contrast < LEAST_CONTRAST:
        return {"near-empty": contrast}
    sharpness = float(laplacian(gray).std()) / contrast
    found = {"very dark": brightness} if brightness < LEAST_BRIGHTNESS else {}
    return found | ({"very blurred": sharpness} if sharpness < LEAST_SHARPNESS else {})


def laplacian(gray: np.ndarray) -> np.ndarray:
    """Return the Laplacian of an image, (H, W), at every pixel inside of its border: (H - 2, W - 2)."""
    around = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:]
    return np.asarray(around - 4 * gray[1:-1, 1:-1])


def judge_size(width: int, height: int) -> dict[str, float]:
    """Return the problems of an image of this size in pixels."""
    short, long = sorted((width, height))
    found: dict[str, float] = {"tiny": short} if short < LEAST_SIDE else {}
    return found | ({"odd aspect": long / short} if long > LARGEST_ASPECT * short else {})
