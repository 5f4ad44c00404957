"""The same sweep gives the same table, exit code and runs, whichever launcher carries its jobs."""

import importlib.util
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from deepbloom import recipe
from deepbloom.config.settings import RunConfig
from deepbloom.errors import ConfigError
from deepbloom.runs import folder as run_dir
from deepbloom.runs.identity import Identity
from deepbloom.signals import Stopped
from deepbloom.sweeps import grid as commands_sweep
from deepbloom.sweeps.grid import JobResult, Submission
from deepbloom.sweeps.job import Ended
from hydra_plugins.deepbloom_launcher import GridSweeper, SubmittedJob

BASE = recipe("mini_resnet")

LAUNCHERS = {
    "joblib": ["hydra.launcher.n_jobs=2"],
    "submitit_local": [],
    "ray": ["+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.include_dashboard=false"],
}


def sweep(folder: Path, images: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run two jobs, the second of which is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    small = ("model=scratch_cnn", "data=imagefolder", f"data.root={images}", "train.epochs=1", "train.num_threads=1")
    command = [sys.executable, "-m", "deepbloom", "train", "-m", *small, "train.batch_size=9,1", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280)


def table(text: str) -> list[tuple[str, ...]]:
    """Return the table without what differs between any two sweeps: seconds."""
    lines = [line for line in text.splitlines() if line.startswith(("done", "refused", "killed", "failed"))]
    return [tuple(re.sub(r" \d+ s ", " ", line).split()) for line in lines]


@pytest.fixture(scope="module")
def expected(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[tuple[str, ...]]]:
    done = sweep(tmp_path_factory.mktemp("process"), images)
    assert done.returncode == 2, done.stderr
    return done.returncode, table(done.stdout)


@pytest.mark.long
@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_launcher_ends_in_the_same_table_and_exit_code(
    name: str, expected: tuple, images: Path, tmp_path: Path
) -> None:
    plugin = f"hydra_{name.removesuffix('_local')}_launcher"
    if importlib.util.find_spec(f"hydra_plugins.{plugin}") is None:
        pytest.skip(f"{plugin} is not installed")
    done = sweep(tmp_path, images, f"hydra/launcher={name}", *LAUNCHERS[name])
    assert [row[0] for row in expected[1]] == ["done", "refused"]
    assert (done.returncode, table(done.stdout)) == expected, done.stderr
    again = sweep(tmp_path, images, f"hydra/launcher={name}", *LAUNCHERS[name])
    assert again.stdout.startswith("done before"), again.stderr


class Gone:
    """A launcher that runs jobs, reports the first one, and whose cluster then goes away."""

    def __init__(self, run: Callable[[], None], returned: JobReturn) -> None:
        self.run, self.returned = run, returned

    def launch(self, jobs: list[list[str]], initial_job_idx: int) -> Iterator[JobReturn]:
        yield self.returned
        self.run()
        raise ConnectionError("the cluster is gone")


def test_what_a_launcher_lost_is_read_from_the_runs_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = {"a": "", "b": run_dir.METRICS, "c": run_dir.LAST, "d": run_dir.FAILED, "e": run_dir.FAILED, "f": ""}
    left |= {"g": run_dir.LAST, "h": run_dir.FAILED}
    configs = {name: replace(BASE, output_dir=str(tmp_path / name)) for name in left}

    def leave(names: str) -> None:
        for name in names:
            (tmp_path / name).mkdir(exist_ok=True)
            run_dir.write_settings(tmp_path / name, configs[name], Identity({}))
            if left[name]:
                (tmp_path / name / left[name]).write_text("DivergedError: nan" if name == "d" else "ValueError: 1")

    leave("cgh")  # c is begun again in this sweep, g and h are not
    sweeper = GridSweeper()
    sweeper.task = SubmittedJob()
    returned = JobReturn(_return_value=JobResult(tmp_path / "a", 0, 1.0), status=JobStatus.COMPLETED)
    sweeper.launcher = Gone(lambda: leave("bcde"), returned)
    monkeypatch.setattr(sweeper, "compose", lambda overrides: configs[overrides[0]])
    results = sweeper.launch([[name] for name in left])
    assert [result.outcome for result in results] == [
        *("done", "done", "killed", "diverged", "failed (1)"),
        *("not started", "not started", "not started"),
    ]
    assert [result.reason for result in results[3:5]] == ["DivergedError: nan", "ValueError: 1"]
    assert [result.seconds for result in results] == [1.0] + [0.0] * 7
    assert "the cluster is gone" in caplog.text


@pytest.fixture
def with_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., GridSweeper]:
    """Return a function that gives a sweeper the function that launches its jobs."""

    def with_launcher(launch: Callable[..., list[JobReturn]]) -> GridSweeper:
        sweeper = GridSweeper()
        sweeper.task, sweeper.launcher = SubmittedJob(), SimpleNamespace(launch=launch)
        sweeper.config = OmegaConf.create({"hydra": {"overrides": {"hydra": ["hydra/launcher=x", "hydra.verbose=1"]}}})
        monkeypatch.setattr(sweeper, "compose", lambda names: replace(BASE, output_dir=str(tmp_path / names[0])))
        return sweeper

    return with_launcher


