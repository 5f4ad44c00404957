"""Augmentation of training images: a registry of operations, and how a batch goes through them.

An operation is one function with its decorator, named in ``augment.ops``. Images go through the operations of a config
in the order in which they are listed there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deepbloom.config.settings import AugmentConfig, check_choice, check_range
from deepbloom.data.preprocessing import Preprocessing, standardize
from deepbloom.data.resolution import AugmentedCopy
from deepbloom.errors import ConfigError, unknown

Function = TypeVar("Function", bound=Callable[..., Any])

GEOMETRIC, PIXEL, BATCH = KINDS = ("geometric", "pixel", "batch")
GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma


@dataclass(frozen=True)
class Op:
    """A registered operation. `augmentation` describes the fields."""

    function: Callable[..., Any]
    kind: str
    random: bool
    changes_labels: bool
    columns: slice
    """Of the random numbers of each image."""
    ranges: dict[str, tuple[float, float]]


OPS: dict[str, Op] = {}


def augmentation(
    name: str, *, kind: str, random: bool, changes_labels: bool = False, numbers: int = 0, **ranges: tuple[float, float]
) -> Callable[[Function], Function]:
    """Register a function as the operation ``augment.ops.NAME``.

    Parameters
    ----------
    kind : str
        ``geometric``: ``function(uniform, **parameters)`` gets float64 numbers in [0, 1) of shape (B, ``numbers``) and
        returns float64 maps of shape (B, 2, 3) from output to input coordinates, which are x and y in [-1, 1]. The maps
        of all operations become one, and images are sampled once.
        ``pixel``: ``function(images, uniform, **parameters)`` gets float32 images in [0, 1] of shape (B, 3, T, T) and
        float32 numbers on their device, and returns new images.
        ``batch``: ``function(inputs, targets, stream, **parameters)`` gets network inputs, float targets of shape
        (B, C) and a CPU generator, and returns new inputs and targets.
    random : bool
        Two copies of an image may differ.
    changes_labels : bool
        The targets of the batch change with its images.
    numbers : int
        Uniform random numbers per image. Register new operations last: those registered before keep their numbers.
    **ranges : (float, float)
        Lowest and highest value of each parameter.
    """
    check_choice("kind of augmentation", kind, KINDS)

    def register(function: Function) -> Function:
        start = max((op.columns.stop for op in OPS.values()), default=0)
        OPS[name] = Op(function, kind, random, changes_labels, slice(start, start + numbers), ranges)
        return function

    return register


@augmentation("flip", kind=GEOMETRIC, random=True, numbers=1)
def flip(uniform: np.ndarray) -> np.ndarray:
    """Mirror every second image horizontally."""
    maps = _identity(len(uniform))
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


def chosen_ops(config: AugmentConfig) -> list[tuple[Op, dict[str, float]]]:
    """Return the operations of a config with their parameters.

    Raises
    ------
    ConfigError
        An operation or parameter is unknown or missing, or a value is out of range.
    """
    chosen = []
    for name, parameters in config.ops.items():
        if name not in OPS:
            raise ConfigError(unknown("augmentation (augment.ops)", name, OPS))
        op = OPS[name]
        if parameters.keys() != op.ranges.keys():
            raise ConfigError(
                f"augment.ops.{name} takes {', '.join(op.ranges) or 'no parameters'}, "
                f"but was given {', '.join(parameters) or 'none'}."
            )
        for parameter, value in parameters.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"augment.ops.{name}.{parameter}={value!r} must be a number.")
            check_range(f"augment.ops.{name}.{parameter}", value, *op.ranges[parameter])
        chosen.append((op, dict(parameters)))
    return chosen


def is_random(config: AugmentConfig) -> bool:
    """Return whether two augmented copies of an image may differ."""
    return any(op.random for op, _ in chosen_ops(config))


def changes_labels(config: AugmentConfig) -> bool:
    """Return whether the targets of a batch change with its images."""
    return any(op.changes_labels for op, _ in chosen_ops(config))


def augment(pixels: Tensor, image_indices: Tensor, copy: AugmentedCopy, seed: int, config: AugmentConfig) -> Tensor:
    """Send each image through the geometric and pixel operations.

    Geometric operations and the change of resolution are one affine map per image, sampled once (bilinear). Outside of
    the image is black, and its outermost half pixel fades into it. The random numbers are a pure function of ``seed``,
    the copy's number and the image's index: neither the order nor the size of batches changes the result.

    Parameters
    ----------
    pixels : uint8 Tensor of shape (B, S, S, 3)
    image_indices : int64 Tensor of shape (B,)
        The images' places in the training split.
    copy : AugmentedCopy
        Its resolution, T pixels, is at most S.

    Returns
    -------
    float32 Tensor of shape (B, 3, T, T) in [0, 1], on the device of ``pixels``; exactly ``pixels / 255`` without
    operations and for T = S.
    """
    return _BatchChanges(image_indices, copy, seed, config, pixels.device).apply(pixels, slice(None))


def training_inputs(
    pixels: Tensor,
    image_indices: Tensor,
    copy: AugmentedCopy,
    seed: int,
    config: AugmentConfig,
    preprocessing: Preprocessing,
) -> Tensor:
    """Return the network's input for images changed by `augment`: normalized, float32 in channels-last memory.

    On a CPU a few images are taken at a time, so that they stay in its cache from the first operation to the last.
    """
    batch, channels = len(pixels), pixels.shape[-1]
    inputs = torch.empty(batch, copy.resolution, copy.resolution, channels, device=pixels.device).permute(0, 3, 1, 2)
    changes = _BatchChanges(image_indices, copy, seed, config, pixels.device)
    step = max(batch, 1) if pixels.is_cuda else 4 * torch.get_num_threads()
    for part in (slice(start, start + step) for start in range(0, batch, step)):
        inputs[part] = standardize(changes.apply(pixels, part), preprocessing)
    return inputs


def mix_batch(
    inputs: Tensor, targets: Tensor, num_classes: int, config: AugmentConfig, stream: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Send a batch of network inputs and its int64 targets through the batch operations.

    With any, the targets become probabilities, float32 of shape (B, C). The stream is on the CPU.
    """
    for op, parameters in chosen_ops(config):
        if op.kind == BATCH:
            if not targets.is_floating_point():
                targets = F.one_hot(targets, num_classes).to(torch.float32)
            inputs, targets = op.function(inputs, targets, stream, **parameters)
    return inputs, targets


