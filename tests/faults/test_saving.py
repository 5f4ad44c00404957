"""Writes that fail or are cut off: what was saved before still loads, and the user is told what to do."""

import copy
import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from children import Child, at_step, at_write, full_disk, kill
from small_runs import outcome
from small_runs import settings as small_settings

from deepbloom.cli import main as cli
from deepbloom.commands.train import train
from deepbloom.config.settings import RunConfig
from deepbloom.engine.checkpoint import STATE_KIND, read_tensors
from deepbloom.errors import RunError
from deepbloom.report.run_plots import open_figure
from deepbloom.runs import files as atomic_files
from deepbloom.runs import folder as run_dir

SOME = (3, 22, 50, 71)
"""Steps of writing at which the quick tests plant their faults; `at_write` counts them."""
BEFORE_THE_FIRST_STATE = 14
"""Steps up to the renaming of the first state: the settings, where the run comes from, and the state itself."""


def settings(images: Path, folder: Path) -> RunConfig:
    """Return the settings of a run of four steps in two epochs."""
    return small_settings(images, folder, epochs=2, batch_size=16)


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    return outcome(train(settings(images, tmp_path_factory.mktemp("whole") / "run")))


def state_loads(folder: Path) -> bool:
    """Return whether a saved state can be read; the first write of all has none before it."""
    newest = folder / run_dir.LAST
    path = newest if newest.exists() else folder / run_dir.PREVIOUS
    if not path.exists():
        return False
    read_tensors(path, STATE_KIND)
    return True


def assert_ended_as(whole: dict, folder: Path) -> None:
    """Compare with a run that never stopped; after a fault in the test or behind it, the test was a second one.

    A fault behind ``metrics.json`` leaves the state before, which nobody needs any more.
    """
    found, expected = outcome(folder), copy.deepcopy(whole)
    found["files"] = [name for name in found["files"] if name != run_dir.PREVIOUS]
    assert found["metrics"]["audit"]["test"].pop("times_tested") in (1, 2)
    assert expected["metrics"]["audit"]["test"].pop("times_tested") == 1
    assert found == expected


def fail_at(number: int, images: Path, whole: dict, folder: Path, capsys: pytest.CaptureFixture) -> bool:
    """Run with a full disk at one step of writing, then resume; return False where the run has no such step."""
    config = settings(images, folder)
    with at_write(full_disk, number) as calls:
        code = cli.guarded(lambda: train(config))
    err = capsys.readouterr().err
    if calls[0] < number:
        assert code == 0
        return False
    assert code == 2, err
    assert "No space left on device" in err
    assert "is unchanged" in err
    assert "start the same command again" in err
    assert "Traceback" not in err
    assert not list(folder.glob(".*.tmp"))
    assert state_loads(folder) is (number > BEFORE_THE_FIRST_STATE)
    train(config)
    assert_ended_as(whole, folder)
    return True


def crash_at(number: int, images: Path, whole: dict, folder: Path) -> bool:
    """Run with a power cut at one step of writing, then resume; return False where the run has no such step."""
    config = settings(images, folder)

    def work() -> None:
        with at_write(kill, number):
            train(config)

    if Child(work, folder.with_name(f"{folder.name}.output")).wait() == 0:
        return False
    assert state_loads(folder) is (number > BEFORE_THE_FIRST_STATE)
    train(config)
    assert_ended_as(whole, folder)
    return True


@pytest.mark.parametrize("number", SOME)
def test_a_write_that_fails_loses_nothing(
    number: int, images: Path, whole: dict, tmp_path: Path, capsys: pytest.CaptureFixture, tally: Callable
) -> None:
    assert fail_at(number, images, whole, tmp_path / "run", capsys)
    tally("writes failed")


@pytest.mark.parametrize("number", SOME[1:2])
def test_a_crash_between_two_steps_of_a_write_loses_nothing(
    number: int, images: Path, whole: dict, tmp_path: Path, tally: Callable
) -> None:
    assert crash_at(number, images, whole, tmp_path / "run")
    tally("kills survived")


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_every_write_that_fails_loses_nothing(
    images: Path, whole: dict, tmp_path: Path, capsys: pytest.CaptureFixture, tally: Callable
) -> None:
    number = 1
    while fail_at(number, images, whole, tmp_path / str(number), capsys):
        tally("writes failed")
        number += 1
    assert number > max(SOME)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_crash_between_any_two_steps_of_writing_loses_nothing(
    images: Path, whole: dict, tmp_path: Path, tally: Callable
) -> None:
    number = 1
    while crash_at(number, images, whole, tmp_path / str(number)):
        tally("kills survived")
        number += 1
    assert number > max(SOME)


