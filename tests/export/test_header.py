"""int8 files promise what their own predictions of validation images show, and nothing that the checkpoint's do."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepbloom.calibration.rejection import Rejection
from deepbloom.engine.checkpoint import read_model
from deepbloom.engine.predictor import Predictor
from deepbloom.engine.trained_data import prepare_trained_data
from deepbloom.export import verify, web
from deepbloom.export.formats import FORMATS, Job
from deepbloom.export.opening import open_exported
from deepbloom.export.sample import GivenPixels
from deepbloom.export.verify import Sample

pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
Run = Callable[..., tuple[int, str, str]]
LONG_OPENVINO = pytest.param("openvino", marks=pytest.mark.long)


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "PASSES", 2)
        patch.setattr(verify, "_peak", lambda _: None)
        patch.setattr(web, "read_runtime", lambda: ("const a=1;export{a as default};", b"binary"))
        yield


def own_confidences(predictor: Predictor, pixels: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, list[bool]]:
    """Confidences, the highest first, and whether each is of a correct prediction."""
    probabilities = predictor.probabilities(pixels)
    order = np.argsort(-probabilities.max(1), kind="stable")
    return probabilities.max(1)[order], (probabilities.argmax(1) == targets)[order].tolist()


@pytest.mark.parametrize("name", ["onnx", "web", LONG_OPENVINO])
def test_an_int8_file_holds_the_confidences_of_its_own_predictions(
    name: str, trained_run: Path, tmp_path: Path
) -> None:
    """Those of the checkpoint show a threshold of 0.8. The control, fp32, keeps them."""
    if name == "openvino":
        pytest.importorskip("nncf", reason="the extra 'openvino' is not installed")
    trained = read_model(trained_run)
    confidences = np.linspace(1, 0.5, 1000)
    stored = Rejection.from_validation(confidences, confidences > 0.8).as_header() | {"limit": 1.0}
    trained = replace(trained, header=trained.header | {"rejection": stored})
    pixels = np.random.default_rng(0).integers(0, 256, (70, 144, 144, 3), np.uint8)
    predictions = trained.logits(pixels).argmax(1)
    thresholds = {}
    for case, targets, precision in (
        ("right", predictions, "int8"),
        ("wrong", (predictions + 1) % 3, "int8"),
        ("control", predictions, "fp32"),
    ):
        folder = tmp_path / case
        folder.mkdir()
        sample = Sample(GivenPixels(pixels), np.arange(len(pixels)), targets, "validation split")
        job = Job(trained, precision, folder, lambda: pixels[:16], lambda: pixels[16:32], [], sample)
        exported = open_exported(FORMATS[name].write(job)[0])
        found = Rejection.read(exported.header)
        if case == "control":
            assert exported.header["rejection"] == stored
        else:
            expected, correct = own_confidences(exported, pixels, targets)
            np.testing.assert_allclose(found.confidences, expected, atol=1e-6)
            assert found.correct.tolist() == correct
            assert not found.unlike.any()
            assert {**exported.header, "rejection": 0} == {**json.loads(json.dumps(trained.header)), "rejection": 0}
        if name == "web":
            thresholds[case] = json.loads(re.search(r'"threshold": ([^,}]*)', (folder / web.PAGE).read_text())[1])
    if name == "web":
        assert thresholds == {"right": -1.0, "wrong": None, "control": pytest.approx(0.8, abs=0.01)}


@pytest.mark.parametrize("command", ["export precision=int8", "compress method=int8"])
def test_the_whole_validation_split_is_classified(
    command: str, trained_run: Path, deepbloom: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepbloom.export.compression.RUNTIMES", ("onnx",))
    monkeypatch.setattr(verify, "MOST_LOST", 1.0)
    code, _, err = deepbloom(*command.split(), f"ckpt={trained_run}", f"output_dir={tmp_path}")
    assert code == 0, err
    exported, trained = open_exported(tmp_path / "model.onnx"), read_model(trained_run)
    data = prepare_trained_data(str(trained_run), trained, {})
    pixels, targets = data.pixels.read(data.split.val), data.source.targets[data.split.val]
    found = Rejection.read(exported.header)
    expected, correct = own_confidences(exported, pixels, targets)
    np.testing.assert_allclose(found.confidences, expected, atol=1e-6)
    assert found.correct.tolist() == correct
    assert np.abs(found.confidences - Rejection.read(trained.header).confidences).max() > 1e-5


def test_an_int8_file_without_validation_images_is_refused_by_reject(
    trained_run: Path, images: Path, deepbloom: Run, tmp_path: Path
) -> None:
    """fp32, the control, gives the checkpoint's predictions and keeps its confidences; nothing is calibrated for it."""
    trained = read_model(trained_run)
    for precision, calibrated in (("int8", True), ("fp32", False)):
        folder = tmp_path / precision
        words = [f"ckpt={trained_run}", f"precision={precision}", f"image={images}", f"output_dir={folder}"]
        code, _, err = deepbloom("export", *words)
        assert code == 0, err
        found: dict[str, Any] = json.loads((folder / "export.json").read_text("utf-8"))
        header = open_exported(folder / "model.onnx").header
        assert [text in found["notes"][0] for text in ("calibrated", "reject=auto")] == [calibrated, calibrated]
        assert "compared with the checkpoint" in found["notes"][0]
        assert header.get("rejection") == (None if calibrated else trained.header["rejection"])
        predict = ["predict", f"ckpt={folder / 'model.onnx'}", f"image={images}", "reject=auto", "target=0.5"]
        code, _, err = deepbloom(*predict, f"output_dir={tmp_path / 'out'}")
        assert ("holds none" in err) == calibrated
        assert code == 2 or not calibrated
