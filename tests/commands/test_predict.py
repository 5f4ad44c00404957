"""``deepbloom predict`` writes all of its files, whoever reads its output, and says what it could not classify."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def broken(images: Path, tmp_path: Path) -> Path:
    """A folder of two images that can be read and one that cannot."""
    folder = tmp_path / "some"
    folder.mkdir()
    for number, image in enumerate(sorted((images / "lime").iterdir())[:3]):
        shutil.copy(image, folder / f"{number}.png")
    (folder / "1.png").write_bytes(b"no image")
    return folder


def test_a_reader_that_leaves_costs_no_file(trained_run: Path, images: Path, tmp_path: Path) -> None:
    """As ``predict … | head -1`` does, here before the first line."""
    read, write = os.pipe()
    arguments = [f"ckpt={trained_run}", f"image={images}", f"output_dir={tmp_path / 'out'}"]
    command = [sys.executable, "-m", "deepbloom", "predict", *arguments]
    process = subprocess.Popen(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(read)
    os.close(write)
    _, errors = process.communicate()
    assert (process.returncode, "Error" in errors) == (0, False)
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 36
    assert (tmp_path / "out" / "predictions.json").is_file()


def test_images_that_cannot_be_read_are_counted(
    deepbloom: Run, trained_run: Path, broken: Path, tmp_path: Path
) -> None:
    code, out, err = deepbloom("predict", f"ckpt={trained_run}", f"image={broken}", f"output_dir={tmp_path / 'out'}")
    assert code == 0
    assert "1 of 3 images cannot be classified" in err
    assert out.count(".png\n") == 2


def test_no_image_that_can_be_read_is_an_error_with_their_number(
    deepbloom: Run, trained_run: Path, broken: Path, tmp_path: Path
) -> None:
    for image in ("0.png", "2.png"):
        (broken / image).write_bytes(b"neither")
    (tmp_path / "out").mkdir()
    code, out, err = deepbloom("predict", f"ckpt={trained_run}", f"image={broken}", f"output_dir={tmp_path / 'out'}")
    assert (code, out) == (2, "")
    assert "None of 3 images can be classified" in err
    with (tmp_path / "out" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert all(row["error"] and not row["prediction"] for row in rows)
    code, _, err = deepbloom("gradcam", f"ckpt={trained_run}", f"image={broken}", f"output_dir={tmp_path / 'maps'}")
    assert code == 2
    assert "None of 3 images can be read" in err
