"""From a file on disk to the network's input: reading, resizing, normalizing, and the random changes of training."""

import io
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from deepbloom.config.settings import AugmentConfig, check_choice, check_range
from deepbloom.data.resolution import View
from deepbloom.errors import ConfigError, DataError

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 80_000_000
"""Larger images are refused before they are decoded; below the size at which Pillow itself warns."""
MAX_BYTES = 512_000_000
"""Larger files are refused: twice what `MAX_PIXELS` in RGB take when they are not compressed at all."""
MAX_SCANS = 100
"""Passes over its pixels that a JPEG may ask for: a small file of thousands would take minutes. Ten are usual."""
MAX_SEGMENTS = 20_000
"""Parts that a JPEG may have; usual are twenty, and one more for every 64 kB of metadata."""
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
JPEG_SEGMENT = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""A marker that begins a part; not a stuffed or fill byte, nor a marker within the data of a pass."""
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

DRAWS = 12
"""Random numbers set aside per image: whole Philox blocks of four, more than `augment` needs today."""
GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma


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
            if len(values) != 3 or (name == "std" and min(values) <= 0):
                raise ConfigError(f"preprocessing.{name}={values!r}: give three numbers, one for each of R, G and B.")
            object.__setattr__(self, name, values)


def read_image(path: str | os.PathLike) -> Image.Image:
    """Return the image in a JPEG, PNG or WebP file, upright (EXIF) and in RGB; transparent parts lie on white.

    Raises
    ------
    DataError
        The path is no regular file, or the file is of another kind, truncated, damaged or too large.
    """
    name = f"image {os.fspath(path)!r}"
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise DataError(f"Cannot read {name}: it is not a regular file.")
        if status.st_size > MAX_BYTES:
            raise DataError(f"Cannot read {name}: {status.st_size:,} bytes are more than {MAX_BYTES:,}.")
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read {name}: {_reason(error)}.") from error
    return _decode(Path(path), name)


def read_image_bytes(content: bytes) -> Image.Image:
    """Return the image in the bytes of a file, by the same rules as `read_image`.

    Raises
    ------
    DataError
        They are of another kind, truncated, damaged or too large.
    """
    return _decode(io.BytesIO(content), "this file")


def _decode(file: Path | io.BytesIO, name: str) -> Image.Image:
    try:
        with open(file, "rb") if isinstance(file, Path) else file as content:
            _check_scans(content, name)
            with Image.open(content, formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise DataError(
                        f"Cannot read {name}: {width} x {height} pixels are more than {MAX_PIXELS:,}. "
                        "Scale it down first."
                    )
                ImageOps.exif_transpose(image, in_place=True)
                return _to_rgb(image)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        raise DataError(f"Cannot read {name}: {_reason(error)}.") from error


def _check_scans(file: BinaryIO, name: str) -> None:
    """Raise `DataError` where a JPEG asks for too many passes over its pixels; leave the file at its beginning."""
    content = file.read(len(JPEG_START))
    if content == JPEG_START:
        content += file.read()
    file.seek(0)
    place, scans, segments = 2, 0, 0
    while (found := JPEG_SEGMENT.search(content, place)) and found[0] != JPEG_END:
        place = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")
        scans, segments = scans + (found[0] == JPEG_SCAN), segments + 1
        if scans > MAX_SCANS or segments > MAX_SEGMENTS:
            raise DataError(
                f"Cannot read {name}: a JPEG of more than {MAX_SCANS} passes or {MAX_SEGMENTS:,} parts could take "
                "minutes. Save it again with another program."
            )


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"it is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image, or its beginning is damaged"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).rstrip(".") or type(error).__name__


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit gray; Pillow's own conversion would clip it to white
        gray = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(np.round(gray).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def resize(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Return the RGB image as uint8 pixels of shape (S, S, 3); the aspect is not kept."""
    side = (preprocessing.size, preprocessing.size)
    return np.array(image.resize(side, RESAMPLING[preprocessing.interpolation]))


