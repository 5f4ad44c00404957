"""Operations on sampled images. New ones stand last, so that the random numbers of the others stay theirs."""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from deepbloom.data.augment.registry import PIXEL, augmentation

GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
ERASED_AREA, ERASED_ASPECT = 0.02, 0.3
"""Smallest share of the image and smallest aspect of an erased rectangle."""
TRIVIAL_BINS = 31
"""Amounts of each change of `trivial`, from none to the largest."""


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
