"""``deepbloom runs``: list the runs in a folder and their state."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from deepbloom.config.command_settings import RunsConfig
from deepbloom.errors import RunError
from deepbloom.report.formatting import align, count_of, shorten
from deepbloom.runs import folder as run_dir
from deepbloom.runs.parsing import FRACTION, POSITIVE, TEXT, Fields, load_yaml
from deepbloom.runs.reading import read_history, walk_runs
from deepbloom.sinks import printable

HEADINGS = ("state", "run", "name", "date", "data", "epoch", "validation", "test", "")


class Summary(NamedTuple):
    """A run in one line, in the order of `HEADINGS`.

    ``state`` is ``complete``, ``running``, ``partial`` (re-running its command resumes it), ``failed`` or ``damaged``,
    ``title`` what ``name=`` calls it, ``date`` when it was last written, ``val`` the validation accuracy of the best
    epoch, ``reason`` why it failed or is damaged.
    """

    state: str
    name: str
    title: str = ""
    date: str = ""
    data: str = ""
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
    print(format_table(list_runs(Path(config.runs), config.sort)))


def list_runs(folder: Path, sort: str = "date") -> list[Summary]:
    """Return a `Summary` of every run in a folder. Raises `RunError` if there is none.

    ``sort`` is ``date`` (the newest first), ``accuracy`` (the highest first, of test, else of validation), ``name`` or
    ``state``; within that, by name.
    """
    runs = [(summarize(path, name), _written(path)) for path, name in walk_runs(folder)]
    orders: dict[str, Callable[[tuple[Summary, float]], Any]] = {
        "date": lambda run: -run[1],
        "accuracy": lambda run: (not run[0].test, -float(run[0].test or run[0].val or 0)),
        "name": lambda run: run[0].name,
        "state": lambda run: run[0].state,
    }
    dated = [(run._replace(date=f"{datetime.fromtimestamp(when):%Y-%m-%d %H:%M}"), when) for run, when in runs]
    return [run for run, _ in sorted(dated, key=orders[sort])]


def format_table(runs: list[Summary]) -> str:
    """Return headings, a line per run, and a line that counts the states."""
    rows = [
        run._replace(
            name=printable(run.name),
            title=run.title and shorten(run.title),
            data=shorten(run.data),
            reason=run.reason and shorten(run.reason, 160),
        )
        for run in runs
    ]
    states = Counter(run.state for run in runs).most_common()
    total = f"{count_of(len(runs), 'run')}: {', '.join(f'{count} {state}' for state, count in states)}"
    return f"{align([HEADINGS, *rows])}\n\n{total}"


def summarize(path: Path, name: str) -> Summary:
    """Return the state of a run from its small files; predictions and weights are not read."""
    try:
        state = run_dir.read_state(path)
        if state == "complete":
            return _summarize_complete(path, name)
        history = read_history(path)
        config = path / run_dir.CONFIG
        settings = None if state == "failed" and not config.exists() else load_yaml(config)
        epochs, data = (settings.get(key, "?") if settings else "?" for key in ("train.epochs", "data.name"))
        title = settings.get("name", "") if settings else ""
    except RunError as error:
        return Summary("damaged", name, reason=str(error))
    epoch = f"{len(history)}/{epochs}"
    val = f"{max(row['val_accuracy'] for row in history):.4f}" if history else ""
    summary = Summary("partial", name, title, data=data, epoch=epoch, val=val)
    if run_dir.is_running(path):
        return summary._replace(state="running")
    if state == "failed":
        return summary._replace(state="failed", reason=run_dir.failure_reason(path))
    return summary


def _summarize_complete(path: Path, name: str) -> Summary:
    fields = Fields(path / run_dir.METRICS)
    if not (path / run_dir.PREDICTIONS).exists():
        raise RunError(f"{path / run_dir.PREDICTIONS} is missing.")
    epochs = fields.take("epochs", POSITIVE)
    val, test = (fields.take(f"{split}.top1_accuracy", FRACTION) for split in ("val", "test"))
    title, data = fields.take("name", TEXT, ""), fields.take("data_name", TEXT, fields.take("dataset", TEXT))
    return Summary("complete", name, title, "", data, f"{epochs}/{epochs}", f"{val:.4f}", f"{test:.4f}")


def _written(path: Path) -> float:
    """Return when a run was last written, in seconds since 1970."""
    files = (path / name for name in (run_dir.METRICS, run_dir.HISTORY, run_dir.CONFIG))
    return next((file for file in files if file.exists()), path).stat().st_mtime
