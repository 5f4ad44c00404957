"""``deepbloom predict`` writes all of its files, whoever reads its output, and says what it could not classify."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import deepbloom as package
from deepbloom.commands.predict import PredictionRows

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


@pytest.mark.long
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


def test_python_gives_the_rows_of_the_command(deepbloom: Run, trained_run: Path, broken: Path, tmp_path: Path) -> None:
    deepbloom("predict", f"ckpt={trained_run}", f"image={broken}", f"output_dir={tmp_path / 'out'}")
    rows = package.predict(trained_run, broken)
    assert rows == json.loads((tmp_path / "out" / "predictions.json").read_text())
    in_memory = package.predict(trained_run, [Image.open(broken / "0.png"), broken / "2.png"])
    assert [row["top5"][0]["class_name"] for row in in_memory] == [rows[k]["top5"][0]["class_name"] for k in (0, 2)]
    assert in_memory[0]["top5"][0]["confidence"] == pytest.approx(rows[0]["top5"][0]["confidence"], abs=1e-4)


def test_rows_are_a_table_in_notebooks_with_names_escaped() -> None:
    guesses = [{"index": k, "class_name": name, "confidence": 0.5} for k, name in enumerate(("<b>rose", "a & b"))]
    rows = PredictionRows([{"path": "<script>.png", "error": "", "top5": guesses}])
    rows.append({"path": "x", "error": "Cannot read <x>.", "top5": []})
    shown = rows._repr_html_()
    assert shown.count("<tr>") == 3
    assert "<td>&lt;b&gt;rose</td><td>50.0%</td><td>a &amp; b 50.0%</td>" in shown
    assert "<td>Cannot read &lt;x&gt;.</td>" in shown
    assert "<script" not in shown


def test_the_package_lists_what_it_offers() -> None:
    check = "import sys, deepbloom; print(*dir(deepbloom)); assert 'torch' not in sys.modules"
    shown = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout.split()
    assert {"train", "load_model", "predict", "recipe"} <= set(shown)