def test_a_launcher_that_can_start_no_job_is_refused_with_its_settings(with_launcher: Callable) -> None:
    def refuse(*_: object, **__: object) -> list[JobReturn]:
        raise ValueError("n_jobs == 0\nhas no meaning")

    message = "No job can start with hydra/launcher=x: ValueError: n_jobs == 0 has no meaning"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        with_launcher(refuse).launch([["a"], ["b"]])


def test_a_launcher_whose_worker_died_is_not_refused(with_launcher: Callable) -> None:
    def die(*_: object, **__: object) -> list[JobReturn]:
        raise BrokenExecutor("a worker was killed")

    assert [result.outcome for result in with_launcher(die).launch([["a"]])] == ["not started"]


def test_launchers_start_workers_without_the_working_directory(with_launcher: Callable) -> None:
    seen = []

    def look(*_: object, **__: object) -> list[JobReturn]:
        seen.append(os.environ.get("PYTHONSAFEPATH"))
        return []

    with_launcher(look).launch([["a"]])
    assert (seen, os.environ.get("PYTHONSAFEPATH")) == (["1"], None)


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("joblib", "hydra.launcher.n_jobs=abc", "hydra.launcher.n_jobs: Value 'abc'"),
        ("joblib", "hydra.launcher.n_jobs=0", "No job can start with hydra/launcher=joblib hydra.launcher.n_jobs=0:"),
        ("joblib", "hydra.launcher.prefer=foo", "hydra.launcher.prefer=foo"),
        ("submitit_local", "hydra.launcher.nodes=2", "hydra.launcher.nodes=2"),
    ],
)
def test_a_mistake_in_the_settings_of_a_launcher_is_refused(
    name: str, argument: str, message: str, deepbloom: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{name.removesuffix('_local')}_launcher")
    monkeypatch.chdir(tmp_path)
    small = ("model=scratch_cnn", "data.num_classes=2", "data.images_per_class=10")
    code, _, err = deepbloom("train", "-m", *small, f"hydra/launcher={name}", argument)
    assert code == 2, err
    assert message in err


class Interrupted:
    """A launcher that the user stops."""

    def launch(self, jobs: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
        raise Stopped(signal.SIGINT)


def test_a_sweep_stopped_while_a_launcher_has_its_jobs_ends_with_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeper = GridSweeper()
    sweeper.task, sweeper.launcher = SubmittedJob(), Interrupted()
    monkeypatch.setattr(sweeper, "compose", lambda overrides: replace(BASE, output_dir=str(tmp_path / overrides[0])))
    monkeypatch.setattr(sweeper, "parse", OverridesParser.create().parse_overrides)
    summary = sweeper.sweep(["seed=0,1"])
    assert summary.error is not None
    assert summary.error.exit_code == 130
    assert [line.startswith("not started") for line in summary.lines] == [True, True]


def test_a_job_is_the_one_that_was_submitted_and_runs_where_the_sweep_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is carried to another process as bytes; the folder and environment it finds there are others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEEPBLOOM_CACHE", str(tmp_path / "cache"))
    carried = pickle.dumps(Submission([replace(BASE, seed=seed, output_dir=f"outputs/{seed}") for seed in (0, 1)]))
    monkeypatch.chdir("/")
    monkeypatch.setenv("DEEPBLOOM_CACHE", "/elsewhere")
    seen = []

    def note(config: RunConfig) -> Ended:
        seen.append((config.seed, config.output_dir, os.getcwd(), os.environ["DEEPBLOOM_CACHE"]))
        return Ended(0)

    monkeypatch.setattr(commands_sweep, "run_in_process", note)
    pickle.loads(carried).run(1)
    assert seen == [(1, "outputs/1", str(tmp_path), str(tmp_path / "cache"))]
