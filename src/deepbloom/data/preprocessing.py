"""From an RGB image to the network's input: resize, then normalize."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from deepbloom.config.settings import check_choice, check_range
from deepbloom.errors import ConfigError

if TYPE_CHECKING:  # an exported file is used without torch
    import torch
    from torch import Tensor

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a network's input. Belongs to the model and travels in its checkpoint."""

    size: int = 224
    """Side of the square that every image is resized to, in pixels; the aspect is not kept."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted per channel (RGB) from values in [0, 1]."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Divides per channel (RGB) after the mean is subtracted."""
    interpolation: str = "bilinear"
    """``bilinear`` or ``bicubic``: Pillow's resampling, which antialiases."""

    def __post_init__(self) -> None:
        check_range("preprocessing.size", self.size, 1, 8192)
        check_choice("preprocessing.interpolation", self.interpolation, tuple(RESAMPLING))
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))  # a checkpoint's header gives lists
            if len(values) != 3 or not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
                raise ConfigError(f"preprocessing.{name}={values!r}: give three numbers, one for each of R, G and B.")
            object.__setattr__(self, name, values)


def resize(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Return the RGB image as uint8 pixels of shape (S, S, 3); the aspect is not kept."""
    side = (preprocessing.size, preprocessing.size)
    return np.array(image.resize(side, RESAMPLING[preprocessing.interpolation]))


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
