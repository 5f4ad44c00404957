"""Several processes at once, and clocks that are wrong."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from children import Child, at_step, kill
from PIL import Image
from small_runs import outcome, settings

from deepbloom.commands.train import train
from deepbloom.data import pixel_cache
from deepbloom.data.cache_folder import cache_folder
from deepbloom.data.pixel_cache import open_pixels
from deepbloom.data.preprocessing import Preprocessing, resize
from deepbloom.data.sources.imagefolder import ImageFolder
from deepbloom.engine.checkpoint import STATE_KIND, read_tensors
from deepbloom.runs import files as atomic_files
from deepbloom.runs import folder as run_dir

SMALL = Preprocessing(size=8)
DAY = 86_400
STEPS = 4
"""In an epoch."""


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    return outcome(train(settings(images, tmp_path_factory.mktemp("whole") / "run")))


def eight_makers(source: ImageFolder, folder: Path, wait_for: int = 1) -> tuple[list[int], int]:
    """Return the exit codes of eight processes that need one cache, and how many of them began to make it.

    Each begins only where ``wait_for`` of them are about to, or after five seconds.
    """
    indices = np.arange(len(source))
    right = np.stack([resize(source.read(int(index)), SMALL) for index in indices])
    made = folder / "made"
    made.mkdir()
    honest = ImageFolder.read

    def work() -> None:
        def read(self: ImageFolder, index: int) -> Image.Image:
            (made / str(os.getpid())).touch()
            deadline = time.monotonic() + 5
            while len(list(made.iterdir())) < wait_for and time.monotonic() < deadline:
                time.sleep(0.01)
            return honest(self, index)

        ImageFolder.read = read
        pixels = open_pixels(source, SMALL, str(folder / "cache"), 1)
        assert np.array_equal(pixels.read(indices), right)

    children = [Child(work, folder / f"output{number}") for number in range(8)]
    return [child.wait() for child in children], len(list(made.iterdir()))


def test_eight_processes_that_need_one_cache_make_it_once(images: Path, tmp_path: Path, tally: Callable) -> None:
    codes, makers = eight_makers(ImageFolder.create(images), tmp_path)
    assert codes == [0] * 8
    assert makers == 1
    assert len(list((tmp_path / "cache").glob("*.pixels"))) == 1
    tally("processes at once", 8)


def test_without_the_lock_several_would_make_it_and_get_in_each_others_way(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_cache, "locked_folder", lambda folder: nullcontext(folder.mkdir(exist_ok=True)))
    codes, makers = eight_makers(ImageFolder.create(images), tmp_path, wait_for=2)
    assert makers > 1
    assert set(codes) != {0}


def test_eight_starts_of_one_run_give_one_result(images: Path, whole: dict, tmp_path: Path, tally: Callable) -> None:
    """One trains; the others stop with a message, or find it complete."""
    config = settings(images, tmp_path / "run")
    children = [Child(lambda: train(config), tmp_path / f"output{number}") for number in range(8)]
    codes = [child.wait(120) for child in children]
    assert set(codes) <= {0, 2}
    assert 0 in codes
    for code, child in zip(codes, children, strict=True):
        assert "Traceback" not in child.said()
        assert code == 0 or "Another process works" in child.said()
    assert outcome(tmp_path / "run") == whole
    tally("processes at once", 8)


def test_without_the_lock_two_would_train_in_one_folder(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    folder = atomic_files.make_folder(tmp_path / "run")
    with run_dir.exclusive(folder):
        held = Child(lambda: train(settings(images, folder, epochs=1)), tmp_path / "held")
        assert held.wait() == 2
        monkeypatch.setattr(fcntl, "flock", lambda *_: None)
        assert Child(lambda: train(settings(images, folder, epochs=1)), tmp_path / "free").wait() == 0


def test_where_the_holder_is_killed_another_takes_over(
    images: Path, whole: dict, tmp_path: Path, tally: Callable
) -> None:
    config = settings(images, tmp_path / "run")
    reached = tmp_path / "reached"

    def hang() -> None:
        reached.touch()
        time.sleep(60)

    def work() -> None:
        with at_step(hang, 5):
            train(config)

    holder = Child(work, tmp_path / "holder")
    deadline = time.monotonic() + 60
    while not reached.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    waiting = Child(lambda: train(config), tmp_path / "waiting")
    assert waiting.wait() == 2
    assert "Another process works" in waiting.said()
    os.kill(holder.pid, signal.SIGKILL)
    assert holder.wait() == -signal.SIGKILL
    train(config)
    assert outcome(tmp_path / "run") == whole
    tally("kills survived")


@pytest.mark.parametrize("shift", [-DAY, pytest.param(DAY, marks=pytest.mark.long)])
def test_a_clock_moved_by_a_day_changes_nothing(shift: int, images: Path, whole: dict, tmp_path: Path) -> None:
    """The clock jumps in the middle of a run, and the files of the run and the cache are dated a day off."""
    config = settings(images, tmp_path / "run")
    caches = cache_folder() / "pixels"
    honest, honest_ns = time.time, time.time_ns

    def jump() -> None:
        time.time = lambda: honest() + shift
        time.time_ns = lambda: honest_ns() + shift * 10**9
        for path in (*(tmp_path / "run").iterdir(), *caches.iterdir()):
            os.utime(path, (honest() + shift,) * 2)

    def work() -> None:
        with at_step(jump, 5), at_step(lambda: os.kill(os.getpid(), signal.SIGTERM), 9):
            train(config)

    assert Child(work, tmp_path / "output").wait() == 128 + signal.SIGTERM
    train(config)
    assert outcome(tmp_path / "run") == whole


@pytest.mark.parametrize(("clock", "saved_step"), [("monotonic", 8), ("wall", 4)])
def test_a_clock_moved_back_by_a_day_does_not_stop_the_saving(
    clock: str, saved_step: int, images: Path, tmp_path: Path, tally: Callable
) -> None:
    """The control asks the clock on the wall instead: of the steps after the jump nothing would be saved for a day."""
    config = settings(images, tmp_path / "run")
    honest = time.time

    def jump() -> None:
        time.time = lambda: honest() - DAY

    def work() -> None:
        if clock == "wall":
            time.monotonic = lambda: time.time()
        with at_step(jump, 5), at_step(kill, 9):
            train(config)

    assert Child(work, tmp_path / "output").wait() == -signal.SIGKILL
    _, header = read_tensors(tmp_path / "run" / run_dir.LAST, STATE_KIND)
    progress = header["progress"]
    assert len(progress["history"]) * STEPS + progress["step"] == saved_step
    if clock == "monotonic":
        tally("kills survived")
