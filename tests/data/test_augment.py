import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode, TrivialAugmentWide
from torchvision.transforms.v2 import functional as oracle

from deepbloom.config.settings import AugmentConfig
from deepbloom.data.augment import (
    augment,
    augmentation,
    changes_labels,
    chosen_ops,
    is_random,
    mix_batch,
    training_inputs,
)
from deepbloom.data.augment.apply import resize_each, uniform_numbers, warp
from deepbloom.data.augment.ops import blur, color_jitter, crop, erase, flip, noise, rotate, trivial
from deepbloom.data.augment.registry import OPS
from deepbloom.data.preprocessing import Preprocessing, resize
from deepbloom.data.resolution import AugmentedCopy
from deepbloom.errors import ConfigError
from deepbloom.rng import generator

SIDE = 16
FIRST = AugmentedCopy(0, SIDE)
OFF = AugmentConfig({})
CROP = AugmentConfig({"rotate": {"degrees": 20}, "crop": {"min_area": 0.4}, "flip": {}})
EVERYTHING = AugmentConfig(
    {
        "rotate": {"degrees": 20},
        "crop": {"min_area": 0.5},
        "flip": {},
        "color_jitter": {"strength": 0.3},
        "trivial": {},
        "erase": {"probability": 0.5, "max_area": 0.33},
        "blur": {"probability": 0.5, "largest": 20},
        "noise": {"probability": 0.5, "largest": 0.2},
    }
)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (6, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def registry():
    """The registry, restored after the test."""
    before = dict(OPS)
    yield
    OPS.clear()
    OPS.update(before)


def planes(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.permute(0, 3, 1, 2) / 255


def apply(pixels: torch.Tensor, maps: np.ndarray, resolution: int = SIDE) -> torch.Tensor:
    return warp(pixels.permute(0, 3, 1, 2), torch.from_numpy(maps).float().expand(len(pixels), 2, 3), resolution)


# Operations


def test_without_operations_images_are_exactly_the_pixels_over_255(pixels):
    assert torch.equal(augment(pixels, torch.arange(6), AugmentedCopy(3, SIDE), 1, OFF), planes(pixels))
    assert not torch.equal(augment(pixels, torch.arange(6), AugmentedCopy(3, SIDE), 1, CROP), planes(pixels))


def test_a_rotation_by_180_degrees_turns_both_axes(pixels):
    turned = apply(pixels, rotate(np.array([[1.0]]), degrees=180))
    torch.testing.assert_close(turned, planes(pixels).flip((2, 3)), atol=1e-5, rtol=0)


def test_a_positive_angle_turns_counterclockwise(pixels):
    turned = apply(pixels, rotate(np.array([[1.0]]), degrees=90))
    torch.testing.assert_close(turned, torch.rot90(planes(pixels), 1, (2, 3)), atol=1e-5, rtol=0)


def test_half_of_the_images_are_mirrored_exactly(pixels):
    changed = augment(pixels, torch.arange(6), FIRST, 0, AugmentConfig({"flip": {}}))
    mirrored = flip(uniform_numbers(np.arange(6), 0, 0)[:, OPS["flip"].columns])[:, 0, 0] < 0
    assert 0 < mirrored.sum() < 6
    for image, original, mirror in zip(changed, planes(pixels), mirrored, strict=True):
        assert torch.equal(image, original.flip(2) if mirror else original)


def test_mirroring_agrees_with_sampling(pixels):
    mirrored = apply(pixels, flip(np.array([[0.2]])))
    torch.testing.assert_close(mirrored, planes(pixels).flip(3), atol=1e-5, rtol=0)


def stripes(period: int, side: int = 224) -> torch.Tensor:
    """Two images of black and white stripes, standing and lying: uint8 of shape (2, side, side, 3)."""
    wave = (torch.arange(side) % period < period // 2).to(torch.uint8) * 255
    across = wave.expand(side, side)[..., None].expand(side, side, 3)
    return torch.stack([across, across.transpose(0, 1)]).contiguous()


@pytest.mark.parametrize("ops", [{}, {"flip": {}}])
@pytest.mark.parametrize(("side", "resolution"), [(224, 128), (224, 160), (224, 192), (16, 8), (17, 16)])
def test_a_lower_resolution_is_the_resized_image(ops, side, resolution):
    noise = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = torch.cat([stripes(2, side), stripes(4, side), noise])
    smaller = augment(images, torch.arange(6), AugmentedCopy(0, resolution), 0, AugmentConfig(ops))
    mirrored = flip(uniform_numbers(np.arange(6), 0, 0)[:, OPS["flip"].columns])[:, 0, 0] < 0
    for image, original, mirror in zip(smaller, images, mirrored & bool(ops), strict=True):
        expected = torch.from_numpy(resize(Image.fromarray(original.numpy()), Preprocessing(size=resolution)))
        expected = expected.permute(2, 0, 1) / 255
        torch.testing.assert_close(image, expected.flip(2) if mirror else expected, atol=1.01 / 255, rtol=0)


@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_fine_stripes_become_gray_at_a_lower_resolution(degrees):
    config = AugmentConfig({"rotate": {"degrees": degrees}, "flip": {}})
    images = stripes(2).repeat(4, 1, 1, 1)
    smaller = augment(images, torch.arange(8), AugmentedCopy(0, 128), 0, config)[:, :, 32:96, 32:96]
    assert smaller.flatten(1).std(1).max() < 0.03
    # Negative control: sampling alone keeps them.
    grid = F.affine_grid(torch.eye(2, 3).expand(8, 2, 3), [8, 3, 128, 128], align_corners=False)
    aliased = F.grid_sample(planes(images), grid, align_corners=False)[:, :, 32:96, 32:96]
    assert aliased.flatten(1).std(1).min() > 0.25


def test_a_crop_that_is_not_made_smaller_keeps_fine_stripes():
    zoomed = apply(stripes(2), crop(TOP_LEFT_QUARTER, min_area=0.25), 112)  # the pixels of a quarter, one for one
    torch.testing.assert_close(zoomed, planes(stripes(2))[:, :, :112, :112], atol=1e-4, rtol=0)


TOP_LEFT_QUARTER = np.array([[0.0, 0.5, 0.0, 0.0]])
"""Random numbers with which `crop` takes the smallest area, square, at the top left."""


@pytest.mark.parametrize(("side", "resolution"), [(24, 8), (8, 8)])
def test_a_crop_zooms_into_its_window(side, resolution):
    ramp = (torch.arange(side) * 10).view(1, 1, side, 1).expand(1, side, side, 3).to(torch.uint8)  # value 10 x
    zoomed = apply(ramp, crop(TOP_LEFT_QUARTER, min_area=0.25), resolution)
    # Output pixel i covers side / 2 / resolution input pixels; its center lies at (i + 0.5) times that, less 0.5.
    scale = side / 2 / resolution
    expected = torch.tensor([10 * ((i + 0.5) * scale - 0.5) / 255 for i in range(1, resolution)])
    torch.testing.assert_close(zoomed[0, 0, resolution // 2, 1:], expected, atol=0.51 / 255, rtol=0)  # of rounding


def test_a_crop_lies_inside_of_the_image_and_has_the_area_asked_for():
    maps = crop(np.random.default_rng(0).random((2000, 4)), min_area=0.3)
    width, height, x, y = maps[:, 0, 0], maps[:, 1, 1], maps[:, 0, 2], maps[:, 1, 2]
    assert np.all(np.abs(x) + width <= 1 + 1e-9)
    assert np.all(np.abs(y) + height <= 1 + 1e-9)
    assert (width * height).min() == pytest.approx(0.3, abs=0.01)
    assert (width * height).mean() == pytest.approx(0.65, abs=0.02)
    assert 3 / 4 - 1e-9 <= (width / height).min() < 0.85 < 1.2 < (width / height).max() <= 4 / 3 + 1e-9


def test_operations_run_in_the_order_in_which_they_are_listed(pixels):
    numbers = uniform_numbers(np.arange(6), 4, 7)
    for names in (("rotate", "flip"), ("flip", "rotate")):
        config = AugmentConfig({name: {"rotate": {"degrees": 180.0}, "flip": {}}[name] for name in names})
        all_changed = augment(pixels, torch.arange(6), AugmentedCopy(4, SIDE), 7, config)
        for image, row, changed in zip(planes(pixels), numbers, all_changed, strict=True):
            for name in names:
                number = row[OPS[name].columns][0]
                if name == "rotate":
                    image = oracle.rotate(image, 180 * (2 * number - 1), InterpolationMode.BILINEAR)
                elif number < 0.5:
                    image = oracle.horizontal_flip(image)
            torch.testing.assert_close(changed, image, atol=2e-4, rtol=0)


def test_color_jitter_agrees_with_torchvision(pixels):
    changed = color_jitter(planes(pixels), torch.tensor([[0.1, 0.9, 0.2]]).expand(6, 3), strength=0.5)
    expected = oracle.adjust_brightness(planes(pixels), 0.6)
    expected = oracle.adjust_contrast(expected, 1.4)
    expected = oracle.adjust_saturation(expected, 0.7)
    torch.testing.assert_close(changed, expected, atol=1e-3, rtol=0)


# Random erasing


def test_an_erased_rectangle_has_the_mean_color(pixels):
    # An area of 0.02 + 0.23 / 0.48 * 0.48 = 1/4 with aspect 1 is 8 x 8 of 16 x 16 pixels; it starts at half of the
    # free 8 columns and at the first row.
    numbers = torch.tensor([[0.4, 0.23 / 0.48, 0.5, 0.5, 0.0]]).expand(6, 5)
    images = planes(pixels)
    erased = erase(images, numbers, probability=0.5, max_area=0.5)
    expected = images.clone()
    expected[:, :, 0:8, 4:12] = images.mean((2, 3))[:, :, None, None]
    assert torch.equal(erased, expected)
    assert torch.equal(erase(images, numbers, probability=0.3, max_area=0.5), images)


def test_erased_rectangles_happen_as_often_and_are_as_large_as_asked_for():
    images = torch.rand(2000, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    numbers = torch.rand(2000, 5, generator=torch.Generator().manual_seed(1))
    changed = (erase(images, numbers, probability=0.25, max_area=0.4) != images).any(1)
    hit = changed.any(2).any(1)
    assert hit.float().mean() == pytest.approx(0.25, abs=0.03)
    assert changed[hit].float().mean() == pytest.approx(0.21, abs=0.02)  # the mean of 0.02 and 0.4
    rows, columns = changed[hit].any(2), changed[hit].any(1)
    assert torch.equal(changed[hit], rows[:, :, None] & columns[:, None, :])  # one rectangle each


@pytest.mark.parametrize("side", [112, 224])
def test_a_blur_is_a_gaussian_of_a_width_in_pixels_of_224(side):
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    deviation = 0.75 * 4 * side / 224
    reach = math.ceil(3 * deviation) / deviation
    expected = gaussian_filter(image.numpy(), (0, 0, deviation, deviation), mode="mirror", truncate=reach)
    blurred = blur(image, torch.tensor([[0.3, 0.75]]), probability=0.5, largest=4)
    np.testing.assert_allclose(blurred, expected, atol=1e-5)
    assert torch.equal(blur(image, torch.tensor([[0.6, 0.75]]), probability=0.5, largest=4), image)
    torch.testing.assert_close(blur(image, torch.tensor([[0.0, 0.0]]), probability=0.5, largest=4), image)


def test_a_wide_blur_of_a_small_image_keeps_its_mean():
    image = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    blurred = blur(image, torch.tensor([[0.0, 0.99]]), probability=1, largest=20)
    assert float(blurred.mean()) == pytest.approx(float(image.mean()), abs=0.1)


def test_noise_has_the_deviation_asked_for_and_is_each_images_own():
    images = torch.full((4, 3, 64, 64), 0.5)
    numbers = torch.tensor([[0.1, 0.5, 0.1], [0.1, 1.0, 0.2], [0.6, 1.0, 0.3], [0.1, 0.5, 0.1]])
    added = noise(images, numbers, probability=0.5, largest=0.2) - images
    assert added.flatten(1).std(1).tolist() == pytest.approx([0.1, 0.2, 0.0, 0.1], rel=0.03)
    assert added.flatten(1).mean(1).tolist() == pytest.approx([0.0] * 4, abs=0.005)
    assert torch.equal(added[0], added[3])  # equal numbers
    correlation = np.corrcoef(added[:2].flatten(1).numpy())[0, 1]
    assert abs(correlation) < 0.05


# TrivialAugment


@pytest.mark.parametrize("start", range(0, 60, 20))
def test_trivial_augment_agrees_with_torchvision(start):
    image = torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.avg_pool2d(image.float(), 9, 1, 4).to(torch.uint8)
    reference, ways = TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR), 14
    for seed in range(start, start + 20):
        torch.manual_seed(seed)
        way, size, sign = int(torch.randint(ways, ())), int(torch.randint(31, ())), float(torch.rand(()))
        torch.manual_seed(seed)
        expected = reference(image).float()
        numbers = torch.tensor([[(way + 0.5) / ways, (size + 0.5) / 31, sign]])
        changed = trivial(image[None] / 255, numbers)[0] * 255
        near = (changed - expected).abs() < 3  # torchvision rounds uint8, and scales what it rounded
        assert near.float().mean() > 0.98, (way, size, sign)


def test_trivial_augment_changes_images_in_many_ways(pixels):
    images = planes(pixels[:1]).expand(200, 3, SIDE, SIDE)
    changed = trivial(images, torch.rand(200, 3, generator=torch.Generator().manual_seed(0)))
    assert 80 < len(changed.unique(dim=0)) < 200
    assert torch.equal(
        trivial(images[:1], torch.tensor([[0.0, 1 - 2**-24, 0.0]])), images[:1]
    )  # the first changes nothing


def test_a_number_just_below_one_stays_below_one_in_float32(pixels, monkeypatch):
    def highest(indices: np.ndarray, *_: int) -> np.ndarray:
        return np.full((len(indices), OPS["trivial"].columns.stop), np.nextafter(1.0, 0))

    monkeypatch.setattr("deepbloom.data.augment.apply.uniform_numbers", highest)
    equalized = augment(pixels, torch.arange(6), FIRST, 0, AugmentConfig({"trivial": {}}))
    torch.testing.assert_close(equalized, oracle.equalize(planes(pixels)))


# CutMix


@pytest.mark.parametrize("step", range(12))
def test_cutmix_pastes_one_rectangle_and_mixes_targets_by_area(step):
    inputs, targets = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 12, 20).contiguous(), torch.arange(5)
    config = AugmentConfig({"cutmix": {"alpha": 1.0}})
    mixed, soft = mix_batch(inputs, targets, 6, config, generator(0, "mix", 1, step))
    assert soft.shape == (5, 6)
    torch.testing.assert_close(mixed[:, 0].mean((1, 2)), soft @ torch.arange(6.0))  # image i has the value i
    pasted = mixed[:, 0] != torch.arange(5.0).view(5, 1, 1)
    for rectangle in pasted[pasted.flatten(1).any(1)]:
        assert torch.equal(rectangle, rectangle.any(1)[:, None] & rectangle.any(0)[None])
        assert torch.equal(rectangle, pasted.any(0))  # the same place in every image
    again, _ = mix_batch(inputs, targets, 6, config, generator(0, "mix", 1, step))
    assert torch.equal(again, mixed)
    assert torch.equal(inputs, torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 12, 20))  # not changed in place


def test_the_area_that_cutmix_pastes_follows_the_distribution():
    inputs, targets, config = torch.zeros(2, 3, 64, 64), torch.arange(2), AugmentConfig({"cutmix": {"alpha": 1.0}})
    softened = [mix_batch(inputs, targets, 2, config, generator(0, "mix", step))[1] for step in range(800)]
    pasted = np.array([1 - float(soft[0, 0]) for soft in softened if soft[0, 0] < 1])  # otherwise paired with itself
    # A side s = sqrt(area) with a uniform center lies inside for s - s^2 / 4 on average. With alpha 1 the area is
    # uniform, so the mean of (s - s^2 / 4)^2 is 1/2 - 1/5 + 1/48.
    assert pasted.mean() == pytest.approx(0.321, abs=0.03)


@pytest.mark.parametrize("names", [("mixup", "cutmix"), ("cutmix", "mixup")])
def test_of_several_batch_operations_one_is_drawn_for_each_batch(names):
    inputs, targets = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 8, 8).contiguous(), torch.arange(4)
    config = AugmentConfig({name: {"alpha": 1.0} for name in names})
    blended = 0
    for step in range(100):
        mixed, soft = mix_batch(inputs, targets, 4, config, generator(0, "mix", 1, step))
        torch.testing.assert_close(mixed[:, 0].mean((1, 2)), soft @ torch.arange(4.0))
        blended += bool((mixed != mixed.round()).any())
    assert 30 < blended < 70


# MixUp


def test_mixup_blends_inputs_and_targets_with_one_share():
    inputs, targets = torch.arange(5.0).view(5, 1).expand(5, 3).contiguous(), torch.arange(5)
    config = AugmentConfig({"mixup": {"alpha": 0.8}})
    mixed, soft = mix_batch(inputs, targets, 6, config, generator(0, "mix", 1, 0))
    assert soft.shape == (5, 6)
    torch.testing.assert_close(soft.sum(1), torch.ones(5))
    torch.testing.assert_close(mixed[:, 0], soft @ torch.arange(6.0))  # image i has the value i, and so has class i
    shares = soft.gather(1, targets[:, None]).flatten()
    assert ((shares >= 0.5) & (shares <= 1)).all()
    assert len(shares[shares < 1].unique()) == 1
    again, _ = mix_batch(inputs, targets, 6, config, generator(0, "mix", 1, 0))
    assert torch.equal(again, mixed)
    other, _ = mix_batch(inputs, targets, 6, config, generator(0, "mix", 1, 1))
    assert not torch.equal(other, mixed)


def test_the_loss_of_mixed_targets_is_the_mean_of_both_losses():
    logits, targets = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 1])
    _, soft = mix_batch(torch.zeros(4, 1), targets, 3, AugmentConfig({"mixup": {"alpha": 1.0}}), generator(3, "mix"))
    first, partner = soft.gather(1, targets[:, None]).flatten(), soft.clone()
    partner[torch.arange(4), targets] = 0
    losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=0.1) * first
    losses += (1 - first) * F.cross_entropy(logits, partner.argmax(1), reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(F.cross_entropy(logits, soft, label_smoothing=0.1), losses.mean())


def test_without_a_batch_operation_a_batch_stays_as_it_is():
    inputs, targets = torch.zeros(2, 3), torch.tensor([0, 1])
    assert mix_batch(inputs, targets, 2, EVERYTHING, generator(0, "mix")) == (inputs, targets)


# Random numbers


@pytest.mark.parametrize("resolution", [SIDE, 10])
def test_the_result_depends_on_seed_copy_and_index_alone(pixels, resolution):
    indices, copy = torch.tensor([3, 141, 59, 2, 6, 5358]), AugmentedCopy(2, resolution)
    whole = augment(pixels, indices, copy, 9, EVERYTHING)
    order = torch.tensor([5, 0, 3, 1, 4, 2])
    assert torch.equal(augment(pixels[order], indices[order], copy, 9, EVERYTHING), whole[order])
    one_by_one = [augment(pixels[i : i + 1], indices[i : i + 1], copy, 9, EVERYTHING) for i in range(6)]
    assert torch.equal(torch.cat(one_by_one), whole)


@pytest.mark.parametrize(("index", "copy", "seed"), [(4, 2, 9), (3, 1, 9), (3, 2, 8)])
def test_another_index_copy_or_seed_gives_another_change(pixels, index, copy, seed):
    first = augment(pixels[:1], torch.tensor([3]), AugmentedCopy(2, SIDE), 9, EVERYTHING)
    assert not torch.allclose(
        augment(pixels[:1], torch.tensor([index]), AugmentedCopy(copy, SIDE), seed, EVERYTHING), first, atol=0.01
    )


def test_another_operation_leaves_the_random_numbers_of_the_others(pixels):
    rotated = AugmentConfig({"rotate": {"degrees": 20}})
    colored = AugmentConfig({"color_jitter": {"strength": 0.3}, "rotate": {"degrees": 20}})
    first, second = (augment(pixels, torch.arange(6), FIRST, 0, config) for config in (rotated, colored))
    numbers = torch.from_numpy(uniform_numbers(np.arange(6), 0, 0)[:, OPS["color_jitter"].columns]).float()
    torch.testing.assert_close(second, color_jitter(first, numbers, 0.3).clamp(0, 1))


def test_the_global_random_state_is_neither_read_nor_changed(pixels):
    before = torch.get_rng_state()
    first = augment(pixels, torch.arange(6), FIRST, 0, EVERYTHING)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state is what is tested
    assert torch.equal(augment(pixels, torch.arange(6), FIRST, 0, EVERYTHING), first)


def test_numbers_are_uniform_and_neighbors_are_independent():
    numbers = uniform_numbers(np.arange(5000), 0, 0)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    np.testing.assert_allclose(numbers.mean(0), 0.5, atol=0.02)
    np.testing.assert_allclose(numbers.std(0), 12**-0.5, atol=0.01)
    together = np.hstack([numbers[:-1], numbers[1:]])
    correlations = np.corrcoef(together.T) - np.eye(together.shape[1])
    assert np.abs(correlations).max() < 0.07


# Batches


@pytest.mark.parametrize(
    "config",
    [
        CROP,
        AugmentConfig({"rotate": {"degrees": 180}, "crop": {"min_area": 0.05}, "color_jitter": {"strength": 1}}),
        AugmentConfig({"color_jitter": {"strength": 1}}),
    ],
)
def test_values_stay_float32_in_unit_range(pixels, config):
    images = augment(pixels, torch.arange(6), AugmentedCopy(1, SIDE), 0, config)
    assert images.dtype == torch.float32
    assert images.shape == (6, 3, 16, 16)
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.mark.parametrize("resolution", [SIDE, 11])
@pytest.mark.parametrize("config", [CROP, EVERYTHING, OFF])
def test_training_inputs_are_the_normalized_changed_images_in_channels_last_memory(pixels, config, resolution):
    preprocessing, copy = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)), AugmentedCopy(1, resolution)
    inputs = training_inputs(pixels, torch.arange(6), copy, 0, config, preprocessing)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    torch.testing.assert_close(inputs, (augment(pixels, torch.arange(6), copy, 0, config) - mean) / std)
    assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_an_empty_batch_stays_empty():
    none = torch.empty(0, 16, 16, 3, dtype=torch.uint8)
    assert augment(none, torch.empty(0, dtype=torch.int64), FIRST, 0, EVERYTHING).shape == (0, 3, 16, 16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_what_a_cpu_gives(pixels):
    for resolution, tolerance in ((SIDE, 1e-4), (10, 1 / 255)):  # a CPU rounds what it resizes
        copy = AugmentedCopy(1, resolution)
        on_cpu = augment(pixels, torch.arange(6), copy, 0, CROP)
        on_gpu = augment(pixels.cuda(), torch.arange(6).cuda(), copy, 0, CROP)
        assert on_gpu.is_cuda
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=tolerance, rtol=0)


