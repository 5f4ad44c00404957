"""A run's own audits, from end to end: an honest run passes, and one that peeks at the test part is found out."""

import json
from pathlib import Path

import numpy as np
import pytest

from deepbloom import recipe
from deepbloom.commands import train as command
from deepbloom.config.settings import RunConfig
from deepbloom.engine import setup
from deepbloom.runs import files as atomic_files
from deepbloom.runs import folder as run_dir


def tiny(folder: Path) -> RunConfig:
    return recipe(
        "scratch_cnn",
        output_dir=folder,
        augment="none",
        train={"epochs": 1, "batch_size": 7, "num_threads": 1, "precision": "fp32"},
        **{"data.num_classes": 2, "data.images_per_class": 10},
    )


def test_the_audits_of_an_honest_run_pass(trained_run: Path) -> None:
    metrics = json.loads((trained_run / run_dir.METRICS).read_text())
    audit, provenance = metrics["audit"], run_dir.read_provenance(trained_run)
    assert audit["test"] == {"times_tested": 1, "reads_per_image": [1, 1], "read_before_testing": False}
    assert audit["split"]["in_two_parts"] == 0
    assert audit["freeze"]["declared"] == audit["freeze"]["in_optimizer"] == metrics["params"]["trainable"]
    assert audit["freeze"]["changed"] == audit["freeze"]["undeclared"] == audit["freeze"]["missing"] == []
    assert metrics["size_bytes"] == (trained_run / run_dir.MODEL).stat().st_size
    assert 0 < metrics["latency_ms"] < 60_000
    assert metrics["code_version"] == provenance["code_version"]
    assert metrics["split_fingerprint"] == provenance["split_fingerprint"]


def test_a_run_that_looks_at_the_test_part_while_training_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault that is planted: validation chooses the best epoch on the test part."""
    honest = command.prepare
    seen: list[np.ndarray] = []

    def remember(*arguments: object) -> object:
        data = honest(*arguments)
        seen.append(data.split.test)
        return data

    real = setup.evaluation_batches
    monkeypatch.setattr(command, "prepare", remember)
    monkeypatch.setattr(setup, "evaluation_batches", lambda pixels, _, *rest: real(pixels, seen[0], *rest))
    folder = command.train(tiny(tmp_path / "run"))
    audit = json.loads((folder / run_dir.METRICS).read_text())["audit"]
    assert audit["test"]["read_before_testing"] is True
    assert audit["test"]["reads_per_image"] == [2, 2]


def test_a_run_goes_on_only_with_the_images_it_was_begun_with(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = tiny(folder)
    atomic_files.make_folder(folder)
    run_dir.write_config(folder, config)
    run_dir.check_provenance(folder, {"split_fingerprint": "that of other images"})
    (folder / run_dir.LAST).touch()
    with pytest.raises(run_dir.RunError, match="another split fingerprint"):
        command.train(config)
    assert "split fingerprint" in (folder / run_dir.FAILED).read_text()
    assert run_dir.read_provenance(folder)["split_fingerprint"] == "that of other images"
