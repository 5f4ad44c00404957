"""The figures of a report: which are drawn for a table, and what each says in words."""

import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepbloom.report import comparison_figures as figures
from deepbloom.report.compare import Table
from deepbloom.report.figures import plot_confusion
from deepbloom.report.formatting import format_count, format_percent, format_seconds, shorten
from deepbloom.report.model import Model

TOPICS = ("accuracy", "curves", "cost", "calibration", "confusion")
MAX_CONFUSIONS = 8
"""Models whose confusion matrices are all drawn; of more, the `BEST_CONFUSIONS` most accurate."""
BEST_CONFUSIONS = 3
MANY_CLASSES = 40
"""Of so many classes or more, and so many models that only the best are drawn, one is: each takes a second."""
MAX_BARS = 30


@dataclass(frozen=True)
class Illustration:
    """A figure in a report.

    Attributes
    ----------
    path : Path
        The PNG.
    alt : str
        What it shows, for those who cannot see it.
    caption : str
        How to read it.
    """

    path: Path
    alt: str
    caption: str

    @property
    def width(self) -> int:
        """Width in pixels, from the PNG's header."""
        with open(self.path, "rb") as file:
            return struct.unpack(">I", file.read(20)[16:])[0]


def draw(number: int, table: Table, folder: Path) -> dict[str, list[Illustration]]:
    """Draw a table's figures into ``folder`` and return them by topic (`TOPICS`); their names begin with ``number``."""
    best = 1 if len(table.class_names) >= MANY_CLASSES else BEST_CONFUSIONS
    confused = table.models if len(table.models) <= MAX_CONFUSIONS else table.models[:best]
    return {
        "accuracy": [_draw_accuracy(table, folder / f"{number}_accuracy.png")],
        "curves": [_draw_curves(table, folder / f"{number}_curves.png")] if any(r.history for r in table.runs) else [],
        "cost": [_draw_cost(table, folder / f"{number}_cost.png")],
        "calibration": [_draw_calibration(table, folder / f"{number}_calibration.png")],
        "confusion": [
            _draw_confusion(table, model, folder / f"{number}_confusion_{rank}_{_slug(model.label)}.png")
            for rank, model in enumerate(confused, 1)
        ],
    }


def _draw_accuracy(table: Table, path: Path) -> Illustration:
    shown = table.models[:MAX_BARS]
    figures.plot_accuracy([m.short for m in shown], [m.accuracy for m in shown], [m.interval for m in shown], path)
    return Illustration(
        path,
        f"Test accuracy of {_count_models(shown, table)} with 95 % intervals, from "
        f"{format_percent(shown[-1].accuracy)} to {format_percent(shown[0].accuracy)}; the benchmark table holds the "
        "same numbers.",
        "The dot is the accuracy, the bar its 95 % interval; the benchmark table says over what. Overlapping bars do "
        "not decide whether two models differ: the paired comparison does, because both answered the same images."
        + _say_left_out(len(shown), len(table.models)),
    )


def _draw_curves(table: Table, path: Path) -> Illustration:
    curves = {m.short: [r.history for r in m.runs if r.history] for m in table.models if any(r.history for r in m.runs)}
    figures.plot_curves(curves, path)
    shown = list(curves)[: figures.MAX_LINES]
    return Illustration(
        path,
        f"Training and validation loss and accuracy by epoch of {len(shown)} models.",
        "Training numbers far better than validation numbers mean that the network learns its images by heart. Lines "
        "that still rise at the end may gain from more epochs. With augmentation or dropout, which act in training "
        "only, validation may look better than training. Where training images grow, a curve bends as they do."
        + _say_left_out(len(shown), len(curves)),
    )


def _draw_cost(table: Table, path: Path) -> Illustration:
    models = table.models
    costs = [
        figures.Cost(
            "parameters",
            "parameters",
            [model.mean(lambda run: run.metrics.params_total) for model in models],
            figures.COUNT_TICKS,
            format_count,
        ),
        figures.Cost(
            "MACs",
            "multiply-accumulate operations per image",
            [model.mean(lambda run: run.metrics.macs) for model in models],
            figures.COUNT_TICKS,
            format_count,
        ),
        figures.Cost(
            "training time",
            "training time",
            [model.mean(lambda run: run.metrics.train_seconds) for model in models],
            figures.SECOND_TICKS,
            format_seconds,
        ),
    ]
    figures.plot_pareto([m.short for m in models], [m.accuracy for m in models], costs, path)
    return Illustration(
        path,
        f"Test accuracy of {len(models)} models against parameters, MACs and training time; the benchmark table holds "
        "the same numbers.",
        "Up is more accurate, left is cheaper; each step to the right multiplies the cost. Filled points joined by the "
        "dashed line are the Pareto front: whoever wants more accuracy than one of them must pay more. The front goes "
        "by the measured accuracies and knows nothing of ties: where the paired comparison says tie, the cheaper model "
        "may be as good."
        + (f" Grey: models after the first {figures.MAX_LINES}." if len(models) > figures.MAX_LINES else ""),
    )


def _draw_calibration(table: Table, path: Path) -> Illustration:
    shown = table.models[: figures.MAX_LINES]
    errors = {model.short: model.calibration_error for model in shown}
    seeds = {model.short: len(model.answers) for model in shown}
    figures.plot_reliability({model.short: model.reliability for model in shown}, errors, seeds, path)
    pooled = (
        " Dots and ECE are over the answers of all seeds together; the intervals count each image once, however many "
        "seeds answered it."
        if max(seeds.values()) > 1
        else ""
    )
    listed = "; ".join(f"{shorten(label)} {format_percent(error)}" for label, error in errors.items())
    return Illustration(
        path,
        f"Reliability diagrams. Expected calibration error: {listed}.",
        "A calibrated model that says 80 % is right 80 times in 100: its points lie on the diagonal. Below it the "
        "model is too sure of itself, above it too modest. ECE is the mean distance from the diagonal, 0 % at best. "
        f"Larger dots hold more answers; lines are 95 % intervals over images (Wilson).{pooled}"
        + _say_left_out(len(shown), len(table.models)),
    )


def _draw_confusion(table: Table, model: Model, path: Path) -> Illustration:
    matrix = model.confusion(len(table.class_names))
    plot_confusion(matrix, table.class_names, path, model.label)
    mistakes = matrix * ~np.eye(len(matrix), dtype=bool)
    row, column = np.unravel_index(mistakes.argmax(), mistakes.shape)
    worst = (
        f" The most common mistake: {shorten(table.class_names[row])} taken for {shorten(table.class_names[column])}, "
        f"{mistakes.max()} times."
        if mistakes.any()
        else ""
    )
    seeds = f" of its {len(model.runs)} runs" if len(model.runs) > 1 else ""
    return Illustration(
        path,
        f"Confusion matrix of {shorten(model.label, 80)}: {np.trace(matrix)} of {matrix.sum()} answers{seeds} are on "
        f"the diagonal.{worst}",
        f"{shorten(model.label, 80)}: each row is a true class, each column an answer.{worst}",
    )


def _count_models(shown: tuple[Model, ...], table: Table) -> str:
    return f"{len(shown)} models" if len(shown) == len(table.models) else f"the {len(shown)} most accurate models"


def _say_left_out(shown: int, total: int) -> str:
    return f" The {shown} most accurate of {total} models are drawn." if shown < total else ""


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:40] or "model"
