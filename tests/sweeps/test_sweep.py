"""A sweep survives its jobs and its own death, and its table says what became of every job."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from deepbloom import recipe
from deepbloom.config.settings import RunConfig
from deepbloom.engine.resolve import resolve
from deepbloom.errors import RunError
from deepbloom.runs import files as atomic_files
from deepbloom.runs import folder as run_dir
from deepbloom.sweeps import grid as sweep
from deepbloom.sweeps import job as sweep_job

Run = Callable[..., tuple[int, str, str]]
SMALL = ("model=scratch_cnn", "data.num_classes=2", "data.images_per_class=10", "train.num_threads=1")
TINY = (*SMALL, "train.epochs=1", "train.batch_size=8", "train.precision=fp32")


@pytest.fixture(autouse=True)
def work_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Let jobs leave, by seed, with given exit codes and what they would have written; returns the seeds started.

    While the job of seed ``stopped_at`` runs, this process is sent SIGTERM.
    """

    def install(codes: dict[int, int], stopped_at: int | None = None) -> list[int]:
        started: list[int] = []

        def run(config: RunConfig) -> sweep_job.Ended:
            started.append(config.seed)
            folder = atomic_files.make_folder(Path(str(config.output_dir)))
            code = codes[config.seed]
            if code != 2:
                run_dir.write_settings(folder, config, resolve(config).identity)
            if code == 0:
                atomic_files.write_json(folder / run_dir.METRICS, {"test": {"top1_accuracy": 0.75}})
            elif code in (1, 3):
                (folder / run_dir.FAILED).write_text(f"SomeError: seed {config.seed}\nTraceback\n")
            time.sleep(0.01)
            reason = f"SomeError: seed {config.seed}" if code in (1, 2, 3) else ""
            return sweep_job.Ended(code, reason, signal.SIGTERM if config.seed == stopped_at else 0)

        monkeypatch.setattr(sweep, "run_in_process", run)
        return started

    return install


def outcomes(table: str) -> list[str]:
    return [line.split("  ")[0] for line in table.splitlines()]


def test_the_table_tells_the_truth_about_every_job(deepbloom: Run, pretend: Callable) -> None:
    pretend({0: 0, 1: 3, 2: 1, 3: 137, 4: 2})
    code, out, err = deepbloom("train", "-m", *SMALL, "seed=0,1,2,3,4")
    assert code == 3
    assert "4 of 5 jobs are not done" in err
    lines = out.splitlines()
    assert outcomes(out) == ["done", "diverged", "failed (1)", "killed", "refused"]
    assert [" 0 s " in line for line in lines] == [True] * 5
    assert lines[0].endswith("test accuracy 0.7500")
    assert [line.split("  ")[-1] for line in lines[1:3]] == ["SomeError: seed 1", "SomeError: seed 2"]
    assert lines[3].split()[-1].startswith("outputs/"), "a killed job leaves no reason"
    assert lines[4].endswith("SomeError: seed 4"), "its folder says nothing: it was refused before anything was written"


def test_a_sweep_started_again_skips_what_is_complete_and_repeats_the_rest(
    work_in: Path, deepbloom: Run, pretend: Callable
) -> None:
    pretend({0: 0, 1: 3, 2: 137})
    assert deepbloom("train", "-m", *SMALL, "seed=0,1,2")[0] == 3
    started = pretend({1: 0, 2: 0})
    code, out, _ = deepbloom("train", "-m", *SMALL, "seed=0,1,2")
    assert (code, started) == (0, [1, 2])
    assert outcomes(out) == ["done before", "done", "done"]
    assert " s " not in out.splitlines()[0]
    assert len(list((work_in / "outputs").iterdir())) == 3


def test_after_a_stop_the_table_says_only_what_this_sweep_did(deepbloom: Run, pretend: Callable) -> None:
    pretend({1: 0, 2: 137, 3: 3})
    deepbloom("train", "-m", *SMALL, "seed=1,2,3")
    started = pretend({0: 143}, stopped_at=0)
    code, out, err = deepbloom("train", "-m", *SMALL, "seed=0,1,2,3,4")
    assert (code, started) == (143, [0])
    assert "4 of 5 jobs are not done" in err
    assert outcomes(out) == ["stopped", "done before", "not started", "not started", "not started"]
    assert [" s " in line for line in out.splitlines()] == [True] + [False] * 4


def test_a_job_that_is_stopped_alone_does_not_stop_the_sweep(deepbloom: Run, pretend: Callable) -> None:
    started = pretend({0: 143, 1: 130, 2: 0})
    code, out, _ = deepbloom("train", "-m", *SMALL, "seed=0,1,2")
    assert (code, started) == (143, [0, 1, 2])
    assert outcomes(out) == ["stopped", "stopped", "done"]


