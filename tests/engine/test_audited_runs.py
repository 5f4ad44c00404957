"""A run's own audits, from end to end: an honest run passes, and one that peeks at the test part is found out."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from deepbloom import recipe
from deepbloom.commands import train as command
from deepbloom.config.data_settings import DataConfig
from deepbloom.config.settings import RunConfig
from deepbloom.engine.plan import Plan
from deepbloom.runs import folder as run_dir


def tiny(folder: Path) -> RunConfig:
    return recipe(
        "scratch_cnn",
        output_dir=str(folder),
        data={"num_classes": 2, "images_per_class": 10},
        augment="none",
        train={"epochs": 1, "batch_size": 7, "num_threads": 1, "precision": "fp32"},
    )


def test_the_audits_of_an_honest_run_pass(trained_run: Path) -> None:
    metrics = json.loads((trained_run / run_dir.METRICS).read_text())
    audit, provenance = metrics["audit"], run_dir.read_provenance(trained_run)
    assert audit["test"] == {"times_tested": 1, "reads_per_image": [1, 1], "read_before_testing": False}
    assert audit["split"]["in_two_splits"] == 0
    assert audit["freeze"]["declared"] == audit["freeze"]["in_optimizer"] == metrics["params"]["trainable"]
    assert audit["freeze"]["changed"] == audit["freeze"]["undeclared"] == audit["freeze"]["missing"] == []
    assert metrics["size_bytes"] == (trained_run / run_dir.MODEL).stat().st_size
    assert 0 < metrics["latency_ms"] < 60_000
    assert metrics["identity"] == provenance["identity"]
    assert metrics["split_fingerprint"] == metrics["identity"]["split_fingerprint"]


def test_a_run_that_looks_at_the_test_part_while_training_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault that is planted: validation chooses the best epoch on the test part."""
    honest = Plan.evaluation_batches
    monkeypatch.setattr(Plan, "evaluation_batches", lambda plan, pixels, _: honest(plan, pixels, plan.split.test))
    folder = command.train(tiny(tmp_path / "run"))
    audit = json.loads((folder / run_dir.METRICS).read_text())["audit"]
    assert audit["test"]["read_before_testing"] is True
    assert audit["test"]["reads_per_image"] == [4, 4]  # in the epoch, twice to calibrate, in the test


def test_a_run_resumes_only_with_the_images_it_was_started_with(images: Path, tmp_path: Path) -> None:
    photos = Path(shutil.copytree(images, tmp_path / "photos"))
    config = replace(tiny(tmp_path / "run"), data=DataConfig("imagefolder", root=str(photos)))
    folder = command.train(config)
    (folder / run_dir.METRICS).unlink()  # as if it had been stopped before its test
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    next(photos.rglob("*.png")).unlink()
    with pytest.raises(run_dir.RunError, match="holds a run with other images"):
        command.train(config)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
