"""``deepbloom runs``: list the runs in a folder and their state."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from deepbloom.config.commands import RunsConfig
from deepbloom.errors import RunError
from deepbloom.report.formatting import align, count_of, shorten
from deepbloom.runs import folder as run_dir
from deepbloom.runs.parsing import FRACTION, POSITIVE, Fields, load_yaml
from deepbloom.runs.reading import read_history, walk_runs
from deepbloom.sinks import printable

HEADINGS = ("state", "run", "epoch", "validation", "test", "")


class Summary(NamedTuple):
    """A run in one line, in the order of `HEADINGS`.

    ``state`` is ``complete``, ``running``, ``partial`` (re-running its command resumes it), ``failed`` or ``damaged``,
    ``val`` the validation accuracy of the best epoch, ``reason`` why it failed or is damaged.
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
    """Return a `Summary` of every run in a folder, sorted by name. Raises `RunError` if there is none."""
    return [summarize(path, name) for path, name in walk_runs(folder)]


def format_table(runs: list[Summary]) -> str:
    """Return headings, a line per run, and a line that counts the states."""
    rows = [run._replace(name=printable(run.name), reason=run.reason and shorten(run.reason, 160)) for run in runs]
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
        epochs = "?" if state == "failed" and not config.exists() else load_yaml(config).get("train.epochs", "?")
    except RunError as error:
        return Summary("damaged", name, reason=str(error))
    epoch = f"{len(history)}/{epochs}"
    val = f"{max(row['val_accuracy'] for row in history):.4f}" if history else ""
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