@pytest.mark.parametrize("sizes", [[(48, 48), (17, 48), (30, 11)], [(2, 3), (47, 33), (5, 5)]])
def test_images_resized_together_are_those_resized_one_by_one(sizes):
    images = torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    together = resize_each(images, torch.tensor(sizes, dtype=torch.float32))
    assert together.shape[2:] == (max(height for _, height in sizes), max(width for width, _ in sizes))
    for image, canvas, (width, height) in zip(images, together, sizes, strict=True):
        alone = F.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]
        torch.testing.assert_close(canvas[:, :height, :width], alone, atol=1e-5, rtol=0)
        assert canvas[:, height:].abs().sum() == canvas[:, :, width:].abs().sum() == 0


# The registry


@pytest.mark.parametrize(
    ("ops", "random", "labels"),
    [
        ({}, False, False),
        ({"flip": {}}, True, False),
        ({"color_jitter": {"strength": 0.1}}, True, False),
        ({"flip": {}, "mixup": {"alpha": 0.2}}, True, True),
        ({"cutmix": {"alpha": 1.0}}, True, True),
        ({"erase": {"probability": 0.25, "max_area": 0.33}}, True, False),
        ({"trivial": {}}, True, False),
    ],
)
def test_the_operations_say_whether_they_are_random_and_change_labels(ops, random, labels):
    assert (is_random(AugmentConfig(ops)), changes_labels(AugmentConfig(ops))) == (random, labels)


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ({"rotat": {"degrees": 10}}, "Did you mean 'rotate'"),
        ({"rotate": {"angle": 10}}, r"augment\.ops\.rotate takes degrees"),
        ({"rotate": {}}, r"augment\.ops\.rotate takes degrees"),
        ({"flip": {"share": 1}}, r"augment\.ops\.flip takes no parameters"),
        ({"crop": {"min_area": 0}}, r"augment\.ops\.crop\.min_area=0.* at least 0\.05 and at most 1"),
        ({"crop": {"min_area": float("nan")}}, r"augment\.ops\.crop\.min_area=nan"),
        ({"crop": {"min_area": "half"}}, r"augment\.ops\.crop\.min_area='half' must be a number"),
    ],
)
def test_operations_that_cannot_be_used_are_refused_with_the_choices(ops, message):
    with pytest.raises(ConfigError, match=message):
        chosen_ops(AugmentConfig(ops))


