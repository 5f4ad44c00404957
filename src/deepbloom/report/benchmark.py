"""The benchmark table: its columns and what each means."""

from collections.abc import Callable
from dataclasses import dataclass

from deepbloom.report.formatting import (
    format_bytes,
    format_count,
    format_milliseconds,
    format_percent,
    format_rate,
    format_seconds,
    shorten,
)
from deepbloom.report.model import Model


@dataclass(frozen=True)
class Column:
    """One column of the benchmark table.

    Attributes
    ----------
    heading, meaning : str
        What a student needs to read it.
    write : function of Model to str
    detail : function of Model to str, or None
        Smaller lines below.
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
    return f"[{100 * low:.1f}, {100 * high:.1f}]\nover {model.interval_kind}"


def _name_in_figures(model: Model) -> str:
    return "" if model.short == shorten(model.label) else f"in figures: {model.short}"


def _range(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low}–{high}"


def _count_runs(model: Model) -> str:
    seeds, folds = len(model.answers), len(model.runs) // len(model.answers)
    return f"{seeds} × {folds} folds" if model.runs[0].metrics.folds else f"{seeds}"


def _spread(model: Model) -> str:
    return "" if model.spread is None else f"± {100 * model.spread:.1f}"


COLUMNS = (
    Column(
        "Model",
        "The network. Settings, or versions of the code, in brackets tell apart models of the same name.",
        lambda model: shorten(model.label, 120),
        _name_in_figures,
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
        "Share of the test images that are classified correctly, mean over runs. Below it its 95 % interval, and "
        "over what. Over images: how far other test images would move it (Wilson), of a single run, and of several "
        "that are all equally accurate, whose spread says nothing. Over seeds: how far other seeds would move the mean "
        "on these images (Student's t). Over folds: how far other images would move the mean (Student's t, widened "
        "because folds share training images: Nadeau and Bengio 2003). Intervals over images and over seeds answer "
        "different questions: do not compare their widths.",
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
        "Multiply-accumulate operations to classify one image: its price in arithmetic.",
        lambda model: format_count(model.mean(lambda run: run.metrics.macs)),
    ),
    Column(
        "Training time",
        "Mean time that training took. Compare it on equal machines only.",
        lambda model: format_seconds(model.mean(lambda run: run.metrics.train_seconds)),
    ),
    Column(
        "Images/s",
        "Images that training went through per second: higher is faster.",
        lambda model: format_rate(model.mean(lambda run: run.metrics.images_per_second)),
    ),
    Column(
        "Latency",
        "Median time to classify one image at a time, on the machine and with the threads of the run, right after "
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
        "Epochs",
        "Passes over the training images: a model that had more of them had an advantage. Below it the best one, "
        "after which validation accuracy was highest; those weights were tested. If it is the last, longer training "
        "may help.",
        lambda model: _range([run.metrics.epochs for run in model.runs]),
        lambda model: f"best {_range([run.metrics.best_epoch for run in model.runs])}",
    ),
    Column(
        "Macro F1",
        "Mean over classes of F1, which falls with missed images and with false alarms alike; every class counts "
        "the same, so a value far below the accuracy means that rare classes do badly.",
        lambda model: format_percent(model.mean(lambda run: run.metrics.macro_f1)),
    ),
    Column(
        "Seeds",
        "Runs that differ only in their random numbers (and times how many folds of the images), and below it the "
        "standard deviation of the accuracies of all these runs, in percentage points.",
        _count_runs,
        _spread,
    ),
    Column("Remarks", "What the network is.", lambda model: shorten(model.runs[0].metrics.remarks, 160), is_text=True),
)