def test_a_sweep_stopped_in_its_last_moment_is_done_if_all_jobs_are(deepbloom: Run, pretend: Callable) -> None:
    pretend({0: 0, 1: 0}, stopped_at=1)
    assert deepbloom("train", "-m", *SMALL, "seed=0,1")[0] == 0
    pretend({2: 0, 3: 0}, stopped_at=2)
    code, out, _ = deepbloom("train", "-m", *SMALL, "seed=2,3")
    assert (code, outcomes(out)) == (143, ["done", "not started"])


def test_settings_given_twice_are_one_job(deepbloom: Run, pretend: Callable) -> None:
    started = pretend({0: 0, 1: 0})
    code, out, err = deepbloom("train", "-m", *SMALL, "seed=0,0,1")
    assert (code, started, outcomes(out)) == (0, [0, 1], ["done", "done"])
    assert "seed=0 is given twice" in err


def test_jobs_with_one_output_dir_are_refused_before_any_begins(deepbloom: Run, pretend: Callable) -> None:
    started = pretend({0: 0, 1: 0})
    code, _, err = deepbloom("train", "-m", *SMALL, "seed=0,1", "output_dir=same")
    assert (code, started) == (2, [])
    assert "output_dir='FOLDER/${seed}'." in err
    code, out, _ = deepbloom("train", "-m", *SMALL, "seed=0,1", "output_dir=new/${seed}")
    assert (code, started, outcomes(out)) == (0, [0, 1], ["done", "done"])


def test_equal_jobs_may_have_one_output_dir(deepbloom: Run, pretend: Callable) -> None:
    started = pretend({0: 0})
    assert deepbloom("train", "-m", *SMALL, "seed=0,0", "output_dir=same")[0] == 0
    assert started == [0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([{"seed": 0}, {"seed": 1}], ["seed"]),
        ([{"train.epochs": 3}, {"train.epochs": 4}, {"train.epochs": 3}], ["train.epochs"]),
        ([{"train.epochs": 3}, {"train.epochs": 4, "seed": 1}], ["seed"]),
        (
            [{"optimizer": name, "seed": seed} for name in ("adamw", "sgd") for seed in (0, 1)],
            ["seed", "optimizer.name"],
        ),
        ([{}, {}], []),
    ],
)
def test_the_keys_that_tell_jobs_apart_are_few(changes: list[dict], expected: list[str]) -> None:
    assert sweep.telling_keys([recipe("mini_resnet", **each) for each in changes]) == expected


def test_the_name_of_the_model_tells_models_apart() -> None:
    assert sweep.telling_keys([recipe("scratch_cnn"), recipe("mini_resnet")]) == ["model.name"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("seed=range(3,3)", "seed=range(3,3) names no value, so there is no job to run."),
        ("seed=range(0,3,0)", "seed=range(0,3,0) cannot be read"),
        ("train.ema_decay=range(0.1,0.5,0.0)", "cannot be read"),
        ("optimizer.lr=interval(0.1,0.2)", "add hydra/sweeper=optuna"),
        ("+hydra.sweeper.order=random", "Nothing reads hydra.sweeper.order with hydra/sweeper=grid"),
        ("+hydra.launcher.n_jobs=2", "Nothing reads hydra.launcher.n_jobs with hydra/launcher=process"),
    ],
)
def test_a_sweep_without_jobs_or_with_unread_settings_is_refused(
    argument: str, message: str, deepbloom: Run, pretend: Callable
) -> None:
    started = pretend({})
    code, _, err = deepbloom("train", "-m", *SMALL, argument)
    assert (code, started) == (2, [])
    assert message in err


def test_a_job_imports_no_module_of_the_working_directory(work_in: Path) -> None:
    (work_in / "numpy.py").write_text("raise SystemExit('mine')")
    config = recipe("scratch_cnn", data="imagefolder", **{"data.root": "missing"})
    ended = sweep_job.run_in_process(config)
    assert (ended.exit_code, ended.reason[:10]) == (2, "DataError:"), ended.reason


def test_a_complete_run_whose_results_are_damaged_is_refused(work_in: Path, deepbloom: Run, pretend: Callable) -> None:
    pretend({0: 0, 1: 0})
    deepbloom("train", "-m", *SMALL, "seed=0")
    next(work_in.glob("outputs/*/metrics.json")).write_text("{")
    code, out, _ = deepbloom("train", "-m", *SMALL, "seed=0,1")
    assert (code, outcomes(out)) == (2, ["refused", "done"])
    assert "metrics.json is damaged" in out