class _BatchChanges:
    """The changes of each image of a batch, drawn once for all of them."""

    def __init__(
        self, image_indices: Tensor, copy: AugmentedCopy, seed: int, config: AugmentConfig, device: torch.device
    ) -> None:
        self.resolution = copy.resolution
        chosen = chosen_ops(config)
        numbers = uniform_numbers(image_indices.cpu().numpy(), copy.number, seed)
        maps = _identity(len(numbers))
        for op, parameters in chosen:
            if op.kind == GEOMETRIC:
                maps = _compose(maps, op.function(numbers[:, op.columns], **parameters))
        self.maps = torch.from_numpy(maps.astype(np.float32)).to(device)
        self.mirrors_only = bool((np.abs(maps) == _identity(1)).all())
        self.pixel_ops = [
            (op, parameters, torch.from_numpy(numbers[:, op.columns].astype(np.float32)).to(device))
            for op, parameters in chosen
            if op.kind == PIXEL
        ]

    def apply(self, pixels: Tensor, part: slice) -> Tensor:
        """Return the changed images of ``part``, float32 of shape (B, 3, T, T) in [0, 1]."""
        images = pixels[part].permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(255)  # sampling likes planes
        maps = self.maps[part]
        if not self.mirrors_only or self.resolution < images.shape[-1]:
            images = warp(images, maps, self.resolution)
        else:
            for axis, dimension in ((0, -1), (1, -2)):
                mirrored = (maps[:, axis, axis] < 0).view(-1, 1, 1, 1)
                images = torch.where(mirrored, images.flip(dimension), images)
        for op, parameters, numbers in self.pixel_ops:
            images = op.function(images, numbers[part], **parameters)
        return images.clamp_(0, 1)


def uniform_numbers(image_indices: np.ndarray, copy: int, seed: int) -> np.ndarray:
    """Return uniform numbers in [0, 1) of each image, float64 of shape (B, N): some for every registered operation.

    Philox (Salmon et al. 2011) is a function of key and counter: the key holds seed and copy, the counter the image.
    """
    numbers = np.empty((len(image_indices), max(op.columns.stop for op in OPS.values())))
    key = np.array([seed, copy], dtype=np.uint64)
    for row, index in zip(numbers, image_indices.tolist(), strict=True):
        counter = np.array([0, 0, 0, index], dtype=np.uint64)
        np.random.Generator(np.random.Philox(counter=counter, key=key)).random(out=row)
    return numbers


def warp(images: Tensor, maps: Tensor, resolution: int) -> Tensor:
    """Sample images of shape (B, 3, S, S) at mapped coordinates (bilinear; black outside): (B, 3, T, T).

    The maps of shape (B, 2, 3) lead from output to input coordinates in [-1, 1]; T is ``resolution``.
    """
    # The grid is that of F.affine_grid(..., align_corners=False) at less cost: x and y lie in planes of their own, so
    # sums along rows are fast, and so is sampling from them.
    x = (torch.arange(resolution, device=maps.device) * 2 + 1) / resolution - 1
    y = x.view(-1, 1)
    by_x, by_y, offset = maps[..., None, None].unbind(2)  # (B, 2, 1, 1) each
    grid = (by_x * x + (by_y * y + offset)).permute(0, 2, 3, 1)  # (B, T, T, 2)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _identity(count: int) -> np.ndarray:
    return np.tile(np.eye(2, 3), (count, 1, 1))


def _compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Return the maps that apply ``inner`` to output coordinates, then ``outer``; (B, 2, 3) each."""
    linear, offset = outer[:, :, :2] @ inner[:, :, :2], outer[:, :, :2] @ inner[:, :, 2:] + outer[:, :, 2:]
    return np.concatenate([linear, offset], axis=2)
