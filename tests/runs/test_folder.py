"""Files that are whole or as before, names that follow from the settings, and provenance."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from deepbloom import recipe
from deepbloom.config.schema import from_dict
from deepbloom.config.settings import (
    DataConfig,
    RunConfig,
    SplitConfig,
    TrainConfig,
)
from deepbloom.errors import ConfigError, RunError
from deepbloom.runs import files as atomic_files
from deepbloom.runs import folder as run_dir
from deepbloom.runs import parsing

BASE = recipe("mini_resnet")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_litter(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    atomic_files.write_bytes(path, b"old")

    def full(*_: object) -> None:
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


def test_the_default_folder_follows_from_what_decides_the_result() -> None:
    base = run_dir.default_folder(BASE)
    assert base == run_dir.default_folder(BASE)
    assert base == run_dir.default_folder(replace(BASE, train=TrainConfig(num_workers=3, checkpoint_seconds=1)))
    assert base == run_dir.default_folder(recipe("mini_resnet", augment="progressive_crop"))
    assert base != run_dir.default_folder(replace(BASE, seed=1))
    assert base != run_dir.default_folder(replace(BASE, train=TrainConfig(epochs=3)))
    assert run_dir.default_folder(replace(BASE, seed=1, model=recipe("scratch_cnn").model)).name.startswith(
        "scratch_cnn-synthetic-s1-"
    )


def test_never_resuming_gives_each_process_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = replace(BASE, train=TrainConfig(resume="never"))
    first = run_dir.default_folder(config)
    claimed = [run_dir.claim_folder(config) for _ in range(3)]  # nothing written yet: begun in the same moment
    assert claimed == [first, first.with_name(f"{first.name}-2"), first.with_name(f"{first.name}-3")]
    assert run_dir.check_folder(claimed[1], config) == "empty"


def test_the_name_tells_folds_apart_and_follows_from_split_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def folder(**split: int) -> Path:
        return run_dir.default_folder(replace(BASE, data=DataConfig("synthetic", split=SplitConfig(**split))))

    assert folder(folds=5, fold=2).name.startswith("mini_resnet-synthetic-s0-f2-")
    assert len({folder(), folder(seed=1), folder(folds=5), folder(folds=5, fold=1), folder(folds=4)}) == 5
    before = folder()
    monkeypatch.setattr(run_dir, "code_version", lambda: "other code")
    assert folder() != before


def test_a_run_of_other_code_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(BASE, output_dir=str(tmp_path))
    run_dir.write_config(tmp_path, config)
    run_dir.check_provenance(tmp_path, {})
    (tmp_path / run_dir.LAST).touch()
    assert run_dir.check_folder(tmp_path, config) == "partial"
    monkeypatch.setattr(run_dir, "code_version", lambda: "other code")
    with pytest.raises(RunError, match="other code of DeepBloom"):
        run_dir.check_folder(tmp_path, config)
    (tmp_path / run_dir.METRICS).touch()  # a complete run is left as it is
    assert run_dir.check_folder(tmp_path, config) == "complete"


def test_a_run_whose_images_changed_is_not_gone_on_with(tmp_path: Path) -> None:
    run_dir.check_provenance(tmp_path, {"split_fingerprint": "a"})
    run_dir.check_provenance(tmp_path, {"split_fingerprint": "b"})  # nothing was trained yet
    (tmp_path / run_dir.LAST).touch()
    run_dir.check_provenance(tmp_path, {"split_fingerprint": "b"})
    with pytest.raises(RunError, match="another split fingerprint"):
        run_dir.check_provenance(tmp_path, {"split_fingerprint": "c"})
    assert run_dir.read_provenance(tmp_path)["split_fingerprint"] == "b"


def test_with_the_state_before_only_changed_images_are_refused_too(tmp_path: Path) -> None:
    """A crash between the two renames of a write leaves no other."""
    run_dir.check_provenance(tmp_path, {"split_fingerprint": "a"})
    (tmp_path / run_dir.PREVIOUS).touch()
    with pytest.raises(RunError, match="another split fingerprint"):
        run_dir.check_provenance(tmp_path, {"split_fingerprint": "b"})
    assert run_dir.read_provenance(tmp_path)["split_fingerprint"] == "a"


def test_with_the_state_before_only_other_code_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(BASE, output_dir=str(tmp_path))
    run_dir.write_config(tmp_path, config)
    run_dir.check_provenance(tmp_path, {})
    (tmp_path / run_dir.PREVIOUS).touch()
    monkeypatch.setattr(run_dir, "code_version", lambda: "other code")
    with pytest.raises(RunError, match="other code of DeepBloom"):
        run_dir.check_folder(tmp_path, config)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b"[" * 100_000, None])
def test_a_run_whose_provenance_is_damaged_is_not_gone_on_with(content: bytes | None, tmp_path: Path) -> None:
    facts = {"split_fingerprint": "a"}
    run_dir.check_provenance(tmp_path, facts)
    path = tmp_path / run_dir.PROVENANCE
    path.unlink() if content is None else path.write_bytes(content)
    (tmp_path / run_dir.LAST).touch()
    with pytest.raises(RunError, match=r"provenance\.json is damaged or gone"):
        run_dir.check_provenance(tmp_path, facts)
    (tmp_path / run_dir.LAST).unlink()
    run_dir.check_provenance(tmp_path, facts)  # nothing was trained yet: it is written anew


@pytest.mark.parametrize("name", [run_dir.LOCK, run_dir.LOG, run_dir.FAILED, run_dir.PLOTS])
def test_a_run_is_not_written_through_links(name: str, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("canary")
    folder = tmp_path / "run"
    config = replace(BASE, output_dir=str(folder))
    folder.mkdir()
    run_dir.write_config(folder, config)
    (folder / name).symlink_to(tmp_path / "victim")
    with pytest.raises(RunError, match=f"{name} is a link"):
        run_dir.open_run(config)
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
        run_dir.open_run(config)
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
    config = replace(BASE, seed=3, model=recipe("scratch_cnn").model, train=TrainConfig(epochs=7))
    run_dir.write_config(tmp_path, config)
    assert from_dict(RunConfig, yaml.safe_load((tmp_path / "config.yaml").read_text())) == config


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"sed": 1}, "Did you mean 'seed'"),
        ({"seed": "1"}, "type int"),
        ({"seed": True}, "type int"),
        ({"train": {"epochs": 1.5}}, "type int"),
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