def test_a_write_in_place_would_lose_the_state(images: Path, tmp_path: Path) -> None:
    """The control: without the file beside the target, a crash half way leaves no state that can be read."""
    config = settings(images, tmp_path / "run")

    states = []

    def in_place(path: Path, content: bytes, previous: Path | None = None) -> None:
        states.append(path.name == run_dir.LAST)
        if sum(states) == 3:
            path.write_bytes(content[: len(content) // 2])
            kill()
        path.write_bytes(content)

    def work() -> None:
        atomic_files.write_bytes = in_place
        train(config)

    assert Child(work, tmp_path / "output").wait() == -signal.SIGKILL
    with pytest.raises(Exception, match="damaged"):
        state_loads(tmp_path / "run")


def test_a_folder_that_vanishes_is_told(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture, tally: Callable
) -> None:
    with at_step(lambda: shutil.rmtree(tmp_path / "run"), 3):
        code = cli.guarded(lambda: train(settings(images, tmp_path / "run")))
    err = capsys.readouterr().err
    assert code == 2
    assert f"{tmp_path / 'run'} is gone" in err
    assert "Traceback" not in err
    tally("writes failed")


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_told_before_any_training(
    error: int, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error), str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    with at_step(kill, 1):
        code = cli.guarded(lambda: train(settings(images, tmp_path / "run")))
    assert code == 2
    assert os.strerror(error) in capsys.readouterr().err


# A real file system that fills up, where a test may mount one


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def test_a_disk_that_is_really_full_loses_nothing(
    images: Path, whole: dict, small_disk: Path, capsys: pytest.CaptureFixture, tally: Callable
) -> None:
    config = settings(images, small_disk / "run")

    def fill() -> None:
        (small_disk / "other").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 4096))

    with at_step(fill, 3):
        code = cli.guarded(lambda: train(config))
    err = capsys.readouterr().err
    assert code == 2
    assert "No space left on device" in err
    assert "Traceback" not in err
    assert state_loads(small_disk / "run")
    (small_disk / "other").unlink()
    remount(small_disk, "size=8m")
    train(config)
    assert outcome(small_disk / "run") == whole
    tally("writes failed")


def test_a_disk_that_turns_read_only_loses_nothing(
    images: Path, whole: dict, small_disk: Path, capsys: pytest.CaptureFixture, tally: Callable
) -> None:
    remount(small_disk, "size=8m")
    config = settings(images, small_disk / "run")

    def turn() -> None:  # the log is open for writing, so the disk is covered by a read-only view of itself
        subprocess.run(["mount", "--bind", small_disk, small_disk], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", small_disk], check=True)

    with at_step(turn, 3):
        code = cli.guarded(lambda: train(config))
    err = capsys.readouterr().err
    subprocess.run(["umount", "-l", small_disk], check=True)
    assert code == 2
    assert "Read-only file system" in err
    assert "Traceback" not in err
    assert state_loads(small_disk / "run")
    train(config)
    assert outcome(small_disk / "run") == whole
    tally("writes failed")


def test_a_figure_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, tally: Callable) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    for number in (1, 2, 3, 4):
        with at_write(full_disk, number), pytest.raises(RunError, match="No space left"), open_figure(path, 2, 2):
            pass
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]
        tally("writes failed")
    with open_figure(path, 2, 2):
        pass
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_contact_sheet_that_cannot_be_written_leaves_the_old_one(
    images: Path, tmp_path: Path, deepbloom: Callable, tally: Callable
) -> None:
    path, line = tmp_path / "contact_sheet.png", ["data", "data=imagefolder", f"data.root={images}"]
    assert deepbloom(*line, f"output_dir={tmp_path}")[0] == 0  # images are cached from here on
    path.write_bytes(b"old")
    with at_write(full_disk, 5 + 2):  # counts.csv is written before
        code, _, err = deepbloom(*line, f"output_dir={tmp_path}")
    assert code == 2
    assert "contact_sheet.png: No space left on device" in err
    assert path.read_bytes() == b"old"
    tally("writes failed")


def test_no_other_error_is_taken_for_a_full_disk(capsys: pytest.CaptureFixture) -> None:
    def bug() -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    assert cli.guarded(bug) == 1
    assert cli.guarded(full_disk) == 2
    assert "Traceback" in capsys.readouterr().err
