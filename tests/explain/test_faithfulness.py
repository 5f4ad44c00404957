"""On a network whose evidence is known, the right map beats a random one, and its opposite loses."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deepbloom.errors import ConfigError
from deepbloom.explain.faithfulness import (
    CURVE_FRACTIONS,
    confidence_change,
    impute,
    impute_quickly,
    measure_faithfulness,
    removal_curves,
    road_curves,
)
from deepbloom.explain.sanity import center_maps, random_maps

SIZE = 32
PATCHES = ((4, 6), (18, 20), (3, 22))


class RedPatch(nn.Module):
    """Two classes; the second one for red in whichever of three places it is."""

    def forward(self, x: Tensor) -> Tensor:
        red = torch.stack([x[:, 0, y : y + 8, z : z + 8].mean((1, 2)) for y, z in PATCHES], 1).amax(1)
        return torch.stack([torch.full_like(red, 8.0), 4 * red], 1)


@pytest.fixture
def known() -> tuple[Tensor, Tensor, Tensor]:
    """Images with one red patch each, the maps that show it, and the classes."""
    inputs = 0.1 * torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    maps = torch.zeros(3, SIZE, SIZE)
    for index, (y, x) in enumerate(PATCHES):
        inputs[index, 0, y : y + 8, x : x + 8] += 3
        maps[index, y : y + 8, x : x + 8] = 1
    return inputs, maps, torch.ones(3, dtype=torch.long)


def measure(inputs: Tensor, maps: Tensor, targets: Tensor) -> dict[str, np.ndarray]:
    return measure_faithfulness(RedPatch(), inputs, maps, targets, 0)[0]


def test_the_true_map_beats_blind_ones_and_its_opposite_loses(known: tuple[Tensor, Tensor, Tensor]) -> None:
    inputs, maps, targets = known
    true = measure(inputs, maps, targets)
    for name, others in {"random": random_maps(3, (SIZE, SIZE)), "center": center_maps(3, (SIZE, SIZE))}.items():
        blind = measure(inputs, others, targets)
        assert (true["deletion_area"] < blind["deletion_area"] - 0.05).all(), name
        assert (true["insertion_area"] > blind["insertion_area"] + 0.05).all(), name
        assert (true["road_score"] > blind["road_score"] + 0.1).all(), name
    opposite = measure(inputs, 1 - maps, targets)
    assert (opposite["deletion_area"] > 0.8).all()
    assert (opposite["insertion_area"] < 0.2).all()
    assert (opposite["road_score"] < -0.5).all()


def test_removal_curves_begin_and_end_where_they_must(known: tuple[Tensor, Tensor, Tensor]) -> None:
    inputs, maps, targets = known
    deletion, insertion = removal_curves(RedPatch(), inputs, maps, targets, steps=16)
    whole = RedPatch()(inputs).softmax(1)[:, 1]
    empty = RedPatch()(torch.zeros_like(inputs)).softmax(1)[:, 1]
    assert deletion.shape == insertion.shape == (3, 17)
    assert torch.allclose(deletion[:, 0], whole)
    assert torch.allclose(deletion[:, -1], empty)
    assert torch.allclose(insertion[:, -1], whole)
    # The patch is 1/16 of the image: one step deletes it.
    assert (deletion[:, 1] - empty < 0.05).all()


def test_measures_follow_from_the_curves(known: tuple[Tensor, Tensor, Tensor]) -> None:
    values, curves = measure_faithfulness(RedPatch(), *known, 0)
    assert {name: curve.shape for name, curve in curves.items()} == {
        name: (3, len(fractions)) for name, fractions in CURVE_FRACTIONS.items()
    }
    for name in ("deletion", "insertion"):
        trapezoids = (curves[name][:, 1:] + curves[name][:, :-1]).sum(1) / 2 / (len(CURVE_FRACTIONS[name]) - 1)
        assert np.allclose(values[f"{name}_area"], trapezoids)
    score = curves["least_relevant_first"].mean(1) - curves["most_relevant_first"].mean(1)
    assert np.allclose(values["road_score"], score)


def test_only_the_order_of_a_map_matters_for_its_curves(known: tuple[Tensor, Tensor, Tensor]) -> None:
    inputs, _, targets = known
    maps = random_maps(3, (SIZE, SIZE))
    first, second = (removal_curves(RedPatch(), inputs, some, targets) for some in (maps, maps**3))
    assert torch.equal(first[0], second[0])


def test_ties_are_not_broken_in_reading_order(known: tuple[Tensor, Tensor, Tensor]) -> None:
    """An empty map must not delete the top of the image first."""
    inputs, maps, targets = known
    areas = measure(inputs, torch.zeros_like(maps), targets)["deletion_area"]
    assert np.abs(areas - areas.mean()).max() < 0.05


def test_images_are_measured_one_by_one(known: tuple[Tensor, Tensor, Tensor]) -> None:
    inputs, maps, targets = known
    for function in (removal_curves, confidence_change):
        batch = function(RedPatch(), inputs, maps, targets)[0]
        alone = [function(RedPatch(), inputs[i, None], maps[i, None], targets[i, None])[0] for i in range(3)]
        assert torch.allclose(batch, torch.cat(alone), atol=1e-6)


def test_the_drop_is_the_lost_share_of_the_confidence(known: tuple[Tensor, Tensor, Tensor]) -> None:
    inputs, maps, targets = known
    drop, _ = confidence_change(RedPatch(), inputs, maps, targets)
    assert torch.allclose(drop, torch.zeros(3), atol=1e-6)
    drop, increase = confidence_change(RedPatch(), inputs, maps / 2, targets)
    whole, half = (RedPatch()(part).softmax(1)[:, 1] for part in (inputs, inputs * maps[:, None] / 2))
    assert torch.allclose(drop, (whole - half) / whole)
    assert not increase.any()
    drop, increase = confidence_change(RedPatch(), inputs, 1 - maps, torch.zeros_like(targets))
    assert increase.all()
    assert not drop.any()


def test_imputed_pixels_solve_their_equations() -> None:
    """Without noise every missing pixel is the weighted mean of its neighbors, at the border of fewer."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 9, 7, generator=generator)
    missing = torch.rand(9, 7, generator=generator) < 0.6
    filled = impute(image, missing, generator, noise=0.0)
    assert torch.equal(filled[:, ~missing], image[:, ~missing])
    kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 0.0, 2.0], [1.0, 2.0, 1.0]])[None, None] / 12
    sums = nn.functional.conv2d(filled[:, None], kernel, padding=1)[:, 0]
    weights = nn.functional.conv2d(torch.ones(1, 1, 9, 7), kernel, padding=1)[0, 0]
    assert torch.allclose(filled[:, missing], (sums / weights)[:, missing], atol=1e-5)


