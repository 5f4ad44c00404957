"""Where the flower is: masks that come with the images, Oxford's archive, and a folder of one's own."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepbloom.data.masks import find_masks
from deepbloom.data.sources.imagefolder import ImageFolder
from deepbloom.errors import ConfigError, DataError
from drawn_flowers import drawn_flowers


def draw_half(path: Path, size: tuple[int, int] = (20, 10)) -> None:
    """A mask, white in its left half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[:, : size[0] // 2] = 255
    Image.fromarray(pixels).save(path)


def test_drawn_flowers_come_with_exact_masks() -> None:
    source = drawn_flowers(2, 3)
    masks = find_masks(source, "auto")
    expected = source.mask(4)
    assert expected is not None
    assert (masks.read(4) == expected).all()
    assert "exact" in masks.origin


def test_masks_can_be_left_out_and_images_may_have_none(images: Path) -> None:
    assert find_masks(drawn_flowers(2, 3), "off").read(0) is None
    masks = find_masks(ImageFolder.create(images), "auto")
    assert masks.read(0) is None
    assert masks.origin == ""


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_folder_of_masks_is_read_by_the_images_names(images: Path, tmp_path: Path, suffix: str) -> None:
    source = ImageFolder.create(images)
    index = source.image_ids.index("lime/03.png")
    draw_half(tmp_path / "lime" / f"03{suffix}")
    masks = find_masks(source, str(tmp_path))
    mask = masks.read(index)
    assert mask is not None
    assert mask.dtype == bool
    assert mask[:, :8].all()
    assert not mask[:, 12:].any()
    assert masks.read(0) is None
    assert masks.origin.startswith("1 of 36 images")


def test_what_is_no_folder_of_masks_is_named(images: Path, tmp_path: Path) -> None:
    source = ImageFolder.create(images)
    with pytest.raises(DataError, match="is not a folder"):
        find_masks(source, str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"azure/00\.png"):
        find_masks(source, str(tmp_path))
    with pytest.raises(ConfigError, match="masks=download needs data=flowers102"):
        find_masks(source, "download")
