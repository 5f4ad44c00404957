"""Corruptions of images at five severities, one function each.

Where Hendrycks and Dietterich (2019, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
https://arxiv.org/abs/1903.12261) have the kind, the parameters are theirs for ImageNet; departures are stated. Lengths
are in pixels of the image that the network sees, 224 x 224 there.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image
from scipy.ndimage import convolve1d, gaussian_filter
from scipy.signal import fftconvolve

from deepbloom.errors import ConfigError
from deepbloom.rng import derive_seed

SEVERITIES = (1, 2, 3, 4, 5)
COMBINED = "+"
Pixels = np.ndarray
"""Float32 of shape (H, W, 3), RGB in [0, 1]; results outside of it are clipped."""


@dataclass(frozen=True)
class Corruption:
    """A registered corruption.

    Attributes
    ----------
    function : function
        Takes the image, the level of a severity and a random stream; returns a new image.
    levels : tuple
        The level of each severity, mildest first.
    random : bool
        Whether the result depends on the image's random stream.
    moves : bool
        Whether objects are elsewhere afterwards, so that a mask must change as the image does.
    """

    function: Callable[[Pixels, Any, Generator], Pixels]
    levels: tuple[Any, ...]
    random: bool
    moves: bool


CORRUPTIONS: dict[str, Corruption] = {}
"""By name, in the order of reports."""

Function = Callable[[Pixels, Any, Generator], Pixels]


def corruption(levels: tuple[Any, ...], random: bool = False, moves: bool = False) -> Callable[[Function], Function]:
    """Register a function under its name, with one level for each severity."""
    if len(levels) != len(SEVERITIES):
        raise ValueError(f"{len(levels)} levels: give one for each of the {len(SEVERITIES)} severities.")

    def register(function: Function) -> Function:
        registered = Corruption(function, levels, random, moves)
        if CORRUPTIONS.setdefault(function.__name__, registered).function != function:
            raise ValueError(f"A corruption named {function.__name__} is there already.")
        return function

    return register


def check_corruption(name: str) -> None:
    """Raise `ConfigError` unless ``name`` is a registered corruption, or two of them joined by ``+``."""
    parts = name.split(COMBINED)
    unknown = [part for part in parts if part not in CORRUPTIONS]
    if unknown or len(parts) > 2:
        raise ConfigError(
            f"corruptions={name}: there is no such corruption. Choose from {', '.join(CORRUPTIONS)}, "
            "or combine two, such as gaussian_noise+rotation."
        )


def corrupt(image: np.ndarray, name: str, severity: int, seed: int, image_id: str) -> np.ndarray:
    """Return a corrupted copy of an image.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
    name : str
        A registered corruption, or two joined by ``+``, which are applied in this order.
    severity : int
        1 (mild) to 5.
    seed : int
    image_id : str
        With ``seed`` and ``name`` it decides the random stream, which all severities share.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
    """
    for part in name.split(COMBINED):
        image = _apply(image, part, severity, seed, image_id)
    return image


def corrupt_mask(mask: np.ndarray, name: str, severity: int, seed: int, image_id: str) -> np.ndarray:
    """Return where an object is after `corrupt` with the same arguments.

    It moves with a rotation, a perspective and a crop, and stays under all others; what an occlusion covers still
    counts as the object.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W), true on the object

    Returns
    -------
    ndarray of bool, shape (H, W)
    """
    image = np.repeat(np.where(mask, 255, 0).astype(np.uint8)[:, :, None], 3, axis=2)
    for part in name.split(COMBINED):
        if CORRUPTIONS[part].moves:
            image = _apply(image, part, severity, seed, image_id)
    return np.asarray(image[:, :, 0] >= 128)


def _apply(image: np.ndarray, part: str, severity: int, seed: int, image_id: str) -> np.ndarray:
    kind = CORRUPTIONS[part]
    stream = np.random.default_rng(derive_seed(seed, part, image_id))
    changed = kind.function(image.astype(np.float32) / 255, kind.levels[severity - 1], stream)
    return (np.clip(changed, 0, 1) * 255).astype(np.uint8)


@corruption((0.08, 0.12, 0.18, 0.26, 0.38), random=True)
def gaussian_noise(image: Pixels, level: float, stream: Generator) -> Pixels:
    """Add normal noise of standard deviation ``level``, as in poor light."""
    return image + level * stream.standard_normal(image.shape, dtype=np.float32)


@corruption((60, 25, 12, 5, 3), random=True)
def shot_noise(image: Pixels, level: float, stream: Generator) -> Pixels:
    """Count ``level`` photons in a white pixel: Poisson noise."""
    return stream.poisson(image * level) / np.float32(level)


@corruption((0.03, 0.06, 0.09, 0.17, 0.27), random=True)
def impulse_noise(image: Pixels, level: float, stream: Generator) -> Pixels:
    """Set a share ``level`` of the values to black or white: salt and pepper."""
    hit = stream.random(image.shape, dtype=np.float32) <= level
    return np.where(hit, stream.random(image.shape, dtype=np.float32) <= 0.5, image)


@corruption((1, 2, 3, 4, 6))
def gaussian_blur(image: Pixels, level: float, stream: Generator) -> Pixels:
    """Blur with a Gaussian of standard deviation ``level``."""
    return gaussian_filter(image, (level, level, 0), mode="nearest")


@corruption(((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)))
def defocus_blur(image: Pixels, level: tuple[int, float], stream: Generator) -> Pixels:
    """Blur with a disk of radius ``level[0]``, as a lens out of focus; its edge is smoothed by ``level[1]``."""
    radius, smoothing = level
    reach, edge = max(8, radius), 1 if radius <= 8 else 2
    axis = np.arange(-reach, reach + 1)
    disk = (axis[:, None] ** 2 + axis**2 <= radius**2).astype(np.float32)
    taps = np.exp(-(np.arange(-edge, edge + 1) ** 2) / (2 * smoothing**2))
    for side in (0, 1):
        disk = convolve1d(disk, taps / taps.sum(), axis=side, mode="mirror")
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    return np.asarray(fftconvolve(padded, (disk / disk.sum())[:, :, None], mode="valid", axes=(0, 1)))


@corruption(((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)), random=True)
def motion_blur(image: Pixels, level: tuple[int, float], stream: Generator) -> Pixels:
    """Smear along a line at up to 45 degrees to the horizontal.

    The weights of the 2 r + 1 shifted copies fall as a Gaussian of standard deviation ``level[1]``, r = ``level[0]``.
    """
    radius, deviation = level
    angle = math.radians(stream.uniform(-45, 45))
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * deviation**2)).astype(np.float32)
    reach, (height, width) = 2 * radius, image.shape[:2]
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    blurred = np.zeros_like(image)
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        top, left = (reach + round(step * part) for part in (math.sin(angle), math.cos(angle)))
        blurred += weight * padded[top : top + height, left : left + width]
    return blurred


@corruption(((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)))
def zoom_blur(image: Pixels, level: tuple[float, float], stream: Generator) -> Pixels:
    """Average the image with itself zoomed in by 1, 1 + step, ... below ``level[0]``, as a camera that moves."""
    zooms, photo = np.arange(1, *level), _to_pil(image)
    return (image + sum(_resample(photo, _zoom_box(image, zoom)) for zoom in zooms)) / (len(zooms) + 1)


@corruption((0.1, 0.2, 0.3, 0.4, 0.5))
def brightness(image: Pixels, level: float, stream: Generator) -> Pixels:
    """Raise the value (HSV) by ``level``."""
    value = _reduce_channels(np.maximum, image)
    scale = np.clip(value + level, 0, 1) / np.maximum(value, 1e-6)
    return np.where(value > 0, image * scale, np.float32(level))


@corruption((0.7, 0.5, 0.35, 0.2, 0.1))
def darkness(image: Pixels, level: float, stream: Generator) -> Pixels:
    """Scale all values by ``level``; not in the paper."""
    return image * level


@corruption((0.4, 0.3, 0.2, 0.1, 0.05))
def contrast(image: Pixels, level: float, stream: Generator) -> Pixels:
    """Scale the deviation from the mean color by ``level``."""
    mean = image.mean((0, 1), keepdims=True)
    return (image - mean) * level + mean


@corruption(((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)))
def saturation(image: Pixels, level: tuple[float, float], stream: Generator) -> Pixels:
    """Change the saturation s (HSV) to ``level[0]`` s + ``level[1]``; a gray pixel counts as red."""
    value, low = _reduce_channels(np.maximum, image), _reduce_channels(np.minimum, image)
    chroma = value - low
    direction = np.where(chroma > 0, (value - image) / np.maximum(chroma, 1e-6), np.array([0, 1, 1], np.float32))
    old = chroma / np.maximum(value, 1e-6)
    return value - direction * value * np.clip(old * level[0] + level[1], 0, 1)


@corruption((0.2, 0.4, 0.6, 0.8, 1.0))
def grayscale(image: Pixels, level: float, stream: Generator) -> Pixels:
    """Mix a share ``level`` of the luma (ITU-R BT.601) into each pixel; not in the paper."""
    luma = image @ np.array([0.299, 0.587, 0.114], np.float32)
    return image + level * (luma[:, :, None] - image)


@corruption(((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)), random=True)
def haze(image: Pixels, level: tuple[float, float], stream: Generator) -> Pixels:
    """Lay ``level[0]`` of a cloudy white over the image, as fog.

    The clouds are noise with a spectrum of 1 / f^``level[1]``, scaled to [0, 1], where the paper subdivides squares.
    """
    height, width = image.shape[:2]
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequencies[0, 0] = 1
    noise = np.fft.rfft2(stream.standard_normal((height, width)))
    clouds = np.fft.irfft2(noise / frequencies ** level[1], s=(height, width))
    clouds = (clouds - clouds.min()) / np.ptp(clouds)
    highest = image.max()
    return (image + level[0] * clouds[:, :, None].astype(np.float32)) * highest / (highest + level[0])


@corruption((25, 18, 15, 10, 7))
def jpeg(image: Pixels, level: int, stream: Generator) -> Pixels:
    """Compress with JPEG at quality ``level``."""
    buffer = io.BytesIO()
    _to_pil(image).save(buffer, "JPEG", quality=level)
    return _from_pil(Image.open(buffer))


@corruption((0.6, 0.5, 0.4, 0.3, 0.25))
def pixelate(image: Pixels, level: float, stream: Generator) -> Pixels:
    """Average blocks of pixels: ``level`` times as many remain along each side."""
    return _through_size(image, level, Image.Resampling.BOX, Image.Resampling.NEAREST)


@corruption((0.5, 0.35, 0.25, 0.18, 0.125))
def downscale(image: Pixels, level: float, stream: Generator) -> Pixels:
    """Resize to ``level`` of each side and back, as a small or distant original; not in the paper."""
    return _through_size(image, level, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


@corruption((15, 45, 90, 135, 180), random=True, moves=True)
def rotation(image: Pixels, level: float, stream: Generator) -> Pixels:
    """Rotate by ``level`` degrees to the left or right; the corners mirror the image. Not in the paper."""
    angle = level if stream.random() < 0.5 else -level
    height, width = image.shape[:2]
    reach = math.ceil((math.hypot(height, width) - min(height, width)) / 2) + 1
    padded = np.pad(np.asarray(_to_pil(image)), ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    turned = Image.fromarray(padded).rotate(angle, Image.Resampling.BILINEAR)
    return _from_pil(turned.crop((reach, reach, reach + width, reach + height)))


@corruption((0.06, 0.12, 0.18, 0.24, 0.3), random=True, moves=True)
def perspective(image: Pixels, level: float, stream: Generator) -> Pixels:
    """Move each corner inward by up to ``level`` of each side, and stretch what is between them; not in the paper."""
    height, width = image.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]])
    inward = np.sign(np.array([width, height]) / 2 - corners)
    source = corners + inward * stream.uniform(0, level, (4, 2)) * [width, height]
    rows = []
    for (x, y), (u, v) in zip(corners, source, strict=True):  # u = (a x + b y + c) / (g x + h y + 1), v likewise
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    coefficients = np.linalg.solve(np.array(rows), source.ravel())
    transform = Image.Transform.PERSPECTIVE
    return _from_pil(
        _to_pil(image).transform((width, height), transform, coefficients.tolist(), Image.Resampling.BILINEAR)
    )


@corruption((0.85, 0.7, 0.55, 0.45, 0.35), random=True, moves=True)
def crop(image: Pixels, level: float, stream: Generator) -> Pixels:
    """Zoom into a window of ``level`` of each side, at a random place; not in the paper."""
    height, width = image.shape[:2]
    left, top = stream.random(2) * [width * (1 - level), height * (1 - level)]
    return _resample(_to_pil(image), (left, top, left + level * width, top + level * height))


@corruption((0.05, 0.1, 0.2, 0.3, 0.4), random=True)
def occlusion(image: Pixels, level: float, stream: Generator) -> Pixels:
    """Cover a share ``level`` of the image with a gray rectangle of its shape, at a random place; not in the paper."""
    height, width = image.shape[:2]
    covered = [round(side * math.sqrt(level)) for side in (height, width)]
    top, left = (int(stream.integers(side - part + 1)) for side, part in zip((height, width), covered, strict=True))
    changed = image.copy()
    changed[top : top + covered[0], left : left + covered[1]] = 0.5
    return changed


def _to_pil(image: Pixels) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))


def _from_pil(image: Image.Image) -> Pixels:
    return np.asarray(image, dtype=np.float32) / 255


def _reduce_channels(function: np.ufunc, image: Pixels) -> Pixels:
    """Return the maximum or minimum of the three channels, shape (H, W, 1), faster than along a short axis."""
    red, green, blue = image[..., :1], image[..., 1:2], image[..., 2:]
    return np.asarray(function(function(red, green), blue))


def _resample(image: Image.Image, box: tuple[float, float, float, float]) -> Pixels:
    return _from_pil(image.resize(image.size, Image.Resampling.BILINEAR, box))


def _zoom_box(image: Pixels, zoom: float) -> tuple[float, float, float, float]:
    height, width = image.shape[:2]
    left, top = width * (1 - 1 / zoom) / 2, height * (1 - 1 / zoom) / 2
    return left, top, width - left, height - top


def _through_size(image: Pixels, share: float, down: Image.Resampling, up: Image.Resampling) -> Pixels:
    height, width = image.shape[:2]
    small = _to_pil(image).resize((max(1, int(width * share)), max(1, int(height * share))), down)
    return _from_pil(small.resize((width, height), up))
