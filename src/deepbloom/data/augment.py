"""Random changes of training images."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deepbloom.config.settings import AugmentConfig
from deepbloom.data.preprocessing import Preprocessing, standardize
from deepbloom.data.resolution import AugmentedCopy

DRAWS = 12
"""Random numbers set aside per image: whole Philox blocks of four, more than `augment` needs today."""
GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma


def augment(pixels: Tensor, image_indices: Tensor, copy: AugmentedCopy, seed: int, config: AugmentConfig) -> Tensor:
    """Change each image at random: rotated about its center, cropped, mirrored, then jittered in color.

    Rotation, crop, mirror and size are one affine map per image, sampled once (bilinear). What comes from outside of
    the image is black, and its outermost half pixel fades into it. The numbers drawn are a pure function of ``seed``,
    the copy's number and the image's index, so that neither the order nor the size of batches nor the number of
    workers changes what an image becomes.
    MixUp needs targets and is not done here.

    Parameters
    ----------
    pixels : uint8 Tensor of shape (B, S, S, 3)
    image_indices : int64 Tensor of shape (B,)
        The images' places in the part that is trained on.
    copy : AugmentedCopy
        Its resolution, T pixels, is at most S.

    Returns
    -------
    float32 Tensor of shape (B, 3, T, T) in [0, 1], on the device of ``pixels``; exactly ``pixels / 255`` where
    ``config`` asks for no change and T = S.
    """
    return _change(pixels, _Changes.draw(image_indices, copy, seed, config, pixels.device), copy.resolution, config)


def training_inputs(
    pixels: Tensor,
    image_indices: Tensor,
    copy: AugmentedCopy,
    seed: int,
    config: AugmentConfig,
    preprocessing: Preprocessing,
) -> Tensor:
    """Return the network's input for images changed by `augment`: normalized, float32 in channels-last memory.

    On a CPU a few images are taken at a time: they stay in its cache from the first operation to the last.
    """
    batch, channels = len(pixels), pixels.shape[-1]
    inputs = torch.empty(batch, copy.resolution, copy.resolution, channels, device=pixels.device).permute(0, 3, 1, 2)
    changes = _Changes.draw(image_indices, copy, seed, config, pixels.device)
    step = max(batch, 1) if pixels.is_cuda else 4 * torch.get_num_threads()
    for part in (slice(start, start + step) for start in range(0, batch, step)):
        images = _change(pixels[part], changes.of(part), copy.resolution, config)
        inputs[part] = standardize(images, preprocessing)
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
        cls, image_indices: Tensor, copy: AugmentedCopy, seed: int, config: AugmentConfig, device: torch.device
    ) -> "_Changes":
        draws = _draw(image_indices.cpu().numpy(), copy.number, seed)
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


def _draw(image_indices: np.ndarray, copy: int, seed: int) -> np.ndarray:
    """Return uniform numbers in [0, 1), float64 of shape (B, DRAWS), from the stream of each image.

    Philox (Salmon et al. 2011) is a function of key and counter: the key holds seed and copy, the counter the image.
    """
    draws = np.empty((len(image_indices), DRAWS))
    key = np.array([seed, copy], dtype=np.uint64)
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