def test_imputing_a_hole_in_a_ramp_restores_the_ramp() -> None:
    image = torch.arange(9.0).expand(1, 9, 9).clone()
    missing = torch.zeros(9, 9, dtype=torch.bool)
    missing[2:7, 3:6] = True
    assert torch.allclose(impute(image, missing, torch.Generator(), noise=0.0), image, atol=1e-5)
    noisy = impute(image, missing, torch.Generator().manual_seed(0), noise=0.01)
    assert 0.002 < (noisy - image)[:, missing].std() < 0.03


def test_the_network_keeps_its_modes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    inputs, targets = torch.randn(2, 3, 8, 8), torch.tensor([0, 1])
    state = torch.get_rng_state()
    for function in (removal_curves, road_curves, confidence_change):
        first, second = (function(model, inputs, random_maps(2, (8, 8)), targets) for _ in range(2))
        assert all(map(torch.equal, first, second))
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_blind_maps_reach_from_0_to_1() -> None:
    maps = random_maps(4, (20, 30), seed=1)
    assert maps.shape == (4, 20, 30)
    assert torch.equal(maps.amin((1, 2)), torch.zeros(4))
    assert torch.allclose(maps.amax((1, 2)), torch.ones(4))
    assert not torch.equal(maps[0], maps[1])
    assert torch.equal(maps, random_maps(4, (20, 30), seed=1))
    blob = center_maps(2, (21, 31))
    assert torch.equal(blob[0], blob[1])
    assert blob[0].argmax() == 10 * 31 + 15
    assert torch.allclose(blob[0], blob[0].flip(0, 1))


def test_shapes_that_do_not_fit_are_refused(known: tuple[Tensor, Tensor, Tensor]) -> None:
    inputs, maps, targets = known
    with pytest.raises(ConfigError, match="do not fit together"):
        removal_curves(RedPatch(), inputs, maps[:, :5], targets)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        road_curves(RedPatch(), inputs, maps, targets, fractions=(0.5, 1.0))


def test_quick_imputation_is_that_of_the_equations_but_for_its_noise() -> None:
    """On a smooth image with a fine pattern and with every kind of hole; the mean color is the negative control."""
    rows, columns = torch.meshgrid(torch.arange(47.0), torch.arange(62.0), indexing="ij")
    image = torch.stack([rows / 20, columns / 20, (rows + columns) / 40]) + 0.05 * torch.randn(3, 47, 62)
    for maps in (random_maps(1, (47, 62), grid=(5, 5)), center_maps(1, (47, 62)), torch.rand(1, 47, 62)):
        for share in (0.2, 0.6):
            missing = maps[0] > maps.quantile(1 - share)
            exact = impute(image, missing, torch.Generator(), noise=0)
            quick = impute_quickly(image, missing, torch.Generator(), noise=0)
            assert torch.equal(quick[:, ~missing], image[:, ~missing])
            error = (quick - exact)[:, missing].abs().mean()
            assert error < 0.03
            assert error < 0.2 * (image - image.mean((1, 2), keepdim=True))[:, missing].abs().mean()
