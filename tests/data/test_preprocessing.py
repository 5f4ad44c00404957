import numpy as np
import pytest
import torch
from PIL import Image

from deepbloom.config.settings import AugmentConfig
from deepbloom.data.augment import training_inputs
from deepbloom.data.preprocessing import Preprocessing, normalize, place_map, preprocess, resize
from deepbloom.data.resolution import AugmentedCopy
from deepbloom.errors import ConfigError
from deepbloom.explain.localization import resize_mask

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


BANDS = np.repeat(np.array([[10, 10, 60, 60, 200, 200, 250, 250]], np.uint8), 4, axis=0)
"""An image of 8 x 4 pixels with bands of two columns."""


def banded(turned: bool) -> Image.Image:
    return Image.fromarray(BANDS.T.copy() if turned else BANDS).convert("RGB")


@pytest.mark.parametrize("turned", [False, True])
def test_crop_shows_the_centered_square_with_its_aspect(turned):
    pixels = resize(banded(turned), Preprocessing(size=4, fit="crop"))[..., 0]
    assert np.array_equal(pixels.T if turned else pixels, BANDS[:, 2:6])


@pytest.mark.parametrize("turned", [False, True])
def test_pad_shows_the_whole_image_between_bars_of_the_mean_color(turned):
    pixels = resize(banded(turned), Preprocessing(size=8, fit="pad", mean=(0.2, 0.4, 0.6)))
    pixels = pixels.transpose(1, 0, 2) if turned else pixels
    assert np.array_equal(pixels[2:6], np.repeat(BANDS[..., None], 3, axis=2))
    for bar in (pixels[:2], pixels[6:]):
        assert np.array_equal(bar, np.full((2, 8, 3), (51, 102, 153)))
    inputs = preprocess(banded(turned), Preprocessing(size=8, fit="pad"))
    bars = inputs[:, :, :2] if turned else inputs[:, :2]
    assert bars.abs().max() < 0.5 / 255 / 0.224 + 1e-6  # zero but for rounding


def test_squash_stretches_and_fits_differ_only_for_images_that_are_not_square():
    wide, square = banded(False), banded(False).crop((2, 0, 6, 4))
    wide_ones, square_ones = (
        [resize(image, Preprocessing(size=4, fit=fit)).tobytes() for fit in ("squash", "crop", "pad")]
        for image in (wide, square)
    )
    assert len(set(wide_ones)) == 3
    assert len(set(square_ones)) == 1
    assert np.array_equal(resize(wide, Preprocessing(size=4))[..., 0], np.asarray(wide.resize((4, 4), 2))[..., 0])


@pytest.mark.parametrize("size", [(3, 900), (900, 3), (1, 1), (31, 32), (97, 64)])
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_any_aspect_gives_a_square_and_a_map_of_the_size_of_the_image(size, fit):
    color = (90, 120, 200)
    pixels = resize(Image.new("RGB", size, color), Preprocessing(size=16, fit=fit))
    assert pixels.shape == (16, 16, 3)
    assert (pixels == color).all(axis=2).any()
    placed = place_map(np.full((16, 16), 0.5, np.float32), size, fit)
    assert placed.shape == size[::-1]
    assert np.nanmin(placed) == np.nanmax(placed) == 0.5
    assert np.isnan(placed).any() == (fit == "crop" and size[0] != size[1])


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_a_map_of_the_input_comes_back_to_where_the_network_saw_it(turned, fit):
    image = np.zeros((40, 80), np.uint8)
    image[10:20, 30:40] = 255
    image = image.T.copy() if turned else image
    seen = resize(Image.fromarray(image).convert("RGB"), Preprocessing(size=40, mean=(0, 0, 0), fit=fit))
    placed = np.nan_to_num(place_map(seen[..., 0].astype(np.float32) / 255, image.shape[::-1], fit))
    overlap = np.minimum(placed, image / 255).sum() / np.maximum(placed, image / 255).sum()
    assert overlap > 0.7
    assert np.isclose(np.argwhere(placed > 0.5).mean(0), np.argwhere(image > 0).mean(0), atol=0.6).all()


def test_the_names_of_caches_tell_fits_apart():
    names = {Preprocessing(fit=fit, mean=mean).resizing for fit in ("crop", "pad") for mean in ((0, 0, 0), (1, 1, 1))}
    assert len(names) == 3  # the mean decides the pixels only where it pads
    assert Preprocessing().resizing not in names


def test_one_image_becomes_the_same_input_as_in_a_batch(pixels):
    preprocessing = Preprocessing(size=16)
    image = Image.fromarray(pixels[0].numpy())
    assert torch.equal(preprocess(image, preprocessing), normalize(pixels[:1], preprocessing)[0])


def test_preprocessing_read_from_a_header_equals_the_original():
    assert Preprocessing(64, [0.5, 0.5, 0.5], [1, 1, 1]) == Preprocessing(64, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", [{"size": 0}, {"interpolation": "nearest"}, {"fit": "letterbox"}, {"std": (0, 1, 1)}, {"mean": (0.5,)}]
)
def test_impossible_preprocessing_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Preprocessing(**wrong)


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (3, 4001), (5, 1022)])
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_a_map_has_a_place_in_a_very_long_image(size: tuple[int, int], fit: str) -> None:
    placed = place_map(np.full((16, 16), 0.5, np.float32), size, fit)
    shown = np.isfinite(placed)
    assert shown.shape == size[::-1]
    assert shown.sum() == (min(size) ** 2 if fit == "crop" else size[0] * size[1])
    assert resize_mask(np.ones(size[::-1], bool), 16, fit).any()