def test_parameters_that_are_not_a_mapping_are_refused():
    with pytest.raises(ConfigError, match=r"augment\.ops\.rotate=10"):
        AugmentConfig({"rotate": 10})  # type: ignore[dict-item]


@pytest.mark.usefixtures("registry")
def test_a_new_operation_needs_one_function_only(pixels):
    @augmentation("posterize", kind="pixel", random=False, levels=(2, 256))
    def posterize(images: torch.Tensor, uniform: torch.Tensor, levels: float) -> torch.Tensor:
        return (images * (levels - 1)).round() / (levels - 1)

    config = AugmentConfig({"posterize": {"levels": 2}})
    assert not is_random(config)
    assert torch.equal(augment(pixels, torch.arange(6), FIRST, 0, config), planes(pixels).round())
    with pytest.raises(ConfigError, match="at most 256"):
        chosen_ops(AugmentConfig({"posterize": {"levels": 257}}))


@pytest.mark.usefixtures("registry")
def test_a_new_random_operation_leaves_the_random_numbers_of_the_others(pixels):
    before = augment(pixels, torch.arange(6), FIRST, 0, EVERYTHING)

    @augmentation("shift", kind="geometric", random=True, numbers=2)
    def shift(uniform: np.ndarray) -> np.ndarray:
        return np.concatenate([np.tile(np.eye(2), (len(uniform), 1, 1)), uniform[:, :, None]], axis=2)

    assert torch.equal(augment(pixels, torch.arange(6), FIRST, 0, EVERYTHING), before)
    shifted = augment(pixels, torch.arange(6), FIRST, 0, AugmentConfig({"shift": {}}))
    assert not torch.equal(shifted, planes(pixels))
