"""The operations: geometric ones (maps from output to input coordinates), those on pixels, those on batches.

New ones stand last, so that the random numbers of the others stay theirs.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deepbloom.data.augment.registry import BATCH, GEOMETRIC, PIXEL, augmentation

GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
ERASED_AREA, ERASED_ASPECT = 0.02, 0.3
"""Smallest share of the image and smallest aspect of an erased rectangle."""
REFERENCE = 224
"""Side of an image, in pixels, in which the width of a blur is given."""
TRIVIAL_BINS = 31
"""Amounts of each change of `trivial`, from none to the largest."""


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


@augmentation("color_jitter", kind=PIXEL, random=True, numbers=3, strength=(0, 1))
def color_jitter(images: Tensor, uniform: Tensor, strength: float) -> Tensor:
    """Scale brightness, contrast (about the mean gray) and saturation (about the gray image), clipping after each.

    Each factor is uniform in [1 - ``strength``, 1 + ``strength``].
    """
    factors = 1 + strength * (2 * uniform - 1)
    brightness, contrast, saturation = factors.view(-1, 3, 1, 1, 1).unbind(1)
    weights = images.new_tensor(GRAY_WEIGHTS).view(3, 1, 1)
    images = (images * brightness).clamp_(0, 1)
    mean_gray = (images * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    images = torch.lerp(mean_gray, images, contrast).clamp_(0, 1)
    gray = (images * weights).sum(1, keepdim=True)
    return torch.lerp(gray, images, saturation)


@augmentation("erase", kind=PIXEL, random=True, numbers=5, probability=(0, 1), max_area=(0.02, 1))
def erase(images: Tensor, uniform: Tensor, probability: float, max_area: float) -> Tensor:
    """Fill a random rectangle with the image's mean color (random erasing, https://arxiv.org/abs/1708.04896).

    It happens to an image with ``probability``. The rectangle's share of the area is uniform in [0.02, ``max_area``],
    its aspect log-uniform in [0.3, 1 / 0.3] as far as it stays inside of the image.
    """
    chance, area, aspect, x, y = uniform.unbind(1)
    area = ERASED_AREA + (max_area - ERASED_AREA) * area
    low, high = area.clamp(min=ERASED_ASPECT).log(), (1 / area).clamp(max=1 / ERASED_ASPECT).log()
    aspect = (low + (high - low) * aspect).exp()
    sides = (area * aspect).sqrt(), (area / aspect).sqrt()  # width and height, as shares of the image's sides
    inside = []
    for side, place, pixels in zip(sides, (x, y), (images.shape[3], images.shape[2]), strict=True):
        centers = (torch.arange(pixels, device=images.device) + 0.5) / pixels
        start = (place * (1 - side))[:, None]
        inside.append((centers >= start) & (centers < start + side[:, None]))
    erased = inside[0][:, None, None, :] & inside[1][:, None, :, None] & (chance < probability).view(-1, 1, 1, 1)
    return torch.where(erased, images.mean((2, 3), keepdim=True), images)


@augmentation("trivial", kind=PIXEL, random=True, numbers=3)
def trivial(images: Tensor, uniform: Tensor) -> Tensor:
    """Change each image in one of fourteen ways, by a random amount (TrivialAugment, https://arxiv.org/abs/2103.10158).

    Ways and amounts are those of the wide space, the functions torchvision's. Translations of up to 32 of 224 pixels
    scale with the image. Sampling is bilinear, and outside of the image is black.
    """
    ways = _trivial_ways()
    changed = []
    for image, (way, size, sign) in zip(images, uniform.tolist(), strict=True):
        chosen = ways[int(way * len(ways))]
        amount = chosen.largest * int(size * TRIVIAL_BINS) / (TRIVIAL_BINS - 1)
        changed.append(chosen.change(image, -amount if chosen.signed and sign < 0.5 else amount))
    return torch.stack(changed) if changed else images


class _Way(NamedTuple):
    """One of the changes of `trivial`: ``change(image, amount)``, with an amount from 0 to ``largest``."""

    change: Callable[[Tensor, float], Tensor]
    largest: float = 0.0
    signed: bool = False


@cache
def _trivial_ways() -> tuple[_Way, ...]:
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as f

    bilinear = InterpolationMode.BILINEAR

    def shear(image: Tensor, x: float, y: float) -> Tensor:
        degrees = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
        sheared: Tensor = f.affine(image, 0.0, [0, 0], 1.0, degrees, bilinear, center=[0, 0])
        return sheared

    def shift(image: Tensor, x: float, y: float) -> Tensor:
        pixels = [int(x / 224 * image.shape[2]), int(y / 224 * image.shape[1])]
        shifted: Tensor = f.affine(image, 0.0, pixels, 1.0, [0.0, 0.0], bilinear)
        return shifted

    return (
        _Way(lambda image, _: image),
        _Way(lambda image, amount: shear(image, amount, 0), 0.99, True),
        _Way(lambda image, amount: shear(image, 0, amount), 0.99, True),
        _Way(lambda image, amount: shift(image, amount, 0), 32.0, True),
        _Way(lambda image, amount: shift(image, 0, amount), 32.0, True),
        _Way(lambda image, amount: f.rotate(image, amount, bilinear), 135.0, True),
        _Way(lambda image, amount: f.adjust_brightness(image, 1 + amount), 0.99, True),
        _Way(lambda image, amount: f.adjust_saturation(image, 1 + amount), 0.99, True),
        _Way(lambda image, amount: f.adjust_contrast(image, 1 + amount), 0.99, True),
        _Way(lambda image, amount: f.adjust_sharpness(image, 1 + amount), 0.99, True),
        _Way(lambda image, amount: f.posterize(image, 8 - round(amount)), 6.0),
        _Way(lambda image, amount: f.solarize(image, 1 - amount), 1.0),
        _Way(lambda image, _: f.autocontrast(image)),
        _Way(lambda image, _: f.equalize(image)),
    )


@augmentation("blur", kind=PIXEL, random=True, numbers=2, probability=(0, 1), largest=(0.1, 20))
def blur(images: Tensor, uniform: Tensor, probability: float, largest: float) -> Tensor:
    """Blur by a Gaussian whose standard deviation is uniform in [0, ``largest``], in pixels of an image of 224 pixels.

    It happens to an image with ``probability``. Beyond its border an image goes on as its mirror image.
    """
    chance, deviation = uniform.unbind(1)
    deviation = deviation * largest * images.shape[-1] / REFERENCE
    blurred = images.clone()
    for image in (chance < probability).nonzero()[:, 0].tolist():
        radius = min(math.ceil(3 * float(deviation[image])), images.shape[-1] - 1)
        offsets = torch.arange(-radius, radius + 1, device=images.device)
        kernel = torch.exp(-((offsets / deviation[image].clamp(min=1e-3)) ** 2) / 2)
        kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
        padded = F.pad(images[image : image + 1], [radius] * 4, mode="reflect")
        rows = F.conv2d(padded, kernel, groups=images.shape[1])
        blurred[image] = F.conv2d(rows, kernel.transpose(2, 3), groups=images.shape[1])[0]
    return blurred


@augmentation("noise", kind=PIXEL, random=True, numbers=3, probability=(0, 1), largest=(0.001, 1))
def noise(images: Tensor, uniform: Tensor, probability: float, largest: float) -> Tensor:
    """Add Gaussian noise whose standard deviation is uniform in [0, ``largest``], of values in [0, 1].

    It happens to an image with ``probability``. After Rusak et al. 2020, https://arxiv.org/abs/2001.06057, section 3.1,
    where the deviation is one of a few. The random numbers are those of a CPU on every device.
    """
    stream = torch.Generator()
    noisy = images.clone()
    for image, (chance, deviation, number) in enumerate(uniform.tolist()):
        if chance < probability:
            stream.manual_seed(int(number * 2**24))
            grain = torch.randn(images.shape[1:], generator=stream)
            noisy[image] += deviation * largest * grain.to(images.device)
    return noisy


@augmentation("mixup", kind=BATCH, random=True, changes_labels=True, alpha=(0.01, 100))
def mixup(inputs: Tensor, targets: Tensor, stream: torch.Generator, alpha: float) -> tuple[Tensor, Tensor]:
    """Blend every image and its target with another of the batch (Zhang et al. 2018, https://arxiv.org/abs/1710.09412).

    x' = lambda x_i + (1 - lambda) x_j with one lambda ~ Beta(alpha, alpha) for the batch, taken as at least 1/2, so
    that x_i has the larger share.
    """
    beta = np.random.default_rng(stream.initial_seed()).beta(alpha, alpha)
    share = max(beta, 1 - beta)
    partners = torch.randperm(len(inputs), generator=stream).to(inputs.device)
    return torch.lerp(inputs[partners], inputs, share), torch.lerp(targets[partners], targets, share)


@augmentation("cutmix", kind=BATCH, random=True, changes_labels=True, alpha=(0.01, 100))
def cutmix(inputs: Tensor, targets: Tensor, stream: torch.Generator, alpha: float) -> tuple[Tensor, Tensor]:
    """Paste a rectangle of another image of the batch into every image (Yun et al. 2019, https://arxiv.org/abs/1905.04899).

    The rectangle covers 1 - lambda of the area, with one lambda ~ Beta(alpha, alpha) for the batch, and has the aspect
    of the images. Its center is uniform; what lies outside of the images is cut off. Targets are mixed by the areas.
    """
    numbers = np.random.default_rng(stream.initial_seed())
    side, centers = np.sqrt(1 - numbers.beta(alpha, alpha)), numbers.random(2)
    partners = torch.randperm(len(inputs), generator=stream).to(inputs.device)
    rows, columns = (
        slice(max(0, round(pixels * (center - side / 2))), min(pixels, round(pixels * (center + side / 2))))
        for pixels, center in zip(inputs.shape[2:], centers.tolist(), strict=True)
    )
    mixed = inputs.clone()
    mixed[:, :, rows, columns] = inputs[partners][:, :, rows, columns]
    pasted = (rows.stop - rows.start) * (columns.stop - columns.start) / inputs[0, 0].numel()
    return mixed, torch.lerp(targets, targets[partners], pasted)
