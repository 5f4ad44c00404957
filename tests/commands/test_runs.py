"""``deepbloom runs``: every state is told apart, with its reason, in a moment."""

import os
import subprocess
import sys

import pytest

from deepbloom import recipe
from deepbloom.commands.runs import format_table, list_runs
from deepbloom.config.command_settings import RunsConfig
from deepbloom.errors import ConfigError, RunError
from deepbloom.runs import folder as run_dir
from deepbloom.runs.identity import Identity

HISTORY = "epoch,train_loss,train_accuracy,val_loss,val_accuracy\n1,2.0,0.1,2.0,0.25\n2,1.0,0.2,1.0,0.5\n"


@pytest.fixture
def begin(tmp_path):
    """Return a function that writes a run which stopped after two epochs."""

    def write(name):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        run_dir.write_settings(folder, recipe("mini_resnet"), Identity({}))
        (folder / run_dir.LAST).touch()
        (folder / run_dir.HISTORY).write_text(HISTORY)
        return folder

    return write


def test_every_state_is_told_apart(make_run, begin, tmp_path, monkeypatch):
    make_run("a complete", accuracy=0.8, seed=1)
    (make_run("b damaged") / "metrics.json").write_text("{")
    (make_run("c damaged") / "predictions.csv").unlink()
    (begin("d failed") / "failed.txt").write_text("DivergedError: the loss is nan\nTraceback ...\n")
    begin("e partial")
    running = begin("f running")
    (begin("g damaged") / "history.csv").write_text(HISTORY.replace("0.5", ""))
    with run_dir.exclusive(running):
        runs = list_runs(tmp_path / "runs", "name")
    assert [(run.name[0], run.state) for run in runs] == [
        ("a", "complete"),
        ("b", "damaged"),
        ("c", "damaged"),
        ("d", "failed"),
        ("e", "partial"),
        ("f", "running"),
        ("g", "damaged"),
    ]
    by_name = {run.name[0]: run for run in runs}
    assert (by_name["a"].epoch, by_name["e"].epoch, by_name["e"].val) == ("6/6", "2/40", "0.5000")
    assert (by_name["a"].data, by_name["e"].data, by_name["b"].data) == ("synthetic", "synthetic", "")
    assert 0.7 < float(by_name["a"].test) < 0.9
    assert by_name["d"].reason == "DivergedError: the loss is nan"
    assert "metrics.json is damaged" in by_name["b"].reason
    assert "predictions.csv is missing" in by_name["c"].reason
    lines = format_table(runs).splitlines()
    assert len({line.index(run.name) for line, run in zip(lines[1:], runs, strict=False)}) == 1  # one column
    assert lines[-1] == "7 runs: 3 damaged, 1 complete, 1 failed, 1 partial, 1 running"


def test_a_pipe_in_place_of_a_history_is_damage_and_nothing_to_wait_for(begin, tmp_path):
    history = begin("run") / "history.csv"
    history.unlink()
    os.mkfifo(history)
    assert [run.state for run in list_runs(tmp_path / "runs")] == ["damaged"]


def test_a_folder_without_runs_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(RunError):
            list_runs(folder)


def test_torch_is_not_loaded(make_run, tmp_path):
    make_run("only")
    check = (
        "import sys; from deepbloom.cli import main as cli\n"
        "code = cli.guarded(lambda: cli.dispatch(sys.argv[1:]))\n"
        "print({'torch', 'matplotlib', 'scipy'} & set(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", check, "runs", f"runs={tmp_path / 'runs'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.strip() == "set()"
    assert "1 run: 1 complete" in done.stdout


def test_runs_are_listed_by_date_or_accuracy(make_run, begin, tmp_path):
    for day, (name, accuracy) in enumerate((("b", 0.9), ("a", 0.5), ("c", 0.7)), 1):
        metrics = make_run(name, accuracy=accuracy, seed=day) / "metrics.json"
        os.utime(metrics, (86400 * day, 86400 * day))
    os.utime(begin("d") / "history.csv", (86400 * 9, 86400 * 9))
    folder = tmp_path / "runs"
    assert [run.name for run in list_runs(folder)] == ["d", "c", "a", "b"]
    assert [run.name for run in list_runs(folder, "accuracy")] == ["b", "c", "a", "d"]  # d has none of the test split
    assert [run.name for run in list_runs(folder, "name")] == ["a", "b", "c", "d"]
    assert [run.date[:8] for run in list_runs(folder, "date")] == ["1970-01-"] * 4
    with pytest.raises(ConfigError, match="sort"):
        RunsConfig(sort="size")
