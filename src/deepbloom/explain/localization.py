"""Localization: does the evidence lie on the object? Maps against segmentations, one value per image.

These measures do not tell whether a map is faithful: a network may rightly look beside the object.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deepbloom.data.preprocessing import place, whole_box
from deepbloom.errors import ConfigError
from deepbloom.explain.faithfulness import Columns, to_columns

THRESHOLDS = tuple(number / 20 for number in range(1, 20))
POINTING_TOLERANCE = 15 / 224
"""As a share of the image's side; 15 pixels of 224 as published."""


def measure_localization(maps: Tensor, masks: Tensor, threshold: float | None) -> Columns:
    """Return all measures and the object's share of the image; parameters as in `intersection_over_union`.

    Without a threshold there is no IoU.
    """
    values = {
        "energy_inside": energy_inside(maps, masks),
        "pointing_hit": pointing_hits(maps, masks, round(POINTING_TOLERANCE * maps.shape[-1])),
        "area_share": area_share(masks),
    }
    if threshold is not None:
        values["iou"] = intersection_over_union(maps, masks, threshold)
    return to_columns(values)


def energy_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the share of each map's sum that lies on the object, in [0, 1]; 0 for a map of zeros.

    The energy-based pointing game of Wang et al. 2020, https://arxiv.org/abs/1910.01279, with segmentations instead of
    boxes. A constant map gets `area_share`. Maps are not negative; masks, bool of the same shape (B, H, W), are true
    on the object.
    """
    _check(maps, masks)
    total = maps.sum((1, 2))
    return (maps * masks).sum((1, 2)) / torch.where(total > 0, total, 1)


def area_share(masks: Tensor) -> Tensor:
    """Return the share of the image that the object covers, shape (B,); random maps get as much on average."""
    return masks.float().mean((1, 2))


def pointing_hits(maps: Tensor, masks: Tensor, tolerance: int = 15) -> Tensor:
    """Return whether the strongest point of each map lies on the object or near it, bool of shape (B,).

    The pointing game of Zhang et al. 2016, https://arxiv.org/abs/1608.00507. If several points are strongest, more than
    half of them must hit; a map of zeros never hits. ``tolerance`` is the largest distance in pixels that counts as a
    hit, 15 as published.
    """
    _check(maps, masks)
    steps = torch.arange(-tolerance, tolerance + 1, device=maps.device)
    disk = (steps[:, None] ** 2 + steps[None] ** 2 <= tolerance**2).float()[None, None]
    near = F.conv2d(masks[:, None].float(), disk, padding=tolerance)[:, 0] > 0.5
    strongest = (maps == maps.amax((1, 2), keepdim=True)) & (maps > 0)
    return 2 * (strongest & near).sum((1, 2)) > strongest.sum((1, 2))


def intersection_over_union(maps: Tensor, masks: Tensor, threshold: float) -> Tensor:
    """Return the overlap of the object with the pixels at or above ``threshold``, over their union, in [0, 1].

    `choose_threshold` chooses the threshold on other images.
    """
    _check(maps, masks)
    chosen = maps >= threshold
    union = (chosen | masks).sum((1, 2))
    return (chosen & masks).sum((1, 2)) / union.clamp(min=1)


def choose_threshold(maps: Tensor, masks: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> float:
    """Return the threshold with the largest mean `intersection_over_union` on validation images."""
    means = [float(intersection_over_union(maps, masks, threshold).mean()) for threshold in thresholds]
    return thresholds[int(np.argmax(means))]


def resize_mask(mask: np.ndarray, side: int, fit: str = "squash") -> Tensor:
    """Return a segmentation, bool of shape (h, w), resized by majority as `deepbloom.data.preprocessing.resize` would.

    ``side`` is that of the network's input, S. Returns bool of shape (S, S).
    """
    part, (left, top, right, bottom) = place((mask.shape[1], mask.shape[0]), side, fit)
    first, above, last, below = whole_box(part)
    seen = torch.from_numpy(np.ascontiguousarray(mask[above:below, first:last])).float()
    resized = torch.zeros(side, side, dtype=torch.bool)
    shares = F.interpolate(seen[None, None], (bottom - top, right - left), mode="area")
    resized[top:bottom, left:right] = shares[0, 0] >= 0.5
    return resized


def _check(maps: Tensor, masks: Tensor) -> None:
    if maps.ndim != 3 or maps.shape != masks.shape or masks.dtype != torch.bool:
        raise ConfigError(
            f"maps must be float and masks bool, both of shape (B, H, W), not {tuple(maps.shape)} and "
            f"{masks.dtype} of {tuple(masks.shape)}."
        )
