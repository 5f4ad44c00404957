"""A run that is killed and started again ends in the same bits as one that was never killed."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from children import PLACES, Child, kill
from small_runs import outcome, settings

from deepbloom.commands.train import train
from deepbloom.engine import state as state_module
from deepbloom.engine import train as loop
from deepbloom.engine.checkpoint import STATE_KIND, read_tensors
from deepbloom.engine.feature_cache import make_features
from deepbloom.errors import CheckpointError
from deepbloom.runs import folder as run_dir

VARIANTS: dict[str, dict[str, Any]] = {
    "averaged and mixed": {},
    "two workers, no pixel cache": {"num_workers": 2, "pixel_cache": "off", "ema_decay": 0.0, "mixup": 0.0},
    "two workers, averaged, weighted classes": {"num_workers": 2, "mixup": 0.0, "balance": "weights"},
    "features computed once, balanced classes": {
        "model": "tiny_partial",
        "num_workers": 2,
        "mixup": 0.0,
        "balance": "sampling",
    },
    "features computed in every step": {"model": "tiny_partial", "feature_cache": "off", "ema_decay": 0.0},
    "saved now and then": {"checkpoint_seconds": 3.0},
}
"""The settings by what they exercise."""
LAST_NUMBER = {"step": 12, "validation": 3, "save": 70}
"""A whole run has 12 steps and 3 validations, and more than 70 steps of writing."""


def moments() -> list[tuple[str, tuple[tuple[str, int], ...]]]:
    """Return 30 pairs of settings and places of kills.

    With all settings, one kill in every place and two runs that are killed twice, soon after they went on.
    """
    draw = random.Random(20240)
    chosen: list[tuple[str, tuple[tuple[str, int], ...]]] = []
    for name in VARIANTS:
        chosen += [(name, ((place, draw.randint(1, last)),)) for place, last in LAST_NUMBER.items()]
        for second in ("step", "save"):
            chosen.append((name, (("step", draw.randint(2, 7)), (second, draw.randint(1, 4)))))
    return chosen


@pytest.fixture(autouse=True)
def _looks_as_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a second pass with every look at the clock, so that the same steps are saved on every machine."""
    monkeypatch.setattr(state_module, "time", SimpleNamespace(monotonic=itertools.count().__next__))


@pytest.fixture(scope="module")
def uninterrupted(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict]:
    """What a run without a stop leaves, by the name of its settings."""
    known: dict[str, dict] = {}

    def run(name: str) -> dict:
        if name not in known:
            known[name] = outcome(train(settings(images, tmp_path_factory.mktemp("whole") / "run", **VARIANTS[name])))
        return known[name]

    return run


def killed(config: Any, place: str, number: int, output: Path) -> int:
    def work() -> None:
        with PLACES[place](kill, number):
            train(config)

    return Child(work, output).wait()


def test_time_is_counted_once_for_the_result_and_in_full_for_all_attempts(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*arguments: Any) -> Any:
        return replace(make_features(*arguments), seconds=1000.0)

    monkeypatch.setattr(loop, "make_features", slow)
    config = settings(images, tmp_path / "run", model="tiny_partial", mixup=0.0)
    for number in (1, 3):
        assert killed(config, "step", number, tmp_path / "output") == -signal.SIGKILL
    (tmp_path / "run" / run_dir.ELAPSED).write_text("5000")
    metrics = json.loads((train(config) / run_dir.METRICS).read_text())
    assert 1000 < metrics["train_seconds"] < 2000
    assert metrics["total_seconds"] > 5000
    assert metrics["peak_memory_of"] == "host"
    assert metrics["host_peak_memory_bytes"] >= metrics["peak_memory_bytes"] > 0


def check_moment(moment: tuple, images: Path, uninterrupted: Callable, tmp_path: Path, tally: Callable) -> None:
    name, kills = moment
    whole = uninterrupted(name)  # before the kills, so that these find the same caches whichever test runs first
    config = settings(images, tmp_path / "run", **VARIANTS[name])
    for place, number in kills:
        assert killed(config, place, number, tmp_path / "output") == -signal.SIGKILL
        assert not (tmp_path / "run" / run_dir.METRICS).exists()
        tally("kills survived")
    train(config)
    assert outcome(tmp_path / "run") == whole