def test_a_complete_run_on_other_images_is_refused_and_left_as_it_is(
    work_in: Path, deepbloom: Run, images: Path
) -> None:
    shutil.copytree(images, work_in / "own")
    arguments = (*TINY[3:], "model=scratch_cnn", "data=imagefolder", "data.root=own", "output_dir=outputs/run")
    assert deepbloom("train", *arguments)[0] == 0
    run = next(work_in.glob("outputs/*"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, out, _ = deepbloom("train", "-m", *arguments)
    assert (code, outcomes(out)) == (0, ["done before"])
    shutil.copy(work_in / "own" / "lime" / "01.png", work_in / "own" / "lime" / "00.png")

    code, out, _ = deepbloom("train", "-m", *arguments)
    assert (code, outcomes(out)) == (2, ["refused"])
    assert "holds a run with other images" in out
    code, _, err = deepbloom("train", *arguments)
    assert code == 2
    assert "Choose another output_dir=PATH, or leave it out." in err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_job_refuses_another_recipe_version_than_its_sweep(work_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(asdict(recipe("mini_resnet")))))
    with pytest.raises(RunError, match="was updated since this sweep was started"):
        sweep_job.run_submitted("0", "", str(work_in / "reason"))
    assert (work_in / "reason").read_text().startswith("RunError: DeepBloom was updated")
    assert not (work_in / "outputs").exists()


CHILD = """
import sys
if "deepbloom.sweeps.job" in sys.orig_argv:
    {}
"""
CRASH = """import deepbloom.engine.state as state
    honest = state.make_optimizer
    def make_optimizer(model, config, head):
        return 1 / 0 if config.lr == 0.5 else honest(model, config, head)
    state.make_optimizer = make_optimizer
"""
WAIT = """import pathlib, os, time
    place = pathlib.Path(f"child-{os.getpid()}")
    place.touch()
    time.sleep(60 if len(list(place.parent.glob("child-*"))) == 1 else 0)
"""


def plant(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the processes of jobs begin with ``code``."""
    (folder / "planted").mkdir()
    (folder / "planted" / "sitecustomize.py").write_text(CHILD.format(code))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder / "planted"), *sys.path]))


def start_and_wait_for_child(folder: Path, *arguments: str) -> tuple[subprocess.Popen, int]:
    """Start a sweep whose first job waits; returns its process and that of the job."""
    command = [sys.executable, "-m", "deepbloom", "train", "-m", *TINY, *arguments]
    parent = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while not (children := list(folder.glob("child-*"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return parent, int(children[0].name.removeprefix("child-"))


@pytest.mark.long
def test_a_job_killed_by_sigterm_is_one_of_the_table_and_the_others_run(
    work_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(work_in, WAIT, monkeypatch)
    parent, job = start_and_wait_for_child(work_in, "seed=0,1")
    os.kill(job, signal.SIGTERM)
    out, err = parent.communicate()
    assert outcomes(out) == ["stopped", "done"], err
    assert parent.returncode == 143
    assert "1 of 2 jobs are not done" in err


@pytest.mark.long
def test_a_sweep_that_is_told_to_stop_stops_its_job_and_begins_no_other(
    work_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(work_in, WAIT, monkeypatch)
    parent, _ = start_and_wait_for_child(work_in, "seed=0,1")
    parent.send_signal(signal.SIGTERM)
    out, err = parent.communicate()
    assert outcomes(out) == ["stopped", "not started"], err
    assert parent.returncode == 143
    assert len(list(work_in.glob("child-*"))) == 1


@pytest.mark.long
def test_a_diverging_and_a_crashing_job_do_not_stop_the_others(
    work_in: Path, deepbloom: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(work_in, CRASH, monkeypatch)
    code, out, err = deepbloom("train", "-m", *TINY, "optimizer=sgd", "optimizer.lr=1e30,0.5,0.001")
    assert code == 3
    assert "2 of 3 jobs are not done" in err
    assert outcomes(out) == ["diverged", "failed (1)", "done"]
    diverged, crashed, done = out.splitlines()
    assert "DivergedError: Training diverged" in diverged
    assert crashed.endswith("ZeroDivisionError: division by zero")
    assert "test accuracy" in done
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
    """Five networks; the parent and the job it runs are killed, twice."""
    names = ("scratch_cnn", "mini_resnet", "resnet18_frozen", "resnet18_partial", "efficientnet_b0_partial")
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
    assert outcomes(again.stdout) == ["done before"] * complete + ["done"] * (len(names) - complete)
    assert results(folders["killed"] / "outputs") == results(folders["whole"] / "outputs")
