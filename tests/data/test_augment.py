import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as oracle

from deepbloom.config.settings import AugmentConfig
from deepbloom.data import augment as transforms
from deepbloom.data.augment import augment, training_inputs
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.data.resolution import AugmentedCopy

OFF = AugmentConfig(rotation_degrees=0, horizontal_flip=False, min_crop_area=1)
SIDE = 16
VIEW = AugmentedCopy(0, SIDE)
EVERYTHING = AugmentConfig(rotation_degrees=20, min_crop_area=0.5, color_jitter=0.3)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (6, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def planes(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.permute(0, 3, 1, 2) / 255


def draw_always(monkeypatch: pytest.MonkeyPatch, **columns: float) -> None:
    """Have every image draw these numbers: mirror, angle, area, aspect, x, y, or the three of color."""
    names = ("mirror", "angle", "area", "aspect", "x", "y", "brightness", "contrast", "saturation")
    row = np.array([columns.get(name, 0.5) for name in names] + [0.5] * 3)
    monkeypatch.setattr(transforms, "_draw", lambda indices, epoch, seed: np.tile(row, (len(indices), 1)))


def test_no_change_asked_for_gives_exactly_the_pixels_over_255(pixels):
    assert torch.equal(augment(pixels, torch.arange(6), AugmentedCopy(3, SIDE), 1, OFF), planes(pixels))
    assert not torch.equal(augment(pixels, torch.arange(6), AugmentedCopy(3, SIDE), 1, AugmentConfig()), planes(pixels))


def test_a_rotation_by_180_degrees_turns_both_axes(monkeypatch, pixels):
    draw_always(monkeypatch, mirror=1, angle=1)
    turned = augment(pixels, torch.arange(6), VIEW, 0, AugmentConfig(rotation_degrees=180, min_crop_area=1))
    torch.testing.assert_close(turned, planes(pixels).flip((2, 3)), atol=1e-5, rtol=0)


def test_a_positive_angle_turns_counter_clockwise(monkeypatch, pixels):
    draw_always(monkeypatch, mirror=1, angle=1)
    turned = augment(pixels, torch.arange(6), VIEW, 0, AugmentConfig(rotation_degrees=90, min_crop_area=1))
    torch.testing.assert_close(turned, torch.rot90(planes(pixels), 1, (2, 3)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("rotation_degrees", [0, 20])
def test_a_mirrored_image_runs_from_right_to_left(monkeypatch, pixels, rotation_degrees):
    draw_always(monkeypatch, mirror=0)
    mirrored = augment(
        pixels, torch.arange(6), VIEW, 0, AugmentConfig(rotation_degrees=rotation_degrees, min_crop_area=1)
    )
    torch.testing.assert_close(mirrored, planes(pixels).flip(3), atol=1e-5, rtol=0)


def test_half_the_side_shows_the_mean_of_each_four_pixels(pixels):
    smaller = augment(pixels, torch.arange(6), AugmentedCopy(0, SIDE // 2), 0, OFF)
    torch.testing.assert_close(smaller, F.avg_pool2d(planes(pixels), 2), atol=1e-6, rtol=0)


def test_a_smaller_side_shows_the_same_window(monkeypatch):
    ramp = (torch.arange(12) * 10).view(1, 1, 12, 1).expand(1, 12, 12, 3).to(torch.uint8)  # value 10 x
    draw_always(monkeypatch, mirror=1, area=0, x=0, y=0)  # the six pixels at the top left, on four
    zoomed = augment(
        ramp, torch.arange(1), AugmentedCopy(0, 4), 0, AugmentConfig(rotation_degrees=0, min_crop_area=0.25)
    )
    expected = torch.tensor([10 * ((i + 0.5) * 1.5 - 0.5) / 255 for i in range(4)])
    torch.testing.assert_close(zoomed[0, 0, 2], expected, atol=1e-5, rtol=0)


def test_a_crop_zooms_into_its_window(monkeypatch):
    ramp = (torch.arange(8) * 10).view(1, 1, 8, 1).expand(1, 8, 8, 3).to(torch.uint8)  # value 10 x
    draw_always(monkeypatch, mirror=1, area=0, x=0, y=0)  # a quarter of the area, square, at the top left
    zoomed = augment(
        ramp, torch.arange(1), AugmentedCopy(0, 8), 0, AugmentConfig(rotation_degrees=0, min_crop_area=0.25)
    )
    # Output pixel i covers input (i + 0.5) / 2 pixels from the left edge, i.e. coordinate (i + 0.5) / 2 - 0.5.
    expected = torch.tensor([10 * ((i + 0.5) / 2 - 0.5) / 255 for i in range(1, 8)])
    torch.testing.assert_close(zoomed[0, 0, 4, 1:], expected, atol=1e-5, rtol=0)


def test_a_crop_lies_inside_of_the_image_and_has_the_share_asked_for():
    config = AugmentConfig(rotation_degrees=0, horizontal_flip=False, min_crop_area=0.3)
    maps = transforms._affine_maps(transforms._draw(np.arange(2000), 0, 0), config).astype(np.float64)
    width, height, x, y = maps[:, 0, 0], maps[:, 1, 1], maps[:, 0, 2], maps[:, 1, 2]
    assert np.all(np.abs(x) + width <= 1 + 1e-6)
    assert np.all(np.abs(y) + height <= 1 + 1e-6)
    assert (width * height).min() == pytest.approx(0.3, abs=0.01)
    assert (width * height).mean() == pytest.approx(0.65, abs=0.02)
    assert 3 / 4 - 1e-6 <= (width / height).min() < 0.85 < 1.2 < (width / height).max() <= 4 / 3 + 1e-6


def test_rotation_and_mirror_agree_with_torchvision(pixels):
    config = AugmentConfig(rotation_degrees=180, min_crop_area=1)
    draws = transforms._draw(np.arange(6), 4, 7)
    all_changed = augment(pixels, torch.arange(6), AugmentedCopy(4, SIDE), 7, config)
    for image, draw, changed in zip(planes(pixels), draws, all_changed, strict=True):
        angle = 180 * (2 * draw[1] - 1)
        expected = oracle.rotate(image, angle, InterpolationMode.BILINEAR)
        expected = oracle.horizontal_flip(expected) if draw[0] < 0.5 else expected
        torch.testing.assert_close(changed, expected, atol=2e-4, rtol=0)


def test_color_jitter_agrees_with_torchvision(monkeypatch, pixels):
    draw_always(monkeypatch, mirror=1, brightness=0.1, contrast=0.9, saturation=0.2)
    config = AugmentConfig(rotation_degrees=0, horizontal_flip=False, min_crop_area=1, color_jitter=0.5)
    changed = augment(pixels, torch.arange(6), VIEW, 0, config)
    expected = oracle.adjust_brightness(planes(pixels), 0.6)
    expected = oracle.adjust_contrast(expected, 1.4)
    expected = oracle.adjust_saturation(expected, 0.7)
    torch.testing.assert_close(changed, expected, atol=1e-3, rtol=0)


def test_what_a_image_becomes_depends_on_seed_epoch_and_index_alone(pixels):
    indices = torch.tensor([3, 141, 59, 2, 6, 5358])
    whole = augment(pixels, indices, AugmentedCopy(2, SIDE), 9, EVERYTHING)
    order = torch.tensor([5, 0, 3, 1, 4, 2])
    assert torch.equal(augment(pixels[order], indices[order], AugmentedCopy(2, SIDE), 9, EVERYTHING), whole[order])
    one_by_one = [
        augment(pixels[i : i + 1], indices[i : i + 1], AugmentedCopy(2, SIDE), 9, EVERYTHING) for i in range(6)
    ]
    assert torch.equal(torch.cat(one_by_one), whole)


@pytest.mark.parametrize(("index", "epoch", "seed"), [(4, 2, 9), (3, 1, 9), (3, 2, 8)])
def test_another_index_epoch_or_seed_gives_another_change(pixels, index, epoch, seed):
    first = augment(pixels[:1], torch.tensor([3]), AugmentedCopy(2, SIDE), 9, EVERYTHING)
    assert not torch.allclose(
        augment(pixels[:1], torch.tensor([index]), AugmentedCopy(epoch, SIDE), seed, EVERYTHING), first, atol=0.01
    )


def test_the_global_random_state_is_neither_read_nor_changed(pixels):
    before = torch.get_rng_state()
    first = augment(pixels, torch.arange(6), VIEW, 0, EVERYTHING)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state is what is tested
    assert torch.equal(augment(pixels, torch.arange(6), VIEW, 0, EVERYTHING), first)


def test_draws_are_uniform_and_neighbors_are_independent():
    draws = transforms._draw(np.arange(5000), 0, 0)
    assert draws.min() >= 0
    assert draws.max() < 1
    np.testing.assert_allclose(draws.mean(0), 0.5, atol=0.02)
    np.testing.assert_allclose(draws.std(0), 12**-0.5, atol=0.01)
    together = np.hstack([draws[:-1], draws[1:]])
    correlations = np.corrcoef(together.T) - np.eye(together.shape[1])
    assert np.abs(correlations).max() < 0.07


@pytest.mark.parametrize(
    "config",
    [
        AugmentConfig(),
        AugmentConfig(rotation_degrees=180, min_crop_area=0.05, color_jitter=1),
        AugmentConfig(rotation_degrees=0, color_jitter=1),
    ],
)
def test_values_stay_float32_in_unit_range(pixels, config):
    images = augment(pixels, torch.arange(6), AugmentedCopy(1, SIDE), 0, config)
    assert images.dtype == torch.float32
    assert images.shape == (6, 3, 16, 16)
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.mark.parametrize("side", [SIDE, 11])
@pytest.mark.parametrize("config", [AugmentConfig(), EVERYTHING, OFF])
def test_training_inputs_are_the_normalized_changed_images_in_channels_last_memory(pixels, config, side):
    preprocessing = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    inputs = training_inputs(pixels, torch.arange(6), AugmentedCopy(1, side), 0, config, preprocessing)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    expected = (augment(pixels, torch.arange(6), AugmentedCopy(1, side), 0, config) - mean) / std
    torch.testing.assert_close(inputs, expected)
    assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_an_empty_batch_stays_empty():
    none = torch.empty(0, 16, 16, 3, dtype=torch.uint8)
    assert augment(none, torch.empty(0, dtype=torch.int64), VIEW, 0, EVERYTHING).shape == (0, 3, 16, 16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_what_a_cpu_gives(pixels):
    on_cpu = augment(pixels, torch.arange(6), AugmentedCopy(1, SIDE), 0, EVERYTHING)
    on_gpu = augment(pixels.cuda(), torch.arange(6).cuda(), AugmentedCopy(1, SIDE), 0, EVERYTHING)
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-4, rtol=0)