ALL = moments()


def test_thirty_moments_are_thirty_different_ones() -> None:
    assert len(set(ALL)) == 30
    for name in VARIANTS:
        kills = [places for variant, places in ALL if variant == name]
        assert {places[0][0] for places in kills if len(places) == 1} == {"step", "validation", "save"}
        assert sum(len(places) == 2 for places in kills) == 2


@pytest.mark.parametrize("moment", ALL[::8], ids=str)
def test_a_killed_run_goes_on_to_the_same_bits(
    moment: tuple, images: Path, uninterrupted: Callable, tmp_path: Path, tally: Callable
) -> None:
    check_moment(moment, images, uninterrupted, tmp_path, tally)


@pytest.mark.long
@pytest.mark.parametrize("moment", ALL, ids=str)
def test_a_run_killed_at_any_moment_goes_on_to_the_same_bits(
    moment: tuple, images: Path, uninterrupted: Callable, tmp_path: Path, tally: Callable
) -> None:
    check_moment(moment, images, uninterrupted, tmp_path, tally)


@pytest.mark.parametrize("forgotten", ["restore_optimizer", "Progress.history", "averaged"])
def test_a_resume_that_forgets_something_is_noticed(
    forgotten: str, images: Path, uninterrupted: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the tests above: with one part of the state left out, they fail."""
    config = settings(images, tmp_path / "run")
    assert killed(config, "step", 10, tmp_path / "output") == -signal.SIGKILL
    honest = state_module.TrainState.resume

    def forgetful(state: state_module.TrainState) -> bool:
        resumed = honest(state)
        if forgotten == "averaged":
            state.averaged.load_state_dict(state.model.state_dict())
        if forgotten == "Progress.history":
            state.progress.history.pop()
        return resumed

    if forgotten == "restore_optimizer":
        monkeypatch.setattr(state_module, "restore_optimizer", lambda *_: None)
    monkeypatch.setattr(state_module.TrainState, "resume", forgetful)
    train(config)
    assert outcome(tmp_path / "run") != uninterrupted("averaged and mixed")


@pytest.mark.parametrize(
    ("name", "value"), [("num_threads", 64), ("torch", "1.0"), ("cpu_capability", "abacus"), (None, None)]
)
def test_another_environment_is_told_that_the_bits_may_differ(
    name: str | None, value: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(images, tmp_path / "run")
    assert killed(config, "step", 3, tmp_path / "output") == -signal.SIGKILL
    honest = state_module.environment
    if name:
        monkeypatch.setattr(state_module, "environment", lambda device: honest(device) | {name: value})
    train(config)
    log = (tmp_path / "run" / run_dir.LOG).read_text()
    assert ("may differ in the last bits" in log and f"{name} was" in log) is bool(name)


def saved_steps(folder: Path) -> int:
    """Return how many steps, of four in an epoch, the newest saved state has behind it; 0 where none can be read."""
    try:
        _, header = read_tensors(folder / run_dir.LAST, STATE_KIND)
    except CheckpointError:  # not yet there, or between two renames
        return 0
    return 4 * (header["progress"]["epoch"] - 1) + header["progress"]["step"]


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("steps", [1, 5, 9, 12])
def test_the_command_itself_killed_from_outside_goes_on(
    steps: int, images: Path, tmp_path: Path, tally: Callable
) -> None:
    """A real network in a real process, killed from outside wherever it is after so many saved steps of 16."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "deepbloom", "train", "model=scratch_cnn", "data=imagefolder"]
    command += [f"data.root={images}", "train.batch_size=8", "train.epochs=4", "train.checkpoint_seconds=0"]
    command += ["train.num_threads=1", "train.precision=fp32", "train.ema_decay=0.9", "+augment.ops.mixup.alpha=0.2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([*command, f"output_dir={folder}"], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while saved_steps(folder) < steps and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert not (folder / run_dir.METRICS).exists()
    assert steps <= saved_steps(folder) < 16
    for place in (folder, tmp_path / "whole"):
        subprocess.run([*command, f"output_dir={place}"], env=environment, capture_output=True, check=True)
    assert outcome(folder) == outcome(tmp_path / "whole")
    tally("kills survived")
