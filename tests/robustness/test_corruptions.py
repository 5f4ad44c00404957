"""Corruptions: repeatable, growing with severity, and equal to an independent implementation where there is one."""

import imagecorruptions
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from deepbloom.errors import ConfigError
from deepbloom.robustness.corruptions import CORRUPTIONS, SEVERITIES, check_corruption, corrupt, corruption

DETERMINISTIC = {name: "exact" for name in ("gaussian_blur", "contrast", "pixelate")} | {
    "brightness": "rounding",
    "jpeg": "exact",
    "saturation": "rounding",
    "defocus_blur": "kernel",
    "zoom_blur": "resampling",
}
THEIR_NAMES = {"jpeg": "jpeg_compression", "saturation": "saturate"}
TOLERANCE = {"exact": 0.001, "rounding": 0.1, "kernel": 1.0, "resampling": 2.0}
"""Mean difference of two results in gray levels. Their disk does not sum to 1; they crop to whole pixels to zoom."""


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.asarray(Image.fromarray(load_sample_image("flower.jpg")).resize((224, 224)))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_a_function_of_image_severity_and_stream(name, image):
    before = image.copy()
    found = [corrupt(image, name, severity, 0, "a") for severity in SEVERITIES]
    assert (image == before).all()
    assert all(result.shape == image.shape and result.dtype == np.uint8 for result in found)
    assert all(distance(result, image) > 1 for result in found)
    assert (corrupt(image, name, 3, 0, "a") == found[2]).all()
    others = [corrupt(image, name, 3, 0, "b"), corrupt(image, name, 3, 1, "a")]
    assert [bool((other != found[2]).any()) for other in others] == [CORRUPTIONS[name].random] * 2 or name == "rotation"


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"saturation", "rotation", "crop"}))
def test_a_higher_severity_changes_more(name, image):
    """Not so saturation, which falls in severities 1 and 2 and rises after, and windows and turns of an image."""
    distances = np.mean(
        [[distance(corrupt(image, name, severity, 0, str(i)), image) for severity in SEVERITIES] for i in range(3)], 0
    )
    assert (np.diff(distances) > -0.05 * distances[:-1]).all(), distances
    assert distances[-1] > distances[0]


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_agreement_with_imagecorruptions(name, severity, image):
    theirs = imagecorruptions.corrupt(image, severity, THEIR_NAMES.get(name, name))
    ours = corrupt(image, name, severity, 0, "a")
    assert distance(ours, theirs) <= TOLERANCE[DETERMINISTIC[name]]
    other = corrupt(image, name, severity % 5 + 1, 0, "a")  # the control: another severity does not agree as well
    assert distance(other, theirs) > distance(ours, theirs)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise"])
def test_noise_has_the_distribution_of_imagecorruptions(name, severity, image):
    np.random.seed(0)  # noqa: NPY002  # theirs draws from the global stream
    theirs = imagecorruptions.corrupt(image, severity, name).astype(float) - image
    ours = corrupt(image, name, severity, 0, "a").astype(float) - image
    points = np.linspace(0.01, 0.99, 25)
    spread = theirs.std()
    assert np.abs(np.quantile(ours, points) - np.quantile(theirs, points)).mean() < 0.02 * spread + 0.5
    assert ours.std() == pytest.approx(spread, rel=0.03)


def test_gray_is_unchanged_where_color_alone_changes():
    gray = np.full((32, 32, 3), 90, np.uint8)
    assert distance(corrupt(gray, "grayscale", 5, 0, "a"), gray) <= 1
    assert distance(corrupt(gray, "saturation", 1, 0, "a"), gray) <= 1
    assert (corrupt(gray, "contrast", 5, 0, "a") >= 89).all()


def test_occlusion_covers_the_stated_share():
    white = np.full((100, 100, 3), 255, np.uint8)
    shares = [(corrupt(white, "occlusion", severity, 0, "a") < 200).mean() for severity in SEVERITIES]
    assert shares == pytest.approx([0.05, 0.1, 0.2, 0.3, 0.4], abs=0.02)


def test_rotation_by_180_degrees_turns_the_image_upside_down(image):
    assert distance(corrupt(image, "rotation", 5, 0, "a"), image[::-1, ::-1]) < 4
    assert distance(corrupt(image, "rotation", 5, 0, "a"), image) > 10


def test_images_need_not_be_square():
    wide = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    assert {corrupt(wide, name, 5, 0, "a").shape for name in CORRUPTIONS} == {(40, 64, 3)}


def test_two_corruptions_are_applied_in_their_order(image):
    both = corrupt(image, "pixelate+gaussian_noise", 4, 0, "a")
    assert (both == corrupt(corrupt(image, "pixelate", 4, 0, "a"), "gaussian_noise", 4, 0, "a")).all()
    assert (both != corrupt(image, "gaussian_noise+pixelate", 4, 0, "a")).any()


@pytest.mark.parametrize("name", ["fog", "", "haze+fog", "haze+jpeg+crop", "haze+"])
def test_unknown_names_are_refused_with_the_choices(name):
    with pytest.raises(ConfigError, match=r"gaussian_noise, .*occlusion"):
        check_corruption(name)


def test_a_corruption_is_added_by_its_decorator(monkeypatch, image):
    monkeypatch.setattr("deepbloom.robustness.corruptions.CORRUPTIONS", dict(CORRUPTIONS))

    @corruption((0.1, 0.2, 0.3, 0.4, 0.5))
    def tint(pixels, level, stream):
        return pixels * (1 - level)

    def other(pixels, level, stream):
        return pixels

    other.__name__ = "tint"
    assert corrupt(image, "tint", 5, 0, "a").mean() == pytest.approx(image.mean() / 2, abs=1)
    with pytest.raises(ValueError, match="tint is there already"):
        corruption((1,) * 5)(other)
    with pytest.raises(ValueError, match="one for each of the 5"):
        corruption((1,))(tint)
