"""The end of a run: its confidences are calibrated on validation, everywhere alike, and predictions stay."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import deepbloom as package
from deepbloom.calibration.temperature import fit_temperature
from deepbloom.config.data_settings import DataConfig
from deepbloom.data.dataset import prepare
from deepbloom.engine.checkpoint import MODEL_KIND, read_model, read_tensors, write_tensors
from deepbloom.errors import CheckpointError
from deepbloom.metrics import expected_calibration_error, softmax
from deepbloom.runs import folder as run_dir

Run = Callable[..., tuple[int, str, str]]


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_temperature_is_that_of_the_validation_images(trained_run: Path, images: Path) -> None:
    trained = read_model(trained_run)
    data = prepare(DataConfig("imagefolder", root=str(images)), trained.preprocessing, 1)
    logits = trained.all_logits(data.pixels, data.split.val)
    found = fit_temperature(logits, data.source.targets[data.split.val])
    assert trained.temperature == pytest.approx(found, rel=1e-3)
    assert trained.temperature != 1
    metrics = json.loads((trained_run / run_dir.METRICS).read_text())
    assert metrics["test"]["calibration"]["temperature"] == trained.temperature


def test_confidences_are_calibrated_everywhere_alike(
    deepbloom: Run, trained_run: Path, images: Path, tmp_path: Path
) -> None:
    image = sorted((images / "lime").iterdir())[0]
    network = package.load_model(trained_run)
    with torch.inference_mode():
        logits = network(network.preprocess(image)[None]).numpy()
    wanted = softmax(logits, network.temperature).max()
    assert deepbloom("predict", f"ckpt={trained_run}", f"image={image}", f"output_dir={tmp_path / 'p'}")[0] == 0
    assert float(rows(tmp_path / "p" / "predictions.csv")[0]["confidence"]) == pytest.approx(wanted, abs=1e-5)
    assert softmax(logits).max() != pytest.approx(wanted, abs=1e-3)

    assert deepbloom("eval", f"ckpt={trained_run}", f"output_dir={tmp_path / 'e'}")[0] == 0
    for again, before in zip(
        rows(tmp_path / "e" / "predictions.csv"), rows(trained_run / "predictions.csv"), strict=True
    ):
        assert float(again.pop("confidence")) == pytest.approx(float(before.pop("confidence")), abs=1e-5)
        assert again == before
    scores = json.loads((tmp_path / "e" / "metrics.json").read_text())["test"]["calibration"]["after"]
    confidences = [float(row["confidence"]) for row in rows(trained_run / "predictions.csv")]
    correct = [row["target"] == row["prediction"] for row in rows(trained_run / "predictions.csv")]
    error = expected_calibration_error(confidences, correct)
    assert scores["expected_calibration_error"]["value"] == pytest.approx(error, abs=1e-4)


def test_the_stored_probabilities_are_those_of_the_table(trained_run: Path) -> None:
    stored = np.load(trained_run / run_dir.PROBABILITIES)["probabilities"]
    confidences = [float(row["confidence"]) for row in rows(trained_run / run_dir.PREDICTIONS)]
    np.testing.assert_allclose(stored.max(1), confidences, atol=1e-3)
    assert (trained_run / "plots" / "calibration.png").is_file()


@pytest.mark.parametrize("value", [0.0, -2, "hot", None])
def test_a_checkpoint_with_a_broken_temperature_is_refused(trained_run: Path, tmp_path: Path, value: object) -> None:
    tensors, header = read_tensors(trained_run / run_dir.MODEL, MODEL_KIND)
    write_tensors(tmp_path / "m.safetensors", tensors, header | {"temperature": value})
    with pytest.raises(CheckpointError, match="temperature"):
        read_model(tmp_path / "m.safetensors")


def test_a_checkpoint_of_an_earlier_version_has_none(trained_run: Path, tmp_path: Path) -> None:
    tensors, header = read_tensors(trained_run / run_dir.MODEL, MODEL_KIND)
    del header["temperature"]
    write_tensors(tmp_path / "m.safetensors", tensors, header)
    assert package.load_model(tmp_path / "m.safetensors").temperature == 1
