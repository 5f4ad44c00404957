"""The report's columns: one row of `COLUMNS` puts a value into the page, the Markdown and the CSV files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deepbloom.metrics import expected_calibration_error
from deepbloom.report.formatting import (
    format_bytes,
    format_count,
    format_milliseconds,
    format_percent,
    format_rate,
    format_seconds,
    shorten,
)
from deepbloom.report.intervals import wilson_interval
from deepbloom.report.models import Model
from deepbloom.report.pages import PageTable
from deepbloom.runs.audit import Audit
from deepbloom.runs.parsing import COUNT, FRACTION, NUMBER, POSITIVE, TEXT, THRESHOLD, Kind
from deepbloom.runs.reading import CompleteRun, Field


@dataclass(frozen=True)
class Column:
    """A value of a run and of a model."""

    key: str
    """Its column in report.csv and models.csv."""
    kind: Kind = TEXT
    """What it is. The value of a model is the mean over its runs for numbers, and what all runs share otherwise."""
    path: str = ""
    """Where it stands in metrics.json. A run without it is damaged, unless ``required`` is false."""
    heading: str = ""
    """Its column in the benchmark table; empty for the CSV files alone."""
    meaning: str = ""
    """How to read it."""
    format: Callable[[Any], str] = shorten
    required: bool = True
    run: Callable[[CompleteRun], object] | None = None
    """Where it comes from if not from metrics.json; None if only models have it."""
    model: Callable[[Model], object] | None = None
    """Where the value of a model comes from if it is not the mean."""
    detail: Callable[[Model], str] | None = None
    """Smaller lines below the value."""
    adds: bool = False
    """Whether an ensemble has the sum over its members; otherwise it has no value of theirs."""
    optional: int = 0
    """Where the table is too wide, the page leaves out columns above 0, the lowest first; readers can choose them."""

    def of_run(self, run: CompleteRun) -> Any:
        """Return the value of a run; None if it has none."""
        return run.values[self.key] if self.path else self.run(run) if self.run else None

    def of_model(self, model: Model) -> Any:
        """Return the value of a model; None if one of its runs has none, or if runs differ in a text."""
        if self.model:
            return self.model(model)
        if self.kind.is_number:
            return model.total(self.of_run) if self.adds else model.mean(self.of_run)
        first, *others = map(self.of_run, model.runs)
        return first if all(other == first for other in others) else None

    def cell(self, model: Model) -> str:
        """Return the cell of the benchmark table: the value, and its details on lines of their own."""
        value = self.of_model(model)
        if value is None:
            return "–"
        return "\n".join(filter(None, [self.format(value), self.detail(model) if self.detail else ""]))


def _interval(model: Model) -> str:
    low, high = model.interval
    return f"[{100 * low:.1f}, {100 * high:.1f}]\nover {model.interval_kind}"


def _other_names(model: Model) -> str:
    names = list(dict.fromkeys(shorten(run.metrics.name) for run in model.runs if run.metrics.name))
    in_figures = "" if model.short in (model.label, shorten(model.label)) else f"in figures: {model.short}"
    return "\n".join(filter(None, [", ".join(names), in_figures]))


def _best_epochs(model: Model) -> str:
    epochs = [run.values["best_epoch"] for run in model.runs]
    return f"best {min(epochs)}" if min(epochs) == max(epochs) else f"best {min(epochs)}–{max(epochs)}"


def _folds_and_spread(model: Model) -> str:
    folds = f"× {len(model.runs) // len(model.predictions)} folds" if model.runs[0].metrics.folds else ""
    spread = "" if model.spread is None else f"± {100 * model.spread:.1f}"
    return f"{folds}\n{spread}".strip()


def _calibration(model: Model) -> str:
    run = model.runs[0]
    low, high = (run.values[f"calibration_error_{end}"] for end in ("low", "high"))
    known = len(model.runs) == 1 and low is not None and high is not None
    mean = model.mean_of("calibration_error_before")
    interval = f"[{100 * low:.1f}, {100 * high:.1f}]" if known else ""
    return "\n".join(filter(None, [interval, "" if mean is None else f"before {format_percent(mean)}"]))


def _guarantee(model: Model) -> str:
    target, threshold, accuracy = map(
        model.mean_of, ("guaranteed_accuracy", "rejection_threshold", "accepted_accuracy")
    )
    if target is None:
        return ""
    if threshold is None:
        return f"{100 * target:g} % cannot\nbe shown"
    above = "all" if threshold < 0 else f"above {threshold:.3f}"
    right = "" if accuracy is None else f"{format_percent(accuracy)} right"
    return "\n".join(filter(None, [f"for {100 * target:g} %", above, right]))


def _wilson(run: CompleteRun, end: int) -> float:
    return float(wilson_interval(run.predictions.correct.sum(), run.metrics.count)[end])


def _audit(get: Callable[[Audit], object]) -> Callable[[CompleteRun], object]:
    return lambda run: get(run.metrics.audit) if run.metrics.audit else None


AFTER, BEFORE = (f"test.calibration.{when}.expected_calibration_error" for when in ("after", "before"))

# fmt: off
COLUMNS = (
    Column(
        "label",
        model=lambda model: model.label,
        heading="Model",
        meaning="The network. Brackets hold the settings that tell apart models of the same name. Below, the "
        "names that its runs were given with name=.",
        format=lambda label: shorten(label, 120),
        detail=_other_names,
    ),
    Column(
        "training_type", TEXT, "training_type", "Training type",
        "From scratch: all weights start at random. Frozen: a pretrained network of which only the classifier is "
        "trained. Partial: its last stages are trained too.",
    ),
    Column(
        "top1_accuracy",
        FRACTION,
        run=lambda run: run.metrics.top1_accuracy,
        model=lambda model: model.accuracy,
        heading="Test accuracy",
        meaning="Share of test images that are classified correctly, mean over runs, with its 95 % interval below. "
        "Over images: how far other test images would move it (Wilson), for a single run or for runs that are equally "
        "accurate. Over seeds: how far other seeds would move the mean on these images (Student's t). Over folds: how "
        "far other images would move the mean (Student's t, widened because folds share training images: Nadeau and "
        "Bengio 2003). These intervals answer different questions, so do not compare their widths.",
        format=format_percent,
        detail=_interval,
    ),
    Column("top1_accuracy_low", FRACTION, run=lambda run: _wilson(run, 0), model=lambda model: model.interval[0]),
    Column("top1_accuracy_high", FRACTION, run=lambda run: _wilson(run, 1), model=lambda model: model.interval[1]),
    Column("interval_over", run=lambda run: "images", model=lambda model: model.interval_kind),
    Column("top1_accuracy_std", model=lambda model: model.spread),
    Column("params_total", COUNT, "params.total", "Parameters", "Size of the network.", format_count, adds=True),
    Column(
        "params_trainable", COUNT, "params.trainable", "Trainable",
        "Parameters that are trained; the others are frozen.", format_count, optional=1, adds=True,
    ),
    Column(
        "macs", COUNT, "macs", "MACs",
        "Multiply-accumulate operations to classify one image.", format_count, required=False, adds=True,
    ),
    Column(
        "train_seconds", NUMBER, "train_seconds", "Training time",
        "Training steps and feature cache, mean over runs. Comparable on equal machines only.", format_seconds,
        adds=True,
    ),
    Column("total_seconds", NUMBER, "total_seconds", required=False),
    Column(
        "images_per_second", NUMBER, "images_per_second", "Images/s",
        "Training images per second.", format_rate, required=False, optional=1,
    ),
    Column(
        "latency_ms", NUMBER, "latency_ms", "Latency",
        "Median time to classify a single image, measured after training on the same machine and threads. Comparable "
        "on equal machines only.", format_milliseconds, required=False, adds=True,
    ),
    Column(
        "size_bytes", COUNT, "size_bytes", "Size", "Size of the weights file.", format_bytes, required=False, adds=True,
    ),
    Column(
        "peak_memory_bytes", COUNT, "peak_memory_bytes", "Peak memory",
        "Highest memory use of the run: of the GPU where it trained on one, otherwise of the process.", format_bytes,
        required=False, optional=1,
    ),
    Column("peak_memory_of", TEXT, "peak_memory_of", required=False),
    Column(
        "epochs", POSITIVE, "epochs", "Epochs",
        "Passes over the training images; more of them are an advantage. Below, the epoch whose weights were "
        "tested: the latest whose validation accuracy is within one standard error of the highest.", "{:.0f}".format,
        detail=_best_epochs,
    ),
    Column("best_epoch", POSITIVE, "best_epoch"),
    Column(
        "macro_f1", FRACTION, "test.macro_f1", "Macro F1",
        "Mean F1 score over classes, in which every class counts the same. A value far below the accuracy means that "
        "rare classes do badly.", format_percent,
    ),
    Column("top5_accuracy", FRACTION, "test.top5_accuracy"),
    Column("loss", NUMBER, "test.loss"),
    Column(
        "expected_calibration_error",
        FRACTION,
        run=lambda run: expected_calibration_error(run.predictions.confidences, run.predictions.correct),
        model=lambda model: model.calibration_error,
        heading="ECE",
        meaning="Expected calibration error: the mean distance between confidence and accuracy. Below, its 95 % "
        "interval over images for a single run, and what it is before the temperature.",
        format=format_percent,
        detail=_calibration,
        optional=4,
    ),
    Column("calibration_error_low", FRACTION, f"{AFTER}.low", required=False),
    Column("calibration_error_high", FRACTION, f"{AFTER}.high", required=False),
    Column("calibration_error_before", FRACTION, f"{BEFORE}.value", required=False),
    Column("temperature", NUMBER, "test.calibration.temperature", required=False),
    Column(
        "area_under_risk_coverage", FRACTION, "rejection.area_under_risk_coverage", "AURC",
        "Area under the risk-coverage curve: the mean share of errors among accepted predictions. Lower is better.",
        lambda area: format_percent(area, 2), required=False, optional=2,
    ),
    Column("guaranteed_accuracy", FRACTION, "rejection.target", required=False),
    Column(
        "coverage", FRACTION, "rejection.coverage", "Coverage",
        "Share of test images that predict reject=auto accepts at its default guarantee, chosen on validation. Below, "
        "the guarantee, the confidence above which predictions are accepted, and how many of them are correct.",
        format_percent, required=False, detail=_guarantee, optional=4,
    ),
    Column("rejection_threshold", THRESHOLD, "rejection.threshold", required=False),
    Column("accepted_accuracy", FRACTION, "rejection.accuracy", required=False),
    Column("count", COUNT, run=lambda run: run.metrics.count, model=lambda model: model.correct.shape[1]),
    Column("val_top1_accuracy", FRACTION, "val.top1_accuracy"),
    Column(
        "seeds",
        COUNT,
        model=lambda model: len(model.predictions),
        heading="Seeds",
        meaning="Runs that differ only in their seed, times the folds. Below, the standard deviation of their "
        "accuracies in percentage points.",
        format=str,
        detail=_folds_and_spread,
    ),
    Column("model", run=lambda run: run.metrics.model),
    Column("name", run=lambda run: run.metrics.name),
    Column("dataset", run=lambda run: run.metrics.dataset),
    Column("data_name", run=lambda run: run.metrics.data_name),
    Column("data_split_kind", run=lambda run: run.metrics.data_split_kind),
    Column("seed", run=lambda run: run.metrics.seed),
    Column("folds", run=lambda run: run.metrics.folds),
    Column("fold", run=lambda run: run.metrics.fold),
    Column("weights", path="weights", required=False),
    Column("device", path="device"),
    Column("device_name", run=lambda run: run.metrics.device_name),
    Column("precision", run=lambda run: run.metrics.precision),
    Column("num_threads", COUNT, run=lambda run: run.metrics.num_threads),
    Column("dataset_fingerprint", run=lambda run: run.metrics.dataset_fingerprint),
    Column("split_fingerprint", run=lambda run: run.metrics.split_fingerprint),
    Column("deepbloom", run=lambda run: run.metrics.versions.get("deepbloom")),
    Column("torch", run=lambda run: run.metrics.versions.get("torch")),
    Column("git_commit", run=lambda run: run.metrics.git_commit),
    Column("freeze_audit", run=_audit(lambda audit: audit.freeze_holds)),
    Column("split_audit", run=_audit(lambda audit: audit.split_holds)),
    Column("test_audit", run=_audit(lambda audit: audit.test_holds)),
    Column("near_duplicates_test", COUNT, run=_audit(lambda audit: audit.near_test)),
    Column("top1_accuracy_without_near_duplicates", FRACTION, run=_audit(lambda audit: audit.accuracy_without)),
    Column("description", TEXT, "description", required=False),
)
# fmt: on


def fields(columns: Sequence[Column]) -> dict[str, Field]:
    """Return what the columns need from metrics.json, by key."""
    return {column.key: Field(column.path, column.kind, column.required) for column in columns if column.path}


def shown_columns(columns: Sequence[Column], models: Sequence[Model]) -> list[Column]:
    """Return the columns that have a heading, and a value of at least one model."""
    return [
        column for column in columns if column.heading and any(column.of_model(model) is not None for model in models)
    ]


def benchmark_table(columns: Sequence[Column], models: Sequence[Model], shown: int | None = None) -> PageTable:
    """Return a row per model, of those columns that have a heading and a value of some model."""
    headed = shown_columns(columns, models)
    return PageTable(
        [column.heading for column in headed],
        [[column.cell(model) for column in headed] for model in models],
        words=frozenset(place for place, column in enumerate(headed) if not column.kind.is_number),
        optional={place: column.optional for place, column in enumerate(headed) if column.optional},
        look="benchmark",
        shown=shown,
    )
