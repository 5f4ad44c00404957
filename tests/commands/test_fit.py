"""``data.fit``: whatever uses a network sees images as its training did."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import deepbloom as package
from deepbloom.cli import main as cli
from deepbloom.data.preprocessing import Preprocessing, preprocess
from deepbloom.demo.predictions import load_networks, predict_image
from deepbloom.engine.checkpoint import read_model
from deepbloom.engine.resolve import resolve
from small_data import SMALL

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def cropped_run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images of 48 x 40 pixels with ``data.fit=crop``."""
    folder = tmp_path_factory.mktemp("runs") / "cropped"
    arguments = ["model=scratch_cnn", "data=imagefolder", f"data.root={images}", f"output_dir={folder}"]
    code = cli.guarded(lambda: cli.dispatch(["train", *arguments, "data.fit=crop", *SMALL, "train.epochs=1"]))
    assert code == 0
    return folder


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """An image of 60 x 20 pixels."""
    path = tmp_path / "wide.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 60, 3), np.uint8)).save(path)
    return path


def test_python_sees_the_central_square(cropped_run: Path, wide: Path) -> None:
    with Image.open(wide) as image:
        square = image.crop((20, 0, 40, 20))
        stretched = preprocess(image.convert("RGB"), Preprocessing(144))
    inputs = package.load_model(cropped_run).preprocess(wide)
    inner = slice(12, -12)  # at the edge, resampling reads the pixels beside the square
    assert torch.equal(inputs[:, :, inner], preprocess(square, Preprocessing(144))[:, :, inner])
    assert not torch.allclose(inputs, stretched, atol=0.1)


def test_predict_and_demo_see_what_python_sees(deepbloom: Run, cropped_run: Path, wide: Path, tmp_path: Path) -> None:
    model = package.load_model(cropped_run)
    inputs = model.preprocess(wide)[None].contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        logits = model(inputs)[0].double()
    expected = (logits / read_model(cropped_run).temperature).softmax(0).max().item()
    assert deepbloom("predict", f"ckpt={cropped_run}", f"image={wide}", f"output_dir={tmp_path}")[0] == 0
    top5 = json.loads((tmp_path / "predictions.json").read_text())[0]["top5"]
    assert top5[0]["confidence"] == pytest.approx(expected, abs=2e-6)
    shown = predict_image(wide.read_bytes(), load_networks([str(cropped_run)], "cpu"), "gradcam")
    assert shown["networks"][0]["top5"] == top5


def test_a_heatmap_lies_on_the_central_square(deepbloom: Run, cropped_run: Path, wide: Path, tmp_path: Path) -> None:
    shown = predict_image(wide.read_bytes(), load_networks([str(cropped_run)], "cpu"), "gradcam")
    url = shown["networks"][0]["heatmap"]
    alpha = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))[..., 3]
    assert alpha.shape == (20, 60)
    assert alpha[:, 20:40].max() > 200
    assert not alpha[:, :20].any()
    assert not alpha[:, 40:].any()
    arguments = (f"ckpt={cropped_run}", f"image={wide}", f"output_dir={tmp_path}", "save_raw=true")
    assert deepbloom("gradcam", *arguments)[0] == 0
    assert np.load(tmp_path / "wide_gradcam.npy").shape == (144, 144)  # of the network's input


def test_eval_measures_what_the_run_measured(deepbloom: Run, cropped_run: Path, tmp_path: Path) -> None:
    assert deepbloom("eval", f"ckpt={cropped_run}", f"output_dir={tmp_path}")[0] == 0
    again, stored = (json.loads((folder / "metrics.json").read_text())["test"] for folder in (tmp_path, cropped_run))
    assert again == stored
    code, _, err = deepbloom("eval", f"ckpt={cropped_run}", "data.fit=pad")
    assert code == 2
    assert "was trained with data.fit=crop" in err


def test_the_fit_is_part_of_the_identity_and_does_not_read_the_images_again(images: Path) -> None:
    sources: dict = {}
    plans = [
        resolve(package.recipe("scratch_cnn", data={"name": "imagefolder", "root": str(images), "fit": fit}), sources)
        for fit in ("squash", "crop", "pad")
    ]
    assert len({plan.run_id for plan in plans}) == 3
    assert len(sources) == 1
    assert [plan.model_header()["preprocessing"]["fit"] for plan in plans] == ["squash", "crop", "pad"]
