"""Images of no use are found, one kind at a time, and good ones are not."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy.ndimage import gaussian_filter

from deepbloom.config.data_settings import DataConfig
from deepbloom.data.quality import judge_pixels, judge_size
from deepbloom.data.sources import load_source

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def flowers() -> list[np.ndarray]:
    source = load_source(DataConfig("synthetic", num_classes=5, images_per_class=3))
    return [np.array(source.read(index).resize((224, 224))) for index in range(0, len(source), 2)]


def test_good_images_have_no_problem(flowers: list[np.ndarray]) -> None:
    assert [judge_pixels(image) for image in flowers] == [{}] * len(flowers)


def test_each_kind_is_found(flowers: list[np.ndarray]) -> None:
    for image in flowers:
        assert list(judge_pixels((image * 0.15).astype(np.uint8))) in (["very dark"], ["near-empty"])
        assert list(judge_pixels(gaussian_filter(image, (5, 5, 0)))) == ["very blurred"]
    rng = np.random.default_rng(0)
    plain = (120 + rng.normal(0, 2, (224, 224, 3))).astype(np.uint8)
    assert list(judge_pixels(plain)) == ["near-empty"]
    assert list(judge_pixels((rng.random((224, 224, 3)) < 0.01) * np.uint8(255))) == ["very dark"]


@pytest.mark.parametrize(
    ("size", "kinds"),
    [
        ((500, 400), []),
        ((63, 80), ["tiny"]),
        ((64, 80), []),
        ((100, 301), ["odd aspect"]),
        ((10, 40), ["tiny", "odd aspect"]),
    ],
)
def test_sizes_by_hand(size: tuple[int, int], kinds: list[str]) -> None:
    assert list(judge_size(*size)) == kinds


def test_the_command_counts_and_lists_them(deepbloom: Run, images: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("azure", "lime"):
        (root / name).mkdir(parents=True)
        for number in range(4):
            noise = np.random.default_rng(number).integers(0, 256, (90, 100, 3), np.uint8)
            Image.fromarray(noise).save(root / name / f"{number}.png")
    Image.new("RGB", (400, 90), (3, 3, 3)).save(root / "lime" / "9.png")
    out = tmp_path / "out"
    code, printed, err = deepbloom("data", "data=imagefolder", f"data.root={root}", f"output_dir={out}")
    assert code == 0, err
    with open(out / "quality.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image_id"], row["problem"]) for row in rows] == [
        ("lime/9.png", "near-empty"),
        ("lime/9.png", "odd aspect"),
    ]
    assert "1 near-empty, 1 odd aspect" in printed


def test_metadata_do_not_matter(deepbloom: Run, images: Path, tmp_path: Path) -> None:
    """Pillow itself refuses a PNG with so much text; decoding leaves it out."""
    shutil.copytree(images, tmp_path / "photos")
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", "x" * 3_000_000, zip=True)
    Image.open(images / "azure" / "00.png").save(tmp_path / "photos" / "azure" / "00.png", pnginfo=text)
    data = ("data", "data=imagefolder", f"data.root={tmp_path / 'photos'}", f"output_dir={tmp_path / 'out'}")
    code, _, err = deepbloom(*data)
    assert code == 0, err
