"""Figures of confidence: accuracy by confidence, before and after the temperature, and errors by coverage."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter
from numpy.typing import NDArray

from deepbloom.calibration.rejection import risk_coverage
from deepbloom.metrics import Reliability, bin_by_confidence, expected_calibration_error
from deepbloom.report.formatting import format_percent, shorten
from deepbloom.report.group_plots import MAX_LINES, join, legend_below, say_left_out
from deepbloom.report.groups import Group
from deepbloom.report.intervals import wilson_interval
from deepbloom.report.models import Model
from deepbloom.report.pages import Illustration
from deepbloom.report.run_plots import COLORS, DASHES, FAINT, PERCENT, open_figure
from deepbloom.runs.reading import CompleteRun, read_probabilities

CALIBRATION = (
    "Of the predictions with 80 % confidence, a calibrated model gets 80 % right: its points are on the diagonal. "
    "Below it a model is overconfident, above it underconfident. ECE is the mean distance to the diagonal. "
    "Gray crosses are before the temperature that was fitted on validation, dots after it. Lines are 95 % intervals "
    "over images."
)
RISK = (
    "Predictions are accepted from the most confident down. A curve shows the share of errors among the accepted ones: "
    "the lower, the better confidence tells right from wrong. AURC is the area below it. Dots are what predict "
    "reject=auto accepts at its default guarantee, chosen on validation."
)


class Panel(NamedTuple):
    """A model's predictions by confidence.

    ``seeds`` is how often each image is in ``after``: seeds share their test images, so an interval is that of counts /
    seeds. ``before`` is without the temperature, None if unknown.
    """

    label: str
    after: Reliability
    error: float
    seeds: int = 1
    before: Reliability | None = None
    error_before: float | None = None


class Curve(NamedTuple):
    """Errors by coverage: coverage and risk, shape (N,), and where the threshold lies, None if unknown."""

    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]
    chosen: tuple[float, float] | None = None


def uncalibrated_confidences(run: CompleteRun) -> NDArray[np.float64] | None:
    """Return the confidences of a run's predictions without its temperature, shape (N,); None if they are unknown.

    With the temperature T, probabilities are p = softmax(z / T); without it they are p^T, scaled to a sum of 1. Those
    in the file are of half precision, which changes confidences by less than 0.01.
    """
    temperature = run.values.get("temperature")
    probabilities = read_probabilities(run) if temperature else None
    if probabilities is None:
        return None
    powers = (probabilities / probabilities.max(axis=1, keepdims=True)) ** temperature
    return np.asarray(1 / powers.sum(axis=1))


def plot_reliability(panels: Sequence[Panel], path: Path) -> None:
    """Draw accuracy against confidence for the first `MAX_LINES` models, with 95 % Wilson intervals."""
    shown = panels[:MAX_LINES]
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    with open_figure(path, max(2.7 * columns, 4.5), 2.9 * rows + 0.7, "compressed") as figure:
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axis, panel in zip(axes.flat, shown, strict=False):
            axis.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1.2)
            after = panel.after
            low, high = wilson_interval(after.accuracy * after.counts / panel.seeds, after.counts / panel.seeds)
            axis.vlines(after.mean_confidence, low, high, color=COLORS[0], linewidth=1.2, alpha=0.55)
            axis.scatter(after.mean_confidence, after.accuracy, 30, color=COLORS[0], zorder=3)
            if panel.before:
                axis.scatter(panel.before.mean_confidence, panel.before.accuracy, 24, color=FAINT, marker="x", zorder=2)
            name = textwrap.fill(shorten(panel.label), 26)
            before = "" if panel.error_before is None else f"{format_percent(panel.error_before)} → "
            axis.set_title(f"{name}\nECE {before}{format_percent(panel.error)}", fontsize=9.5)
            axis.set(xlim=(-0.04, 1.06), ylim=(-0.04, 1.06), aspect="equal")
            for side in (axis.xaxis, axis.yaxis):
                side.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
                side.set_major_formatter(
                    FuncFormatter(lambda value, _: f"{100 * value:.0f} %" if value in (0, 0.5, 1) else "")
                )
        for axis in axes.flat[len(shown) :]:
            axis.set_visible(False)
        for axis in axes.flat[: len(shown)][-columns:]:
            axis.tick_params(labelbottom=True)
        figure.supxlabel("confidence", fontsize=10)
        figure.supylabel("accuracy", fontsize=10)
        figure.suptitle("Calibration", fontsize=11)


def plot_risk_coverage(curves: Mapping[str, Curve], path: Path) -> None:
    """Draw errors against coverage for the first `MAX_LINES` models."""
    with open_figure(path, 8.0, 4.6) as figure:
        axis = figure.add_subplot()
        for index, (label, curve) in enumerate(list(curves.items())[:MAX_LINES]):
            style: dict[str, Any] = {
                "color": COLORS[index % len(COLORS)],
                "linestyle": DASHES[index // len(COLORS) % 3],
            }
            area = f"{shorten(label)} (AURC {100 * curve.risk.mean():.2f} %)"
            axis.plot(curve.coverage, curve.risk, label=area, drawstyle="steps-post", **style)
            if curve.chosen:
                axis.plot(*curve.chosen, "o", color=style["color"], markersize=8, markeredgecolor="white", zorder=3)
        axis.set(xlim=(0, 1.02), ylim=(0, None), xlabel="share of accepted predictions", ylabel="errors among them")
        axis.xaxis.set_major_formatter(PERCENT)
        axis.yaxis.set_major_formatter(PERCENT)
        axis.set_title("Errors by share of accepted predictions")
        legend_below(figure, axis)


def draw_calibration(group: Group, path: Path, explain: bool) -> Illustration:
    """Draw reliability diagrams."""
    panels = [_panel(model) for model in group.models[:MAX_LINES]]
    plot_reliability(panels, path)
    pooled = "Dots and ECE cover the predictions of all seeds; the intervals count each image once."
    listed = "; ".join(f"{panel.label} {format_percent(panel.error)}" for panel in panels)
    return Illustration(
        path,
        f"Reliability diagrams. Expected calibration error: {listed}.",
        join(
            CALIBRATION if explain else "",
            pooled if any(panel.seeds > 1 for panel in panels) else "",
            say_left_out(len(panels), group),
        ),
    )


def _panel(model: Model) -> Panel:
    found = [uncalibrated_confidences(run) for run in model.runs]
    panel = Panel(model.short, model.reliability, model.calibration_error, len(model.predictions))
    known = [confidences for confidences in found if confidences is not None]
    if len(known) < len(found):
        return panel
    before, correct = np.concatenate(known), np.concatenate([run.predictions.correct for run in model.runs])
    error = expected_calibration_error(before, correct)
    return panel._replace(before=bin_by_confidence(before, correct), error_before=error)


def draw_risk_coverage(group: Group, path: Path, explain: bool) -> Illustration:
    """Draw errors by coverage; with several seeds, their mean."""
    shown = group.models[:MAX_LINES]
    plot_risk_coverage({model.short: _curve(model) for model in shown}, path)
    return Illustration(
        path,
        f"Errors among accepted predictions by their share, from {len(shown)} models.",
        join(RISK if explain else "", say_left_out(len(shown), group)),
    )


def _curve(model: Model) -> Curve:
    found = [risk_coverage(predictions.confidences, predictions.correct) for predictions in model.predictions]
    coverage, accuracy = model.mean_of("coverage"), model.mean_of("accepted_accuracy")
    chosen = None if coverage is None or accuracy is None else (coverage, 1 - accuracy)
    return Curve(found[0][0], np.mean([risk for _, risk in found], axis=0), chosen)
