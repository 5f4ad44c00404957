"""Heatmaps of corrupted test images: does the evidence still lie on the object?"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepbloom.data.images import map_ahead
from deepbloom.data.masks import Masks
from deepbloom.data.preprocessing import to_inputs
from deepbloom.device import available_cores
from deepbloom.errors import ConfigError
from deepbloom.explain.cam import class_activation_maps
from deepbloom.explain.localization import measure_localization, resize_mask
from deepbloom.explain.targets import Network
from deepbloom.progress import ProgressBar
from deepbloom.report.intervals import mean_interval
from deepbloom.robustness.corruptions import corrupt_mask
from deepbloom.robustness.evaluate import CLEAN_CONDITION, Condition, Images

METHOD = "gradcam"
MOST = 50
"""Images whose heatmaps are measured."""


def choose_with_masks(images: Images, masks: Masks) -> Images:
    """Return the first `MOST` of the images that have a mask.

    Raises
    ------
    ConfigError
        None has one.
    """
    chosen: list[int] = []
    for index in images.indices.tolist():
        if len(chosen) < MOST and masks.read(index) is not None:
            chosen.append(index)
    if not chosen:
        raise ConfigError(
            "heatmaps=true needs masks, and no test image has one. Drawn flowers have them (data=synthetic); deepbloom "
            "explain masks=download fetches those of Flowers102."
        )
    return replace(images, indices=np.array(chosen))


def locate(
    network: Network, images: Images, masks: Masks, wanted: Sequence[Condition], seed: int
) -> list[dict[str, Any]]:
    """Return for each condition where Grad-CAM finds the evidence for the predicted class.

    Masks move with the images (`corrupt_mask`); an object that a crop leaves outside has shares of zero.

    Parameters
    ----------
    network : Network
    images : Images
        Each with a mask.
    masks : Masks
    wanted : sequence of Condition
    seed : int

    Returns
    -------
    list of dict
        ``corruption``, ``severity``; ``energy_inside``, the mean share of a heatmap's sum on the object, with its 95 %
        interval over images, ``low`` and ``high``; ``area_share``, what a constant map would get; ``pointing_hit``, the
        share of images whose strongest point lies on the object; ``count``, the number of images.
    """
    side, fit = network.preprocessing.size, network.preprocessing.fit
    flowers = [resize_mask(_read(masks, index), side, fit).numpy() for index in images.indices.tolist()]
    rows = []
    with ProgressBar(total=len(wanted) * len(flowers), desc="Heatmaps", unit="image") as bar:
        for condition in wanted:
            moved = flowers
            if condition != CLEAN_CONDITION:
                moved = [
                    corrupt_mask(flower, *condition, seed, name)
                    for flower, name in zip(flowers, images.image_ids, strict=True)
                ]
            rows.append(_measure(condition, _draw(network, images, condition, seed), np.stack(moved)))
            bar.update(len(flowers))
    return rows


def _read(masks: Masks, index: int) -> np.ndarray:
    mask = masks.read(index)
    assert mask is not None
    return mask


def _draw(network: Network, images: Images, condition: Condition, seed: int) -> Tensor:
    """Return the maps of the images under a condition, float32 of shape (N, S, S)."""
    device = next(network.model.parameters()).device
    maps = []
    for pixels in map_ahead(lambda part: images.read(part, condition, seed), images.batches(), available_cores()):
        inputs = to_inputs(pixels, network.preprocessing, device)
        maps.append(class_activation_maps(network.model, inputs, network.layers, None, METHOD).maps.cpu())
    return torch.cat(maps)


def _measure(condition: Condition, maps: Tensor, flowers: np.ndarray) -> dict[str, Any]:
    found = measure_localization(maps, torch.from_numpy(flowers), None)
    low, high = mean_interval(found["energy_inside"])
    means = {name: float(np.mean(values)) for name, values in found.items()}
    return {**condition._asdict(), **means, "low": low, "high": high, "count": len(maps)}
