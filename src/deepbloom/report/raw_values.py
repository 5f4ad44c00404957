"""The raw values behind a report: columns and rows of report.csv, models.csv and pairs.csv."""

from collections.abc import Sequence

from deepbloom.metrics import expected_calibration_error
from deepbloom.report.compare import Table
from deepbloom.report.explanation_columns import raw_explanation
from deepbloom.report.model import Model
from deepbloom.report.statistics import wilson_interval
from deepbloom.runs.reading import Audit, CompleteRun, Run

Rows = list[dict[str, object]]
PAIR_COLUMNS = (
    *("table", "first", "second", "first_seeds", "second_seeds"),
    *("difference", "difference_low", "difference_high", "p_value", "p_value_holm", "verdict"),
)


def list_runs(runs: Sequence[Run], tables: Sequence[Table]) -> tuple[list[str], Rows]:
    """Return the columns and rows of report.csv: a row per run, complete or not, in the report's order."""
    number_of = {run.name: number for number, table in enumerate(tables, 1) for run in (*table.runs, *table.repeats)}
    counted = {run.name for table in tables for run in table.runs}
    ordered = sorted(runs, key=lambda run: (number_of.get(run.name, len(tables) + 1), _rank(run), run.name))
    rows: Rows = []
    for run in ordered:
        row: dict[str, object] = {"run": run.name, "state": run.state, "problem": run.problem}
        if isinstance(run, CompleteRun):
            row |= {"table": number_of[run.name], "counted": run.name in counted} | _raw_values(run)
        rows.append(row)
    return _finish(rows)


def list_models(tables: Sequence[Table]) -> tuple[list[str], Rows]:
    """Return the columns and rows of models.csv: a row per model of each table, means over its seeds and folds."""
    return _finish(
        [
            {"table": number, "rank": rank} | _raw_model(model)
            for number, table in enumerate(tables, 1)
            for rank, model in enumerate(table.models, 1)
        ]
    )


def list_pairs(tables: Sequence[Table]) -> tuple[list[str], Rows]:
    """Return the columns and rows of pairs.csv: a row per paired comparison."""
    rows: Rows = []
    for number, table in enumerate(tables, 1):
        for pair in table.comparisons:
            found = pair.difference
            names = (pair.first.label, pair.second.label, len(pair.first.answers), len(pair.second.answers))
            numbers = (found.estimate, found.low, found.high, found.p_value, pair.adjusted_p)
            rows.append(dict(zip(PAIR_COLUMNS, (number, *names, *numbers, pair.verdict), strict=True)))
    return list(PAIR_COLUMNS), _finish(rows)[1]


def _finish(rows: Rows) -> tuple[list[str], Rows]:
    """Return all columns in order of appearance, and the rows without formulas."""
    return list(dict.fromkeys(key for row in rows for key in row)), [
        {key: _defuse(value) for key, value in row.items()} for row in rows
    ]


def _raw_model(model: Model) -> dict[str, object]:
    metrics = model.runs[0].metrics
    seeds = len(model.answers)
    low, high = model.interval
    return {
        "label": model.label,
        "model": metrics.model,
        "training_type": metrics.training_type,
        "code_version": metrics.code_version,
        "seeds": seeds,
        "folds": len(model.runs) // seeds if metrics.folds else 0,
        "epochs": model.mean(lambda run: run.metrics.epochs),
        "top1_accuracy": model.accuracy,
        "top1_accuracy_std": model.spread,
        "top1_accuracy_low": low,
        "top1_accuracy_high": high,
        "interval_over": model.interval_kind,
        "top5_accuracy": model.mean(lambda run: run.metrics.top5_accuracy),
        "macro_f1": model.mean(lambda run: run.metrics.macro_f1),
        "loss": model.mean(lambda run: run.metrics.loss),
        "expected_calibration_error": model.calibration_error,
        "count": model.correct.shape[1],
        "params_total": model.mean(lambda run: run.metrics.params_total),
        "params_trainable": model.mean(lambda run: run.metrics.params_trainable),
        "macs": model.mean(lambda run: run.metrics.macs),
        "train_seconds": model.mean(lambda run: run.metrics.train_seconds),
        "images_per_second": model.mean(lambda run: run.metrics.images_per_second),
        "latency_ms": model.mean(lambda run: run.metrics.latency_ms),
        "size_bytes": model.mean(lambda run: run.metrics.size_bytes),
        "peak_memory_bytes": model.mean(lambda run: run.metrics.peak_memory_bytes),
    }


def _rank(run: Run) -> float:
    return -run.metrics.top1_accuracy if isinstance(run, CompleteRun) else 0.0


def _raw_values(run: CompleteRun) -> dict[str, object]:
    metrics = run.metrics
    low, high = wilson_interval(run.predictions.correct.sum(), metrics.count)
    versions = dict(metrics.versions)
    return {
        "model": metrics.model,
        "training_type": metrics.training_type,
        "dataset": metrics.dataset,
        "data_split_kind": metrics.data_split_kind,
        "seed": metrics.seed,
        "folds": metrics.folds,
        "fold": metrics.fold,
        "epochs": metrics.epochs,
        "best_epoch": metrics.best_epoch,
        "top1_accuracy": metrics.top1_accuracy,
        "top1_accuracy_low": float(low),
        "top1_accuracy_high": float(high),
        "top5_accuracy": metrics.top5_accuracy,
        "macro_f1": metrics.macro_f1,
        "loss": metrics.loss,
        "expected_calibration_error": expected_calibration_error(run.predictions.confidences, run.predictions.correct),
        "count": metrics.count,
        "val_top1_accuracy": metrics.val_accuracy,
        "params_total": metrics.params_total,
        "params_trainable": metrics.params_trainable,
        "macs": metrics.macs,
        "train_seconds": metrics.train_seconds,
        "images_per_second": metrics.images_per_second,
        "latency_ms": metrics.latency_ms,
        "size_bytes": metrics.size_bytes,
        "peak_memory_bytes": metrics.peak_memory_bytes,
        "device": metrics.device,
        "device_name": metrics.device_name,
        "precision": metrics.precision,
        "num_threads": metrics.num_threads,
        "weights": metrics.weights,
        "remarks": metrics.remarks,
        "dataset_fingerprint": metrics.dataset_fingerprint,
        "split_fingerprint": metrics.split_fingerprint,
        "deepbloom": versions.get("deepbloom"),
        "torch": versions.get("torch"),
        "git_commit": metrics.git_commit,
        **_raw_audit(metrics.audit),
        **raw_explanation(run),
    } | dict(run.settings)


def _raw_audit(audit: Audit | None) -> dict[str, object]:
    if audit is None:
        return {}
    return {
        "freeze_audit": audit.freeze_holds,
        "split_audit": audit.split_holds,
        "test_audit": audit.test_holds,
        "near_duplicates_test": audit.near_test,
        "top1_accuracy_without_near_duplicates": audit.accuracy_without,
    }


def _defuse(value: object) -> object:
    """Keep spreadsheets from running a text as a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value
