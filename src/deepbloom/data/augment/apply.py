"""How training images go through the operations of a config."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deepbloom.config.settings import AugmentConfig
from deepbloom.data.augment.ops import identity
from deepbloom.data.augment.registry import BATCH, GEOMETRIC, OPS, PIXEL, chosen_ops
from deepbloom.data.preprocessing import Preprocessing, standardize
from deepbloom.data.resolution import AugmentedCopy

BELOW_ONE = 1 - 2**-24
"""The largest float32 below 1, to which a float64 below 1 may round up."""


def augment(pixels: Tensor, image_indices: Tensor, copy: AugmentedCopy, seed: int, config: AugmentConfig) -> Tensor:
    """Send each image through the geometric and pixel operations.

    Geometric operations and the change of resolution are one affine map per image, sampled once (`warp`). Outside of
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
    float32 Tensor of shape (B, 3, T, T) in [0, 1], on the device of ``pixels``; without operations ``pixels / 255``,
    exactly, for T = S, and otherwise the resized image.
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
    """Send a batch of network inputs and its int64 targets through a batch operation.

    Of several, one is drawn for each batch. With any, the targets become probabilities, float32 of shape (B, C). The
    stream is on the CPU.
    """
    chosen = [(op, parameters) for op, parameters in chosen_ops(config) if op.kind == BATCH]
    if not chosen:
        return inputs, targets
    drawn = int(torch.randint(len(chosen), (), generator=stream)) if len(chosen) > 1 else 0
    op, parameters = chosen[drawn]
    mixed: tuple[Tensor, Tensor] = op.function(
        inputs, F.one_hot(targets, num_classes).to(torch.float32), stream, **parameters
    )
    return mixed


class _BatchChanges:
    """The changes of each image of a batch, drawn once for all of them."""

    def __init__(
        self, image_indices: Tensor, copy: AugmentedCopy, seed: int, config: AugmentConfig, device: torch.device
    ) -> None:
        self.resolution = copy.resolution
        chosen = chosen_ops(config)
        numbers = uniform_numbers(image_indices.cpu().numpy(), copy.number, seed)
        maps = identity(len(numbers))
        for op, parameters in chosen:
            if op.kind == GEOMETRIC:
                maps = _compose(maps, op.function(numbers[:, op.columns], **parameters))
        self.maps = torch.from_numpy(maps.astype(np.float32)).to(device)
        self.mirrors_only = bool((np.abs(maps) == identity(1)).all())
        self.pixel_ops = [
            (
                op,
                parameters,
                torch.from_numpy(numbers[:, op.columns].astype(np.float32)).clamp_(max=BELOW_ONE).to(device),
            )
            for op, parameters in chosen
            if op.kind == PIXEL
        ]

    def apply(self, pixels: Tensor, part: slice) -> Tensor:
        """Return the changed images of ``part``, float32 of shape (B, 3, T, T) in [0, 1]."""
        images, maps = pixels[part].permute(0, 3, 1, 2), self.maps[part]
        if not self.mirrors_only or self.resolution < images.shape[-1]:
            images = warp(images, maps, self.resolution)
        else:
            images = _to_float(images)
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
    """Sample images at mapped coordinates (bilinear, antialiased; black outside).

    Where samples would lie more than a pixel apart, the image is resized first, antialiased, to where they do not. An
    image that is only made smaller is therefore what `deepbloom.data.preprocessing.resize` would make of it.

    Parameters
    ----------
    images : uint8 Tensor of shape (B, 3, S, S)
    maps : float32 Tensor of shape (B, 2, 3)
        From output to input coordinates in [-1, 1].
    resolution : int
        T, at most S.

    Returns
    -------
    float32 Tensor of shape (B, 3, T, T) in [0, 1]
    """
    # The grid is that of F.affine_grid(..., align_corners=False) at less cost: x and y lie in planes of their own, so
    # sums along rows are fast, and so is sampling from them.
    x = (torch.arange(resolution, device=maps.device) * 2 + 1) / resolution - 1
    y = x.view(-1, 1)
    by_x, by_y, offset = maps[..., None, None].unbind(2)  # (B, 2, 1, 1) each
    grid = (by_x * x + (by_y * y + offset)).permute(0, 2, 3, 1)  # (B, T, T, 2)
    side = images.shape[-1]
    if resolution == side:
        return _sample(_to_float(images), grid)
    widest = (resolution / maps[:, :, :2].norm(dim=2)).round().clamp(max=side)  # (B, 2), x and y
    if images.device.type != "cpu":  # one image at a time, a GPU would wait for its host
        canvas = resize_each(_to_float(images), widest)
        largest = torch.tensor([canvas.shape[3], canvas.shape[2]], device=maps.device)
        return _sample(canvas, (grid + 1) * (widest / largest)[:, None, None] - 1)
    sampled = images.new_empty(len(images), images.shape[1], resolution, resolution, dtype=torch.float32)
    for place, (width, height) in enumerate(widest.int().tolist()):
        image = images[place : place + 1]
        if (height, width) != (side, side):
            image = F.interpolate(image, (height, width), mode="bilinear", antialias=True)
        sampled[place] = _sample(_to_float(image), grid[place : place + 1])[0]
    return sampled


def resize_each(images: Tensor, sizes: Tensor) -> Tensor:
    """Resize each image of a batch to a size of its own (bilinear, antialiased), all at once.

    Parameters
    ----------
    images : float32 Tensor of shape (B, 3, S, S)
    sizes : float32 Tensor of shape (B, 2)
        Width and height of each in whole pixels, at most S.

    Returns
    -------
    float32 Tensor of shape (B, 3, H, W), as large as the largest of them: each image in its first corner, then zeros
    """
    by_x, by_y = (_resizing_matrices(sizes[:, axis], images.shape[-1])[:, None] for axis in (0, 1))
    return by_y @ images @ by_x.transpose(-1, -2)


def _resizing_matrices(sizes: Tensor, side: int) -> Tensor:
    """Return the matrices (B, largest size, side) that resize rows of ``side`` pixels; rows beyond a size are zero."""
    places = torch.arange(int(sizes.max()), device=sizes.device)
    scales = (side / sizes).view(-1, 1, 1)
    distances = (torch.arange(side, device=sizes.device) + 0.5 - (places.view(-1, 1) + 0.5) * scales).abs()
    weights = (1 - distances / scales).clamp_(min=0) * (places < sizes.view(-1, 1)).unsqueeze(-1)
    return weights / weights.sum(2, keepdim=True).clamp(min=1e-6)


def _to_float(images: Tensor) -> Tensor:
    return images.contiguous().to(torch.float32).div_(255)  # in planes, which sampling likes


def _sample(images: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Return the maps that apply ``inner`` to output coordinates, then ``outer``; (B, 2, 3) each."""
    linear, offset = outer[:, :, :2] @ inner[:, :, :2], outer[:, :, :2] @ inner[:, :, 2:] + outer[:, :, 2:]
    return np.concatenate([linear, offset], axis=2)
