"""Rows of report.csv, models.csv and pairs.csv: every value unrounded."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deepbloom.report.columns import Column
from deepbloom.report.groups import Comparison, Group
from deepbloom.runs import files as atomic_files
from deepbloom.runs.reading import CompleteRun, Run

Rows = list[dict[str, object]]
PAIR_COLUMNS: dict[str, Callable[[Comparison], object]] = {
    "first": lambda pair: pair.first.label,
    "second": lambda pair: pair.second.label,
    "first_seeds": lambda pair: len(pair.first.predictions),
    "second_seeds": lambda pair: len(pair.second.predictions),
    "difference": lambda pair: pair.difference.estimate,
    "difference_low": lambda pair: pair.difference.low,
    "difference_high": lambda pair: pair.difference.high,
    "p_value": lambda pair: pair.difference.p_value,
    "p_value_holm": lambda pair: pair.adjusted_p,
    "verdict": lambda pair: pair.verdict,
}


def write(path: Path, rows: Rows) -> None:
    """Write rows under all their columns in order of appearance, with no text that a spreadsheet runs as a formula."""
    safe = [{_defuse(key): _defuse(value) for key, value in row.items()} for row in rows]
    columns = dict.fromkeys(key for row in safe for key in row) or ("group", *PAIR_COLUMNS)
    atomic_files.write_csv(path, list(columns), safe)


def run_rows(columns: Sequence[Column], runs: Sequence[Run], groups: Sequence[Group]) -> Rows:
    """Return the rows of report.csv: every run, complete or not, with its unrounded values and its identity."""
    number_of = {run.name: number for number, group in enumerate(groups, 1) for run in (*group.runs, *group.repeats)}
    counted = {run.name for group in groups for run in group.runs}
    rows: Rows = []
    for run in sorted(runs, key=lambda run: (number_of.get(run.name, len(groups) + 1), _rank(run), run.name)):
        row: dict[str, object] = {"run": run.name, "state": run.state, "problem": run.problem}
        if isinstance(run, CompleteRun):
            row |= {"group": number_of[run.name], "counted": run.name in counted}
            row |= {column.key: column.of_run(run) for column in columns if column.path or column.run}
            row = {**row, **{key: value for key, value in run.metrics.identity.items() if key not in row}}
        rows.append(row)
    return rows


def model_rows(columns: Sequence[Column], groups: Sequence[Group]) -> Rows:
    """Return the rows of models.csv: every model, with means over its seeds and folds."""
    return [
        {"group": number, "rank": rank} | {column.key: column.of_model(model) for column in columns}
        for number, group in enumerate(groups, 1)
        for rank, model in enumerate(group.models, 1)
    ]


def pair_rows(groups: Sequence[Group]) -> Rows:
    """Return the rows of pairs.csv: every paired comparison."""
    return [
        {"group": number} | {key: get(pair) for key, get in PAIR_COLUMNS.items()}
        for number, group in enumerate(groups, 1)
        for pair in group.comparisons
    ]


def _rank(run: Run) -> float:
    return -run.metrics.top1_accuracy if isinstance(run, CompleteRun) else 0.0


def _defuse(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value
