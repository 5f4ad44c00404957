"""From an RGB image to the network's input: resize, then normalize."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from deepbloom.config.data_settings import FITS
from deepbloom.config.schema import check_choice, check_range
from deepbloom.errors import ConfigError

if TYPE_CHECKING:  # an exported file is used without torch
    import torch
    from torch import Tensor

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a network's input. Belongs to the model and travels in its checkpoint."""

    size: int = 224
    """Side of the square that every image is resized to, in pixels."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted per channel (RGB) from values in [0, 1]."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Divides per channel (RGB) after the mean is subtracted."""
    interpolation: str = "bilinear"
    """``bilinear`` or ``bicubic``: Pillow's resampling, which antialiases."""
    fit: str = "squash"
    """What makes an image square: ``squash``, ``crop`` or ``pad``; see `place`."""

    def __post_init__(self) -> None:
        check_range("preprocessing.size", self.size, 1, 8192)
        check_choice("preprocessing.interpolation", self.interpolation, tuple(RESAMPLING))
        check_choice("preprocessing.fit", self.fit, FITS)
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))  # a checkpoint's header gives lists
            if len(values) != 3 or not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
                raise ConfigError(f"preprocessing.{name}={values!r}: give three numbers, one for each of R, G and B.")
            object.__setattr__(self, name, values)

    @property
    def padding(self) -> tuple[int, ...]:
        """The color (RGB) beside an image with ``fit="pad"``: the mean, which the network's input holds as zero."""
        return tuple(round(255 * min(max(value, 0), 1)) for value in self.mean)

    @property
    def resizing(self) -> str:
        """All that decides the result of `resize`, for the names of caches."""
        color = f"|{self.padding}" if self.fit == "pad" else ""
        return f"{self.size}|{self.interpolation}|{self.fit}{color}"


def resize(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Return the RGB image as uint8 pixels of shape (S, S, 3)."""
    side = preprocessing.size
    part, where = place(image.size, side, preprocessing.fit)
    inner = (where[2] - where[0], where[3] - where[1])
    resized = image.resize(inner, RESAMPLING[preprocessing.interpolation], part)
    if inner != (side, side):
        square = Image.new("RGB", (side, side), preprocessing.padding)
        square.paste(resized, where[:2])
        resized = square
    return np.array(resized)


def place(
    size: tuple[int, int], side: int, fit: str
) -> tuple[tuple[float, float, float, float], tuple[int, int, int, int]]:
    """Return which part of an image the network sees, and where in its input that part is.

    Both are boxes (left, top, right, bottom) in pixels, of the image of the given ``size`` (width, height) and of the
    input of side S. With ``squash`` both are whole. ``crop`` sees the largest centered square of the image. ``pad``
    shrinks the image with its aspect into the center of the input.
    """
    width, height = size
    if fit == "crop":
        short = min(size)
        left, top = (width - short) / 2, (height - short) / 2
        return (left, top, left + short, top + short), (0, 0, side, side)
    inner = [side, side]
    if fit == "pad":
        inner = [max(1, round(side * length / max(size))) for length in size]
    left, top = (side - inner[0]) // 2, (side - inner[1]) // 2
    return (0, 0, width, height), (left, top, left + inner[0], top + inner[1])


def whole_box(box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """Return a box of `place` in whole pixels, of the same width and height: rounding each end could leave none."""
    left, top = round(box[0]), round(box[1])
    return left, top, left + round(box[2] - box[0]), top + round(box[3] - box[1])


def place_map(heatmap: np.ndarray, size: tuple[int, int], fit: str) -> np.ndarray:
    """Return a map of the network's input as one of the whole image, resized bicubically.

    Parameters
    ----------
    heatmap : ndarray of float32, shape (S, S), in [0, 1]
    size : (int, int)
        Width and height of the image, W and H.
    fit : str

    Returns
    -------
    ndarray of float32, shape (H, W), in [0, 1]; NaN where the network saw nothing of the image
    """
    part, where = place(size, len(heatmap), fit)
    left, top, right, bottom = whole_box(part)
    resized = Image.fromarray(heatmap).resize((right - left, bottom - top), Image.Resampling.BICUBIC, where)
    placed = np.full(size[::-1], np.nan, np.float32)
    placed[top:bottom, left:right] = np.asarray(resized).clip(0, 1)
    return placed


def normalize(pixels: "Tensor", preprocessing: Preprocessing) -> "Tensor":
    """Return the network's input, (x - mean) / std per channel.

    Parameters
    ----------
    pixels : uint8 Tensor of shape (B, S, S, 3)

    Returns
    -------
    float32 Tensor of shape (B, 3, S, S), in channels-last memory, on the same device.
    """
    import torch

    images = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)
    return standardize(images, preprocessing).contiguous(memory_format=torch.channels_last)


def standardize(images: "Tensor", preprocessing: Preprocessing) -> "Tensor":
    """Subtract the mean of each channel and divide by its deviation, in place."""
    mean = images.new_tensor(preprocessing.mean).view(3, 1, 1)
    scale = 1 / images.new_tensor(preprocessing.std).view(3, 1, 1)
    return images.sub_(mean).mul_(scale)


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> "Tensor":
    """Return one RGB image as the network's input, a float32 Tensor of shape (3, S, S)."""
    import torch

    return to_inputs(resize(image, preprocessing)[None], preprocessing, torch.device("cpu"))[0]


def to_inputs(pixels: np.ndarray, preprocessing: Preprocessing, device: "torch.device") -> "Tensor":
    """Return resized images, uint8 of shape (B, S, S, 3), as the network's input: see `normalize`."""
    import torch

    return normalize(torch.from_numpy(pixels).to(device), preprocessing)
