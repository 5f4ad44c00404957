"""Files that are whole or as before, names that follow from the settings, and provenance."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepbloom import recipe
from deepbloom.config.data_settings import DataConfig, SplitConfig
from deepbloom.config.schema import from_dict
from deepbloom.config.settings import RunConfig, TrainConfig
from deepbloom.errors import ConfigError, RunError
from deepbloom.runs import files as atomic_files
from deepbloom.runs import folder as run_dir
from deepbloom.runs import parsing
from deepbloom.runs.identity import Identity

BASE = recipe("mini_resnet")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_litter(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    atomic_files.write_bytes(path, b"old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(RunError, match="No space left on device"):
        atomic_files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_json_with_a_number_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic_files.write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()


IDENTITY = Identity({"seed": 0, "train.epochs": 3, "dataset_fingerprint": "a"})


def test_the_default_folder_says_what_the_run_is() -> None:
    def folder(seed: int = 0, **split: int) -> str:
        config = replace(BASE, seed=seed, data=DataConfig("synthetic", split=SplitConfig(**split)))  # type: ignore[arg-type]
        return str(run_dir.default_folder(config, IDENTITY.run_id))

    assert folder() == f"outputs/mini_resnet-synthetic-s0-{IDENTITY.run_id}"
    assert folder(1, folds=5, fold=2) == f"outputs/mini_resnet-synthetic-s1-f2-{IDENTITY.run_id}"


def test_never_resuming_gives_each_process_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = replace(BASE, train=TrainConfig(resume="never"))
    first = run_dir.default_folder(config, "12345678")
    claimed = [run_dir.claim_folder(config, "12345678") for _ in range(3)]  # nothing written yet
    assert claimed == [first, first.with_name(f"{first.name}-2"), first.with_name(f"{first.name}-3")]
    assert run_dir.check_folder(claimed[1], config, IDENTITY) == "empty"


@pytest.fixture
def begun(tmp_path: Path) -> RunConfig:
    """The settings of a run whose folder holds its settings and nothing trained."""
    config = replace(BASE, output_dir=str(tmp_path))
    run_dir.write_settings(tmp_path, config, IDENTITY)
    return config


@pytest.mark.parametrize(("name", "state"), [(run_dir.LAST, "partial"), (run_dir.METRICS, "complete")])
def test_the_same_run_is_found_again_and_another_is_refused(
    name: str, state: str, begun: RunConfig, tmp_path: Path
) -> None:
    (tmp_path / name).touch()
    assert run_dir.check_folder(tmp_path, begun, IDENTITY) == state
    other = Identity({**IDENTITY.settings, "train.epochs": 4})
    longer = rf"complete after 3 epochs.*train\.epochs=1 model\.weights={tmp_path}"
    said = longer if state == "complete" else r"other settings: train\.epochs is 3 there and 4 now"
    with pytest.raises(RunError, match=said):
        run_dir.check_folder(tmp_path, begun, other)
    shorter = Identity({**IDENTITY.settings, "train.epochs": 2})
    with pytest.raises(RunError, match=r"train\.epochs is 3 there and 2 now"):
        run_dir.check_folder(tmp_path, begun, shorter)
    changed = Identity({**IDENTITY.settings, "dataset_fingerprint": "b"})
    with pytest.raises(RunError, match="holds a run with other images"):
        run_dir.check_folder(tmp_path, begun, changed)
    assert run_dir.read_provenance(tmp_path)["identity"] == IDENTITY.as_dict()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b"[" * 100_000, None])
@pytest.mark.parametrize("state", [run_dir.LAST, run_dir.PREVIOUS, run_dir.METRICS])
def test_a_run_whose_provenance_is_damaged_is_not_resumed(
    content: bytes | None, state: str, begun: RunConfig, tmp_path: Path
) -> None:
    path = tmp_path / run_dir.PROVENANCE
    path.unlink() if content is None else path.write_bytes(content)
    assert run_dir.check_folder(tmp_path, begun, IDENTITY) == "partial"  # nothing was trained yet: it is written again
    (tmp_path / state).touch()
    with pytest.raises(RunError, match=r"provenance\.json is damaged or missing"):
        run_dir.check_folder(tmp_path, begun, IDENTITY)


@pytest.mark.parametrize("name", [run_dir.LOCK, run_dir.LOG, run_dir.FAILED, run_dir.PLOTS])
def test_a_run_is_not_written_through_links(name: str, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("canary")
    folder = tmp_path / "run"
    config = replace(BASE, output_dir=str(folder))
    folder.mkdir()
    run_dir.write_settings(folder, config, IDENTITY)
    (folder / name).symlink_to(tmp_path / "victim")
    with pytest.raises(RunError, match=f"{name} is a link"):
        run_dir.check_folder(Path(str(config.output_dir)), config, IDENTITY)
    if name == run_dir.LOCK:
        with pytest.raises(OSError, match="symbolic links"), run_dir.exclusive(folder):
            pass
        assert not run_dir.is_running(folder)
    assert (tmp_path / "victim").read_text() == "canary"


def test_pipes_in_a_run_folder_make_nobody_wait(tmp_path: Path) -> None:
    config = replace(BASE, output_dir=str(tmp_path))
    for name in (run_dir.CONFIG, run_dir.FAILED, run_dir.PROVENANCE, run_dir.METRICS, run_dir.LOCK):
        os.mkfifo(tmp_path / name)
    assert run_dir.failure_reason(tmp_path) == ""
    assert run_dir.read_provenance(tmp_path) == {}
    assert not run_dir.is_running(tmp_path)
    with pytest.raises(RunError, match="or no file"):
        run_dir.check_folder(Path(str(config.output_dir)), config, IDENTITY)
    with pytest.raises(RunError, match="not a regular file"):
        parsing.load_json(tmp_path / run_dir.METRICS)


def test_a_giant_in_a_run_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / run_dir.METRICS).touch()
    os.truncate(tmp_path / run_dir.METRICS, 10**12)
    with pytest.raises(RunError, match="too large"):
        parsing.load_json(tmp_path / run_dir.METRICS)


def test_whether_a_run_is_running_is_seen_without_disturbing_it(tmp_path: Path) -> None:
    assert not run_dir.is_running(tmp_path)
    with run_dir.exclusive(tmp_path):
        assert run_dir.is_running(tmp_path)
        with pytest.raises(RunError, match="Another process"), run_dir.exclusive(tmp_path, wait_seconds=0):
            pass
    assert not run_dir.is_running(tmp_path)


def test_the_written_config_builds_the_same_settings(tmp_path: Path) -> None:
    config = recipe("scratch_cnn", seed=3, train={"epochs": 7})
    run_dir.write_settings(tmp_path, config, IDENTITY)
    assert from_dict(RunConfig, yaml.safe_load((tmp_path / "config.yaml").read_text())) == config


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"sed": 1}, "Did you mean 'seed'"),
        ({"seed": "1"}, "give a whole number"),
        ({"seed": True}, "give a whole number"),
        ({"train": {"epochs": 1.5}}, "give a whole number"),
        ({"train": {"epochs": 0}}, "at least 1"),
    ],
)
def test_settings_from_a_file_are_checked(content: dict, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        from_dict(RunConfig, content)


def test_states_are_told_apart(tmp_path: Path) -> None:
    assert run_dir.read_state(tmp_path) == "empty"
    for name, state in ((run_dir.CONFIG, "partial"), (run_dir.FAILED, "failed"), (run_dir.METRICS, "complete")):
        (tmp_path / name).touch()
        assert run_dir.read_state(tmp_path) == state


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="Choose another output_dir"):
        atomic_files.make_folder(tmp_path / "file" / "below")


def test_results_of_exported_files_are_named_by_run_and_file(tmp_path):
    assert run_dir.name_output(tmp_path / "outputs" / "A" / "model.safetensors") == "A"
    assert run_dir.name_output(tmp_path / "outputs" / "A" / "export-onnx-fp32" / "model.onnx") == "A-export-onnx-fp32"
