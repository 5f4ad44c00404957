"""SIGINT and SIGTERM at every phase: the contract's exit code, the state saved, no process left behind."""

import copy
import io
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from children import Child, Fault, at_step, at_validation, at_write
from small_runs import outcome, settings

from deepbloom import exit_codes
from deepbloom.commands import train as results
from deepbloom.commands.train import train
from deepbloom.data.sources import flowers102
from deepbloom.data.sources.imagefolder import ImageFolder
from deepbloom.engine import state as state_module
from deepbloom.engine.checkpoint import STATE_KIND, read_tensors
from deepbloom.runs import folder as run_dir

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def send(number: int) -> Fault:
    return lambda: os.kill(os.getpid(), number)


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    return outcome(train(settings(images, tmp_path_factory.mktemp("whole") / "run")))


@pytest.mark.parametrize(
    ("phase", "number"),
    [
        pytest.param((at_step, 6), signal.SIGINT, id="epoch-SIGINT"),
        pytest.param((at_step, 6), signal.SIGTERM, id="epoch-SIGTERM"),
        pytest.param((at_validation, 2), signal.SIGINT, id="validation-SIGINT"),
        pytest.param((at_validation, 2), signal.SIGTERM, id="validation-SIGTERM", marks=pytest.mark.long),
        pytest.param((at_write, 40), signal.SIGINT, id="save-SIGINT", marks=pytest.mark.long),
        pytest.param((at_write, 40), signal.SIGTERM, id="save-SIGTERM"),
    ],
)
def test_a_signal_in_training_saves_and_goes_on_later(
    phase: tuple, number: int, images: Path, whole: dict, tmp_path: Path, tally: Callable
) -> None:
    config = settings(images, tmp_path / "run", checkpoint_seconds=0.0 if phase[0] is at_write else 1000.0)

    def work() -> None:
        with phase[0](send(number), phase[1]):
            train(config)

    child = Child(work, tmp_path / "output")
    assert child.wait() == 128 + number
    assert "the state is saved. Run the same command to resume" in child.said()
    assert "Traceback" not in child.said()
    _, header = read_tensors(tmp_path / "run" / run_dir.LAST, STATE_KIND)
    assert (header["progress"]["epoch"], header["progress"]["step"]) != (1, 0)
    assert not (tmp_path / "run" / run_dir.METRICS).exists()
    train(config)
    assert outcome(tmp_path / "run") == whole
    tally("signals answered")


@pytest.mark.parametrize(
    ("place", "number"), [(1, signal.SIGINT), (6, signal.SIGTERM)], ids=["opening", "syncing the folder"]
)
def test_a_signal_in_the_last_save_is_not_swallowed(
    place: int,
    number: int,
    images: Path,
    whole: dict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tally: Callable,
) -> None:
    config = settings(images, tmp_path / "run", checkpoint_seconds=1000.0)
    honest = state_module.write_tensors

    def write(path: Path, tensors: dict, header: dict, *rest: Path) -> None:
        last = path.name == run_dir.LAST and header["progress"]["epoch"] > config.train.epochs
        with at_write(send(number), place if last else 0):
            honest(path, tensors, header, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(state_module, "write_tensors", write)
        child = Child(lambda: train(config), tmp_path / "output")
        assert child.wait() == 128 + number, child.said()
    assert "Stopped before the test; the state is saved. Run the same command to resume" in child.said()
    assert not (tmp_path / "run" / run_dir.METRICS).exists()
    with at_step(lambda: pytest.fail("trained again"), 1):
        train(config)
    assert outcome(tmp_path / "run") == whole
    tally("signals answered")


@pytest.mark.parametrize(("workers", "number"), [(0, signal.SIGINT), (2, signal.SIGTERM)])
def test_a_signal_while_images_are_decoded_leaves_no_half_cache(
    workers: int, number: int, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable
) -> None:
    config = settings(images, tmp_path / "run", pixel_cache=str(tmp_path / "cache"), num_workers=workers)
    honest, count = ImageFolder.read, [0]

    def read(source: ImageFolder, index: int) -> object:
        count[0] += 1
        if count[0] == 9:
            send(number)()
        return honest(source, index)

    with monkeypatch.context() as patch:
        patch.setattr(ImageFolder, "read", read)
        child = Child(lambda: train(config), tmp_path / "output")
        assert child.wait() == 128 + number
    assert "deepbloom: stopped." in child.said()
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name != ".lock"]
    train(config)
    tally("signals answered")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_the_test_at_the_end_repeats_only_the_test(
    number: int, images: Path, whole: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable
) -> None:
    config = settings(images, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(results, "plot_history", lambda *_: send(number)())
        assert Child(lambda: train(config), tmp_path / "output").wait() == 128 + number
    with at_step(lambda: pytest.fail("trained again"), 1):
        train(config)
    repeated, once = outcome(tmp_path / "run"), copy.deepcopy(whole)
    assert repeated["metrics"]["audit"]["test"].pop("times_tested") == 2  # and says so
    assert once["metrics"]["audit"]["test"].pop("times_tested") == 1
    assert repeated == once
    tally("signals answered")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_a_download_keeps_no_part_of_it(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable
) -> None:
    class Answer(io.BytesIO):
        length = 5000

        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                send(number)()
            return super().read(100)

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Answer(b"x" * 5000))
    child = Child(lambda: flowers102.Flowers102.create(tmp_path), tmp_path / "output")
    assert child.wait() == 128 + number
    assert [path.name for path in (tmp_path / "flowers-102").iterdir()] == [".lock"]
    tally("signals answered")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_libraries_are_imported_leaves_with_its_code(
    number: int, tmp_path: Path, tally: Callable
) -> None:
    script = (
        "import os, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'torch':\n"
        f"            os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from deepbloom.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "train", "model=scratch_cnn"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 128 + number
    assert done.stderr.strip() == "deepbloom: stopped."
    assert list(tmp_path.iterdir()) == []
    tally("signals answered")


@pytest.mark.parametrize("number", SIGNALS)
def test_without_the_handler_sigterm_would_leave_without_a_word(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the tests above."""
    from contextlib import nullcontext

    monkeypatch.setattr(exit_codes, "StopRequest", nullcontext)
    signal_default = signal.getsignal(number)
    signal.signal(number, signal.SIG_DFL)
    try:
        child = Child(send(number), tmp_path / "output")
        assert child.wait() == -number
    finally:
        signal.signal(number, signal_default)
    assert child.said() == ""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_leaves_at_once(
    number: int, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable
) -> None:
    """The first one waits for a save that takes a minute."""
    sent, saving, saved = tmp_path / "sent", tmp_path / "saving", tmp_path / "saved"

    def send_and_say() -> None:
        sent.touch()
        send(number)()

    def save(_: state_module.TrainState) -> None:
        if sent.exists():
            saving.touch()
            time.sleep(60)
            saved.touch()

    monkeypatch.setattr(state_module.TrainState, "save", save)

    def work() -> None:
        with at_step(send_and_say, 2):
            train(settings(images, tmp_path / "run"))

    child = Child(work, tmp_path / "output")
    deadline = time.monotonic() + 30
    while not saving.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, number)
    assert child.wait() == 128 + number
    assert not saved.exists()
    tally("signals answered")
