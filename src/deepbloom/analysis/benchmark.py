"""The benchmark table: its columns, what each means, and the raw values behind it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deepbloom.analysis.audits import Audit
from deepbloom.analysis.compare import Model, Table, calibration_error
from deepbloom.analysis.explanations import raw_explanation
from deepbloom.analysis.formatting import (
    format_bytes,
    format_count,
    format_milliseconds,
    format_percent,
    format_rate,
    format_seconds,
    shorten,
)
from deepbloom.analysis.runs import CompleteRun, Run
from deepbloom.analysis.statistics import wilson_interval


@dataclass(frozen=True)
class Column:
    """One column of the benchmark table.

    Attributes
    ----------
    heading, meaning : str
        What a student needs to read it.
    write : function of Model to str
    detail : function of Model to str, or None
        A second, smaller line of the cell.
    is_text : bool
        Words, not numbers.
    """

    heading: str
    meaning: str
    write: Callable[[Model], str]
    detail: Callable[[Model], str] | None = None
    is_text: bool = False


def _interval(model: Model) -> str:
    low, high = model.interval
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def _best_epochs(model: Model) -> str:
    best = [run.metrics.best_epoch for run in model.runs]
    return f"{best[0]}" if min(best) == max(best) else f"{min(best)}–{max(best)}"


def _count_runs(model: Model) -> str:
    seeds, folds = len(model.answers), len(model.runs) // len(model.answers)
    return f"{seeds} × {folds} folds" if model.runs[0].metrics.folds else f"{seeds}"


def _spread(model: Model) -> str:
    return "" if model.spread is None else f"± {100 * model.spread:.1f}"


COLUMNS = (
    Column(
        "Model",
        "The network. Settings in brackets tell apart models of the same name.",
        lambda model: shorten(model.label, 120),
        is_text=True,
    ),
    Column(
        "Training type",
        "From scratch: all weights start at random. Frozen: a pretrained network of which only the last layer learns. "
        "Partial: its last stages learn too.",
        lambda model: shorten(model.runs[0].metrics.training_type),
        is_text=True,
    ),
    Column(
        "Test accuracy",
        "Share of the test pictures that are classified correctly, mean over runs. In brackets, its 95 % interval: "
        "for a single run, how far other test pictures would move it (Wilson); for several seeds, how far other seeds "
        "would move the mean on these pictures (Student's t); for folds, how far other pictures would move the mean "
        "(Student's t, widened because folds share training pictures: Nadeau and Bengio 2003).",
        lambda model: format_percent(model.accuracy),
        _interval,
    ),
    Column(
        "Parameters",
        "Numbers that make up the network: its size.",
        lambda model: format_count(model.mean(lambda run: run.metrics.params_total)),
    ),
    Column(
        "Trainable",
        "Parameters that training may change; the others are frozen.",
        lambda model: format_count(model.mean(lambda run: run.metrics.params_trainable)),
    ),
    Column(
        "MACs",
        "Multiply-accumulate operations to classify one picture: its price in arithmetic.",
        lambda model: format_count(model.mean(lambda run: run.metrics.macs)),
    ),
    Column(
        "Training time",
        "Mean time that training took. Compare it on equal machines only.",
        lambda model: format_seconds(model.mean(lambda run: run.metrics.train_seconds)),
    ),
    Column(
        "Images/s",
        "Pictures that training went through per second: higher is faster.",
        lambda model: format_rate(model.mean(lambda run: run.metrics.images_per_second)),
    ),
    Column(
        "Latency",
        "Median time to classify one picture at a time, on the machine and with the threads of the run, right after "
        "training. Compare it on equal machines only.",
        lambda model: format_milliseconds(model.mean(lambda run: run.metrics.latency_ms)),
    ),
    Column(
        "Size",
        "Bytes of the weights file.",
        lambda model: format_bytes(model.mean(lambda run: run.metrics.size_bytes)),
    ),
    Column(
        "Peak memory",
        "The most memory that the run held at once.",
        lambda model: format_bytes(model.mean(lambda run: run.metrics.peak_memory_bytes)),
    ),
    Column(
        "Best epoch",
        "The pass over the training pictures after which validation accuracy was highest; those weights were tested. "
        "If it is the last one, longer training may help.",
        _best_epochs,
    ),
    Column(
        "Macro F1",
        "Mean over classes of F1, which falls with missed pictures and with false alarms alike; every class counts "
        "the same, so a value far below the accuracy means that rare classes do badly.",
        lambda model: format_percent(model.mean(lambda run: run.metrics.macro_f1)),
    ),
    Column(
        "Seeds",
        "Runs that differ only in their random numbers (and times how many folds of the pictures), and below it the "
        "standard deviation of the accuracies of all these runs, in percentage points.",
        _count_runs,
        _spread,
    ),
    Column("Remarks", "What the network is.", lambda model: shorten(model.runs[0].metrics.remarks, 160), is_text=True),
)


def list_raw_values(runs: Sequence[Run], tables: Sequence[Table]) -> tuple[list[str], list[dict[str, object]]]:
    """Return the columns and rows of report.csv: a row per run, complete or not, in the report's order."""
    number_of = {run.name: number for number, table in enumerate(tables, 1) for run in (*table.runs, *table.repeats)}
    counted = {run.name for table in tables for run in table.runs}
    ordered = sorted(runs, key=lambda run: (number_of.get(run.name, len(tables) + 1), _rank(run), run.name))
    rows: list[dict[str, object]] = []
    for run in ordered:
        row: dict[str, object] = {"run": run.name, "state": run.state, "problem": run.problem}
        if isinstance(run, CompleteRun):
            row |= {"table": number_of[run.name], "counted": run.name in counted} | _raw_values(run)
        rows.append({key: _defuse(value) for key, value in row.items()})
    return list(dict.fromkeys(key for row in rows for key in row)), rows


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
        "expected_calibration_error": calibration_error(run),
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
