"""Localization on maps and masks small enough to count by hand."""

import numpy as np
import pytest
import torch

from deepbloom.errors import ConfigError
from deepbloom.explain.localization import (
    area_share,
    choose_threshold,
    energy_inside,
    intersection_over_union,
    pointing_hits,
    resize_mask,
)

MAPS = torch.tensor([[[1.0, 0.5, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0]], [[0.0, 0.0, 0.2, 1.0], [0.0, 0.0, 0.0, 0.3]]])
MASKS = torch.tensor([[[1, 1, 0, 0], [0, 0, 0, 0]], [[1, 0, 0, 0], [0, 0, 0, 1]]], dtype=torch.bool)


def test_energy_is_the_share_of_the_sum_on_the_object() -> None:
    assert energy_inside(MAPS, MASKS).tolist() == pytest.approx([1.5 / 2, 0.3 / 1.5])
    assert area_share(MASKS).tolist() == [0.25, 0.25]
    assert energy_inside(torch.ones(2, 2, 4), MASKS).tolist() == area_share(MASKS).tolist()
    assert energy_inside(torch.zeros(2, 2, 4), MASKS).tolist() == [0, 0]


def test_pointing_hits_the_object_or_its_surroundings() -> None:
    assert pointing_hits(MAPS, MASKS, tolerance=0).tolist() == [True, False]
    assert pointing_hits(MAPS, MASKS, tolerance=1).tolist() == [True, True]
    assert pointing_hits(torch.zeros(2, 2, 4), MASKS).tolist() == [False, False]


def test_pointing_tolerance_is_a_distance_in_pixels() -> None:
    maps, masks = torch.zeros(1, 41, 41), torch.zeros(1, 41, 41, dtype=torch.bool)
    masks[0, 20, 20] = True
    for y, x, hit in ((20, 35, True), (20, 36, False), (29, 32, True), (31, 31, False)):
        maps.zero_()[0, y, x] = 1
        assert pointing_hits(maps, masks, tolerance=15).tolist() == [hit], (y, x)


def test_a_map_that_is_strongest_everywhere_hits_by_majority() -> None:
    assert pointing_hits(torch.ones(2, 2, 4), MASKS, tolerance=0).tolist() == [False, False]
    assert pointing_hits(torch.ones(2, 2, 4), ~MASKS, tolerance=0).tolist() == [True, True]


def test_intersection_over_union_by_count() -> None:
    assert intersection_over_union(MAPS, MASKS, 0.5).tolist() == pytest.approx([2 / 3, 0])
    assert intersection_over_union(MAPS, MASKS, 0.3).tolist() == pytest.approx([2 / 3, 1 / 3])
    empty = torch.zeros(2, 2, 4)
    assert intersection_over_union(empty, empty.bool(), 0.5).tolist() == [0, 0]


def test_the_threshold_is_the_best_on_average() -> None:
    masks = MAPS >= 0.45
    assert choose_threshold(MAPS, masks, (0.1, 0.25, 0.45, 0.7)) == 0.45
    assert intersection_over_union(MAPS, masks, 0.45).tolist() == [1, 1]


def test_a_mask_is_resized_by_majority() -> None:
    mask = np.zeros((6, 4), dtype=bool)
    mask[:3] = True
    assert resize_mask(mask, 2).tolist() == [[True, True], [False, False]]
    assert resize_mask(mask[::-1, ::-1], 3)[0].tolist() == [False] * 3
    assert resize_mask(mask, 12).sum() == 72


def test_a_mask_is_made_square_as_its_image() -> None:
    mask = np.zeros((4, 8), dtype=bool)
    mask[:, 2:4] = True  # the left half of the central square
    left_half = [[True, True, False, False]] * 4
    assert resize_mask(mask, 4, "crop").tolist() == left_half
    assert resize_mask(mask.T, 4, "crop").T.tolist() == left_half
    padded = resize_mask(mask, 8, "pad")
    assert padded[2:6].equal(torch.from_numpy(mask))
    assert not padded[:2].any()
    assert not padded[6:].any()


def test_masks_must_be_bool_and_fit() -> None:
    with pytest.raises(ConfigError, match="bool"):
        energy_inside(MAPS, MASKS.float())
    with pytest.raises(ConfigError, match="shape"):
        pointing_hits(MAPS, MASKS[:1])
