"""``deepbloom runs``: list the runs in a folder and their state."""

import csv
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from deepbloom.config.commands import RunsConfig
from deepbloom.errors import RunError
from deepbloom.report.formatting import shorten
from deepbloom.runs import folder as run_dir
from deepbloom.runs.parsing import FRACTION, POSITIVE, Fields, load_yaml
from deepbloom.runs.reading import RUN_FILES, is_evaluation

HEADINGS = ("state", "run", "epoch", "validation", "test", "")


@dataclass(frozen=True)
class Summary:
    """A run in one line.

    Attributes
    ----------
    state : str
        ``complete``, ``running``, ``partial`` (re-running its command resumes it), ``failed`` or ``damaged``.
    name : str
        Its path below the folder that was searched.
    epoch : str
        Finished epochs, of how many.
    val, test : str
        Validation accuracy of the best epoch, and test accuracy.
    reason : str
        Why it failed or is damaged.
    """

    state: str
    name: str
    epoch: str = ""
    val: str = ""
    test: str = ""
    reason: str = ""


def run(config: RunsConfig) -> None:
    """Print a line per run, and a count of each state.

    Raises
    ------
    RunError
        The folder does not exist or holds no run.
    """
    print(format_table(list_runs(Path(config.runs))))


def list_runs(folder: Path) -> list[Summary]:
    """Return a `Summary` of every run in ``folder``, at any depth, sorted by name.

    Raises
    ------
    RunError
        The folder does not exist or holds no run.
    """
    if not folder.is_dir():
        raise RunError(f"There is no folder {folder}. Give the folder that holds run directories: runs=FOLDER.")
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if not set(RUN_FILES).isdisjoint(files) and not is_evaluation(Path(place)):
            found.append(summarize(Path(place), Path(place).relative_to(folder).as_posix()))
    if not found:
        raise RunError(f"There is no run in {folder}. Train one with deepbloom train, or give another runs=FOLDER.")
    return sorted(found, key=lambda summary: summary.name)


def format_table(runs: list[Summary]) -> str:
    """Return headings, a line per run, and a line that counts the states."""
    rows = [HEADINGS, *((r.state, r.name, r.epoch, r.val, r.test, r.reason and shorten(r.reason, 160)) for r in runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    counts = Counter(run.state for run in runs)
    total = f"{len(runs)} run{'s' * (len(runs) > 1)}"
    return "\n".join([*lines, "", f"{total}: " + ", ".join(f"{n} {state}" for state, n in counts.most_common())])


def summarize(path: Path, name: str) -> Summary:
    """Return the state of a run from its small files; predictions and weights are not read."""
    try:
        state = run_dir.read_state(path)
        if state == "complete":
            return _summarize_complete(path, name)
        history = _read_history(path / run_dir.HISTORY)
        config = path / run_dir.CONFIG
        epochs = "?" if state == "failed" and not config.exists() else load_yaml(config).get("train.epochs", "?")
    except RunError as error:
        return Summary("damaged", name, reason=str(error))
    epoch = f"{len(history)}/{epochs}"
    val = f"{max(history):.4f}" if history else ""
    if run_dir.is_running(path):
        return Summary("running", name, epoch, val)
    if state == "failed":
        return Summary("failed", name, epoch, val, reason=run_dir.failure_reason(path))
    return Summary("partial", name, epoch, val)


def _summarize_complete(path: Path, name: str) -> Summary:
    fields = Fields(path / run_dir.METRICS)
    if not (path / run_dir.PREDICTIONS).exists():
        raise RunError(f"{path / run_dir.PREDICTIONS} is missing.")
    epochs = fields.take("epochs", POSITIVE)
    val, test = (fields.take(f"{split}.top1_accuracy", FRACTION) for split in ("val", "test"))
    return Summary("complete", name, f"{epochs}/{epochs}", f"{val:.4f}", f"{test:.4f}")


def _read_history(path: Path) -> list[float]:
    """Return the validation accuracy of each finished epoch."""
    try:
        lines = run_dir.read_text(path, "replace").splitlines()
        return [float(row["val_accuracy"]) for row in csv.DictReader(lines)]
    except FileNotFoundError:
        return []
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise RunError(f"{path} is damaged: {error!r}.") from error
