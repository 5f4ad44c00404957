"""A sweep survives its jobs and its own death, and its table says what became of every job."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deepbloom import atomic_files, run_dir
from deepbloom.commands import sweep
from deepbloom.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig, TrainConfig
from deepbloom.errors import ConfigError, RunError
from deepbloom.models.registry import model_names

DATA = DataConfig("synthetic", num_classes=2, images_per_class=10)
TINY = TrainConfig(epochs=2, batch_size=8, num_threads=1, precision="fp32", checkpoint_seconds=0.0)


def tiny(seed: int = 0, lr: float = 0.001, images: int = 10) -> RunConfig:
    return RunConfig(
        seed=seed,
        model=ModelConfig("scratch_cnn"),
        data=DataConfig("synthetic", num_classes=2, images_per_class=images),
        optimizer=OptimizerConfig("sgd", lr=lr),
        train=TINY,
    )


@pytest.fixture
def work_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, int]], list[int]]:
    """Let jobs leave, by seed, with given exit codes and what they would have written; returns the seeds started."""

    def install(codes: dict[int, int]) -> list[int]:
        started: list[int] = []

        def run(config: RunConfig) -> int:
            started.append(config.seed)
            folder = atomic_files.make_folder(Path(str(config.output_dir)))
            run_dir.write_config(folder, config)
            code = codes[config.seed]
            if code == 0:
                atomic_files.write_json(folder / run_dir.METRICS, {"test": {"top1_accuracy": 0.75}})
            elif code in (1, 3):
                (folder / run_dir.FAILED).write_text(f"SomeError: seed {config.seed}\nTraceback\n")
            time.sleep(0.01)
            return code

        monkeypatch.setattr(sweep, "_run_in_process", run)
        return started

    return install


def test_the_table_tells_the_truth_about_every_job(
    work_in: Path, pretend: Callable, capsys: pytest.CaptureFixture
) -> None:
    pretend({0: 0, 1: 3, 2: 1, 3: 137, 4: 2})
    with pytest.raises(sweep.SweepError, match="4 of 5 jobs are not done") as caught:
        sweep.run_jobs([tiny(seed) for seed in range(5)])
    assert caught.value.exit_code == 3
    lines = capsys.readouterr().out.splitlines()
    said = ["done ", "diverged ", "failed (1) ", "killed ", "refused "]
    assert [line.startswith(words) for line, words in zip(lines, said, strict=True)] == [True] * 5
    assert lines[0].endswith("test accuracy 0.7500")
    assert lines[1].endswith("SomeError: seed 1")
    assert "Traceback" not in lines[2]


def test_a_sweep_started_again_skips_what_is_complete_and_repeats_the_rest(
    work_in: Path, pretend: Callable, capsys: pytest.CaptureFixture
) -> None:
    pretend({0: 0, 1: 3, 2: 137})
    with pytest.raises(sweep.SweepError):
        sweep.run_jobs([tiny(seed) for seed in range(3)])
    started = pretend({1: 0, 2: 0})
    capsys.readouterr()
    sweep.run_jobs([tiny(seed) for seed in range(3)])
    assert started == [1, 2]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["done before", "done", "done"]
    assert len(list((work_in / "outputs").iterdir())) == 3


def test_a_stop_leaves_the_rest_unstarted_and_says_so(
    work_in: Path, pretend: Callable, capsys: pytest.CaptureFixture
) -> None:
    started = pretend({0: 143, 1: 0})
    with pytest.raises(sweep.SweepError, match="2 of 2 jobs are not done") as caught:
        sweep.run_jobs([tiny(0), tiny(1)])
    assert (caught.value.exit_code, started) == (143, [0])
    assert capsys.readouterr().out.splitlines()[1].startswith("not started")


def test_jobs_with_one_output_dir_are_refused_before_any_begins(work_in: Path, pretend: Callable) -> None:
    started = pretend({0: 0, 1: 0})
    configs = [tiny(0), tiny(1)]
    for config in configs:
        config.output_dir = "same"
    with pytest.raises(ConfigError, match="same output_dir"):
        sweep.run_jobs(configs)
    assert started == []


def test_a_job_refuses_code_that_changed_after_the_sweep_began(work_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    from dataclasses import asdict

    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(asdict(tiny()))))
    with pytest.raises(RunError, match="code has changed since this sweep was started"):
        sweep._run_one("other code")
    assert not (work_in / "outputs").exists()


CRASH = """
import sys
if "deepbloom.commands.sweep" in sys.orig_argv:
    import deepbloom.data.prepared as prepared
    honest = prepared.prepare
    def prepare(config, *rest):
        if config.images_per_class == 13:
            return 1 / 0
        return honest(config, *rest)
    prepared.prepare = prepare