def normalize(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return the network's input, (x - mean) / std per channel.

    Parameters
    ----------
    pixels : uint8 Tensor of shape (B, S, S, 3)

    Returns
    -------
    float32 Tensor of shape (B, 3, S, S), in channels-last memory, on the same device.
    """
    images = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)
    return _standardize(images, preprocessing).contiguous(memory_format=torch.channels_last)


def _standardize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Subtract the mean of each channel and divide by its deviation, in place."""
    mean = images.new_tensor(preprocessing.mean).view(3, 1, 1)
    scale = 1 / images.new_tensor(preprocessing.std).view(3, 1, 1)
    return images.sub_(mean).mul_(scale)


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """Return one RGB image as the network's input, a float32 Tensor of shape (3, S, S)."""
    pixels = torch.from_numpy(resize(image, preprocessing))
    return normalize(pixels.unsqueeze(0), preprocessing)[0]


def augment(pixels: Tensor, image_indices: Tensor, view: View, seed: int, config: AugmentConfig) -> Tensor:
    """Change each image at random: rotated about its center, cropped, mirrored, then jittered in color.

    Rotation, crop, mirror and size are one affine map per image, sampled once (bilinear). What comes from outside of
    the image is black, and its outermost half pixel fades into it. The numbers drawn are a pure function of ``seed``,
    the view's number and the image's index, so that neither the order nor the size of batches nor the number of
    workers changes what an image becomes.
    MixUp needs targets and is not done here.

    Parameters
    ----------
    pixels : uint8 Tensor of shape (B, S, S, 3)
    image_indices : int64 Tensor of shape (B,)
        The images' places in the part that is trained on.
    view : View
        Its side, T pixels, is at most S.

    Returns
    -------
    float32 Tensor of shape (B, 3, T, T) in [0, 1], on the device of ``pixels``; exactly ``pixels / 255`` where
    ``config`` asks for no change and T = S.
    """
    return _change(pixels, _Changes.draw(image_indices, view, seed, config, pixels.device), view.side, config)


def training_inputs(
    pixels: Tensor, image_indices: Tensor, view: View, seed: int, config: AugmentConfig, preprocessing: Preprocessing
) -> Tensor:
    """Return the network's input for images changed by `augment`: normalized, float32 in channels-last memory.

    On a CPU a few images are taken at a time: they stay in its cache from the first operation to the last.
    """
    batch, channels = len(pixels), pixels.shape[-1]
    inputs = torch.empty(batch, view.side, view.side, channels, device=pixels.device).permute(0, 3, 1, 2)
    changes = _Changes.draw(image_indices, view, seed, config, pixels.device)
    step = max(batch, 1) if pixels.is_cuda else 4 * torch.get_num_threads()
    for part in (slice(start, start + step) for start in range(0, batch, step)):
        images = _change(pixels[part], changes.of(part), view.side, config)
        inputs[part] = _standardize(images, preprocessing)
    return inputs


@dataclass(frozen=True)
class _Changes:
    """What is done to each image of a batch; an entry per image."""

    maps: Tensor
    """float32 (B, 2, 3), of `_affine_maps`."""
    mirrored: Tensor
    """bool (B,)"""
    color_factors: Tensor
    """float32 (B, 3), of `_jitter_factors`."""

    @classmethod
    def draw(
        cls, image_indices: Tensor, view: View, seed: int, config: AugmentConfig, device: torch.device
    ) -> "_Changes":
        draws = _draw(image_indices.cpu().numpy(), view.number, seed)
        arrays = _affine_maps(draws, config), _mirrored(draws), _jitter_factors(draws, config)
        return cls(*(torch.from_numpy(array).to(device) for array in arrays))

    def of(self, part: slice) -> "_Changes":
        return _Changes(self.maps[part], self.mirrored[part], self.color_factors[part])


def _change(pixels: Tensor, changes: _Changes, side: int, config: AugmentConfig) -> Tensor:
    images = pixels.permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(255)  # in the order that sampling likes
    if config.rotation_degrees > 0 or config.min_crop_area < 1 or side < images.shape[-1]:
        grid = _sampling_grid(changes.maps, side)
        images = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    elif config.horizontal_flip:
        images = torch.where(changes.mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
    if config.color_jitter > 0:
        images = _jitter(images, changes.color_factors)
    return images.clamp_(0, 1)


def _sampling_grid(maps: Tensor, side: int) -> Tensor:
    """Return float32 (B, side, side, 2): what ``F.affine_grid(..., align_corners=False)`` does, at less cost.

    x and y lie in planes of their own: sums along rows are fast, and so is sampling from them.
    """
    x = (torch.arange(side, device=maps.device) * 2 + 1) / side - 1
    y = x.view(-1, 1)
    by_x, by_y, offset = maps[..., None, None].unbind(2)  # (B, 2, 1, 1) each
    return (by_x * x + (by_y * y + offset)).permute(0, 2, 3, 1)


def _draw(image_indices: np.ndarray, view: int, seed: int) -> np.ndarray:
    """Return uniform numbers in [0, 1), float64 of shape (B, DRAWS), from the stream of each image.

    Philox (Salmon et al. 2011) is a function of key and counter: the key holds seed and view, the counter the image.
    """
    draws = np.empty((len(image_indices), DRAWS))
    key = np.array([seed, view], dtype=np.uint64)
    for row, index in zip(draws, image_indices.tolist(), strict=True):
        counter = np.array([0, 0, 0, index], dtype=np.uint64)
        np.random.Generator(np.random.Philox(counter=counter, key=key)).random(out=row)
    return draws


def _mirrored(draws: np.ndarray) -> np.ndarray:
    return draws[:, 0] < 0.5


def _affine_maps(draws: np.ndarray, config: AugmentConfig) -> np.ndarray:
    """Return float32 matrices of shape (B, 2, 3) from output to input coordinates in [-1, 1], for ``affine_grid``.

    input = R(angle) (offset + diag(mirror * width, height) output): a window of the rotated image, then mirrored.
    Area is uniform in [min_crop_area, 1]; the aspect is log-uniform in [3/4, 4/3] as far as the window stays inside
    (Szegedy et al. 2015, https://arxiv.org/abs/1409.4842, draw again instead).
    """
    mirror = np.where(config.horizontal_flip & _mirrored(draws), -1.0, 1.0)
    angle = np.radians(config.rotation_degrees) * (2 * draws[:, 1] - 1)
    area = config.min_crop_area + (1 - config.min_crop_area) * draws[:, 2]
    low, high = np.log(np.maximum(3 / 4, area)), np.log(np.minimum(4 / 3, 1 / area))
    aspect = np.exp(low + (high - low) * draws[:, 3])
    width, height = np.sqrt(area * aspect), np.sqrt(area / aspect)  # as shares of the image's sides
    x, y = (1 - width) * (2 * draws[:, 4] - 1), (1 - height) * (2 * draws[:, 5] - 1)
    cos, sin = np.cos(angle), np.sin(angle)
    rows = [
        [cos * mirror * width, -sin * height, cos * x - sin * y],
        [sin * mirror * width, cos * height, sin * x + cos * y],
    ]
    return np.array(rows).transpose(2, 0, 1).astype(np.float32)


def _jitter_factors(draws: np.ndarray, config: AugmentConfig) -> np.ndarray:
    return (1 + config.color_jitter * (2 * draws[:, 6:9] - 1)).astype(np.float32)


def _jitter(images: Tensor, factors: Tensor) -> Tensor:
    """Scale brightness, contrast (about the mean gray) and saturation (about the gray image), clipping after each."""
    brightness, contrast, saturation = factors.view(-1, 3, 1, 1, 1).unbind(1)
    weights = images.new_tensor(GRAY_WEIGHTS).view(3, 1, 1)
    images = (images * brightness).clamp_(0, 1)
    mean_gray = (images * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    images = torch.lerp(mean_gray, images, contrast).clamp_(0, 1)
    gray = (images * weights).sum(1, keepdim=True)
    return torch.lerp(gray, images, saturation)
