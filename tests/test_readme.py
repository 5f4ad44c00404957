"""The Python snippet of the README does what ``deepbloom predict`` does, on images of any kind."""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import deepbloom as package

README = Path(__file__).parents[1] / "README.md"


def snippet() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    return str(code)


def write(kind: str, source: Path, path: Path) -> None:
    with Image.open(source) as opened:
        image = opened.convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    if kind == "orientation 6":
        image.transpose(Image.Transpose.ROTATE_90).save(path, "JPEG", exif=exif)
    elif kind == "16 bits":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(path, "PNG")
    elif kind == "transparent":
        pixels = np.dstack([np.asarray(image), np.full(image.size[::-1], 255, np.uint8)])
        pixels[: len(pixels) // 2] = 0  # black under full transparency
        Image.fromarray(pixels).save(path, "PNG")
    else:
        image.save(path, "JPEG")


@pytest.mark.parametrize("kind", ["plain", "orientation 6", "16 bits", "transparent"])
def test_the_snippet_agrees_with_predict(
    kind: str,
    deepbloom: Callable[..., Any],
    trained_run: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(kind, min(images.rglob("*.png")), tmp_path / "flower.jpg")
    deepbloom("predict", f"ckpt={trained_run}", "image=flower.jpg", "output_dir=out")
    (row,) = csv.DictReader((tmp_path / "out" / "predictions.csv").open(encoding="utf-8"))

    monkeypatch.setattr(package, "train", lambda settings: trained_run, raising=False)
    space: dict[str, Any] = {}
    exec(snippet(), space)
    assert capsys.readouterr().out.strip() == row["class_name"]
    model = space["model"]
    inputs = [space["inputs"], model.preprocess(Path("flower.jpg"))[None]]
    with Image.open("flower.jpg") as opened, Image.open("flower.jpg") as loaded:
        loaded.load()
        inputs += [model.preprocess(image)[None] for image in (opened, loaded)]
    for given in inputs:
        probabilities = (model(given).detach() / model.temperature).softmax(1)[0]
        assert float(probabilities.max()) == pytest.approx(float(row["confidence"]), abs=2e-6)
        assert model.classes[probabilities.argmax()] == row["class_name"]
    assert space["maps"].maps.shape[1:] == inputs[0].shape[2:]