"""


@pytest.mark.long
def test_a_diverging_and_a_crashing_job_do_not_stop_the_others(
    work_in: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (work_in / "planted").mkdir()
    (work_in / "planted" / "sitecustomize.py").write_text(CRASH)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(work_in / "planted"), *sys.path]))
    with pytest.raises(sweep.SweepError, match="2 of 3 jobs are not done") as caught:
        sweep.run_jobs([tiny(lr=1e30), tiny(images=13), tiny()])
    assert caught.value.exit_code == 3
    diverged, crashed, done = capsys.readouterr().out.splitlines()
    assert diverged.startswith("diverged")
    assert "DivergedError: Training diverged" in diverged
    assert crashed.startswith("failed (1)")
    assert "ZeroDivisionError" in crashed
    assert done.startswith("done")
    folder = next(Path(word) for word in crashed.split() if word.startswith("outputs/"))
    assert "return 1 / 0" in (folder / run_dir.LOG).read_text()  # the traceback is in the job's own log
    assert run_dir.read_state(folder) == "failed"


def results(folder: Path) -> dict[str, tuple]:
    found = {}
    for run in sorted(folder.iterdir()):
        metrics = json.loads((run / run_dir.METRICS).read_text())
        with open(run / run_dir.HISTORY, newline="") as file:
            history = [[row["train_loss"], row["val_loss"], row["val_accuracy"]] for row in csv.DictReader(file)]
        predictions = (run / run_dir.PREDICTIONS).read_text()
        found[run.name] = (metrics["test"], metrics["val"], metrics["best_epoch"], history, predictions)
    return found


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_sweep_killed_in_the_middle_and_started_again_ends_as_one_never_killed(tmp_path: Path) -> None:
    """All seven networks; the parent and the job it runs are killed, twice."""
    names = model_names()
    command = [sys.executable, "-m", "deepbloom", "train", "-m", f"model={','.join(names)}", "model.weights=none"]
    command += ["data.num_classes=2", "data.images_per_class=10", "train.epochs=3", "train.batch_size=4"]
    command += ["train.num_threads=1", "train.precision=fp32", "train.checkpoint_seconds=0"]
    folders = {name: atomic_files.make_folder(tmp_path / name) for name in ("whole", "killed")}
    subprocess.run(command, cwd=folders["whole"], check=True)

    for begun in (2, 5):
        parent = subprocess.Popen(command, cwd=folders["killed"])
        deadline = time.monotonic() + 400
        while len(list(folders["killed"].glob("outputs/*/history.csv"))) < begun and time.monotonic() < deadline:
            time.sleep(0.01)
        job = int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()[0])
        for process in (parent.pid, job):
            os.kill(process, signal.SIGKILL)
        parent.wait()
        complete = len(list(folders["killed"].glob("outputs/*/metrics.json")))
        assert 0 < complete < begun  # it really was killed in the middle of a job
    again = subprocess.run(command, cwd=folders["killed"], capture_output=True, text=True)  # at once
    assert again.returncode == 0, again.stderr
    outcomes = [line.split("  ")[0] for line in again.stdout.splitlines()]
    assert outcomes == ["done before"] * complete + ["done"] * (len(names) - complete)
    assert results(folders["killed"] / "outputs") == results(folders["whole"] / "outputs")
