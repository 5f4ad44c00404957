"""All measures of a set of maps at once, image by image, so that intervals and paired differences can be made."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from deepbloom.explain.faithfulness import confidence_change, removal_curves, road_curves
from deepbloom.explain.localization import area_share, energy_inside, intersection_over_union, pointing_hits
from deepbloom.explain.measures import ROAD_FRACTIONS, STEPS

POINTING_TOLERANCE = 15 / 224
"""As a share of the image's side: 15 pixels of 224, as published."""


@dataclass(frozen=True)
class Faithfulness:
    """Measures of faithfulness of B maps.

    Attributes
    ----------
    values : dict of str to ndarray of float64, shape (B,)
        By name of `MEASURES`.
    curves : dict of str to ndarray of float64, shape (B, S)
        ``deletion``, ``insertion``, ``most_relevant_first`` and ``least_relevant_first``: the probability of the class.
    """

    values: dict[str, np.ndarray]
    curves: dict[str, np.ndarray]


def measure_faithfulness(model: nn.Module, inputs: Tensor, maps: Tensor, targets: Tensor, seed: int) -> Faithfulness:
    """Return the measures of faithfulness of maps, shape (B, S, S), of the classes ``targets``, shape (B,)."""
    removal = removal_curves(model, inputs, maps, targets, STEPS, seed)
    road = road_curves(model, inputs, maps, targets, ROAD_FRACTIONS, seed)
    change = confidence_change(model, inputs, maps, targets)
    values = {
        "deletion_area": removal.deletion_area,
        "insertion_area": removal.insertion_area,
        "road_score": road.road_score,
        "average_drop": change.drop,
        "increase": change.increase,
    }
    curves = {
        "deletion": removal.deletion,
        "insertion": removal.insertion,
        "most_relevant_first": road.most_relevant_first,
        "least_relevant_first": road.least_relevant_first,
    }
    return Faithfulness(_to_arrays(values), _to_arrays(curves))


def measure_localization(maps: Tensor, masks: Tensor, threshold: float | None) -> dict[str, np.ndarray]:
    """Return the measures of localization of maps and masks, shape (B, S, S), and the flower's share of the image.

    Without a threshold there is no IoU.
    """
    tolerance = round(POINTING_TOLERANCE * maps.shape[-1])
    values = {
        "energy_inside": energy_inside(maps, masks),
        "pointing_hit": pointing_hits(maps, masks, tolerance),
        "area_share": area_share(masks),
    }
    if threshold is not None:
        values["iou"] = intersection_over_union(maps, masks, threshold)
    return _to_arrays(values)


def _to_arrays(values: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.cpu().double().numpy() for name, value in values.items()}
