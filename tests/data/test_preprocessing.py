import numpy as np
import pytest
import torch
from PIL import Image

from deepbloom.config.settings import AugmentConfig
from deepbloom.data.augment import training_inputs
from deepbloom.data.preprocessing import Preprocessing, normalize, preprocess, resize
from deepbloom.data.resolution import AugmentedCopy
from deepbloom.errors import ConfigError

SIDE = 16
OFF = AugmentConfig({})
VIEW = AugmentedCopy(0, SIDE)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (6, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_normalizing_subtracts_the_mean_and_divides_by_the_deviation():
    preprocessing = Preprocessing(size=1, mean=(0.5, 0.25, 0), std=(0.5, 0.25, 2))
    pixels = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 1, 1, 3)
    torch.testing.assert_close(normalize(pixels, preprocessing).flatten(), torch.tensor([1.0, -1.0, 0.1]))


def test_pixels_and_unit_range_images_are_normalized_alike(pixels):
    images = training_inputs(pixels, torch.arange(6), VIEW, 0, OFF, Preprocessing(size=16))
    assert torch.equal(images, normalize(pixels, Preprocessing(size=16)))
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_resizing_gives_a_square_whatever_the_aspect():
    image = Image.new("RGB", (30, 10), (10, 20, 30))
    for interpolation in ("bilinear", "bicubic"):
        pixels = resize(image, Preprocessing(size=8, interpolation=interpolation))
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, np.full((8, 8, 3), (10, 20, 30)))


def test_shrinking_averages_so_that_fine_stripes_become_gray():
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (64, 32))).convert("RGB")
    assert np.abs(resize(stripes, Preprocessing(size=8))[:, 1:-1].astype(int) - 127).max() < 8


def test_one_image_becomes_the_same_input_as_in_a_batch(pixels):
    preprocessing = Preprocessing(size=16)
    image = Image.fromarray(pixels[0].numpy())
    assert torch.equal(preprocess(image, preprocessing), normalize(pixels[:1], preprocessing)[0])


def test_preprocessing_read_from_a_header_equals_the_original():
    assert Preprocessing(64, [0.5, 0.5, 0.5], [1, 1, 1]) == Preprocessing(64, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"size": 0}, {"interpolation": "nearest"}, {"std": (0, 1, 1)}, {"mean": (0.5,)}])
def test_impossible_preprocessing_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Preprocessing(**wrong)
