"""What ``deepbloom explain`` found: means with intervals, and what they say, from values per image."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepbloom.errors import RunError
from deepbloom.explain.measures import MEASURES
from deepbloom.report.statistics import bootstrap_mean
from deepbloom.runs.parsing import load_json
from deepbloom.runs.reading import CompleteRun

FOLDER, RESULTS, TABLE = "explain", "explain.json", "explain.csv"
RANDOM_WEIGHTS, RANDOM_MAPS, CENTRE = "random_weights", "random_maps", "center"
CONTROLS = {
    RANDOM_MAPS: "random maps",
    CENTRE: "a blob in the center",
    RANDOM_WEIGHTS: "the same network with random weights",
}
"""Maps that know nothing of what the network has learned."""

BOOTSTRAP = 2_000
"""Draws for each interval."""
Values = Mapping[str, Mapping[str, np.ndarray]]
"""By kind of map (a method or a control) and name of a measure: one value per image, NaN where it cannot be."""


@dataclass(frozen=True)
class Interval:
    """A mean over images and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int


def summarize(values: Values) -> dict[str, dict[str, Interval]]:
    """Return the mean of every measure of every kind of map; measures without a single value are left out."""
    return {
        kind: {name: found for name in MEASURES if name in columns and (found := _mean(columns[name]))}
        for kind, columns in values.items()
    }


def compare_with_controls(values: Values) -> dict[str, dict[str, dict[str, Interval]]]:
    """Return, for every method, control and measure, the mean of the method's value minus the control's, paired."""
    return {
        method: {
            control: {
                name: found
                for name in MEASURES
                if name in values[method] and (found := _mean(values[method][name] - values[control][name]))
            }
            for control in CONTROLS
        }
        for method in values
        if method not in CONTROLS
    }


def judge(name: str, difference: Interval) -> str:
    """Return ``better``, ``worse`` or ``unclear``: whether the interval of a difference leaves out zero, and where."""
    if difference.low <= 0 <= difference.high:
        return "unclear"
    return "better" if (difference.mean > 0) == MEASURES[name].higher_is_better else "worse"


def state_findings(
    differences: Mapping[str, Mapping[str, Mapping[str, Interval]]], titles: Mapping[str, str]
) -> list[str]:
    """Return a sentence for every method, called by its title, and control."""
    sentences = []
    for method, controls in differences.items():
        for control, measured in controls.items():
            verdicts: dict[str, list[str]] = {"better": [], "worse": [], "unclear": []}
            for name, difference in measured.items():
                verdicts[judge(name, difference)].append(MEASURES[name].title)
            parts = [
                f"{words} in {', '.join(verdicts[verdict])}"
                for verdict, words in (("better", "better"), ("worse", "worse"), ("unclear", "not told apart"))
                if verdicts[verdict]
            ]
            sentences.append(f"{titles.get(method, method)} against {CONTROLS[control]}: {'; '.join(parts)}.")
    return sentences


def _mean(values: np.ndarray) -> Interval | None:
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    low, high = bootstrap_mean(known, BOOTSTRAP)
    return Interval(float(known.mean()), low, high, len(known))


def read_explanation(run: Path) -> dict | None:
    """Return what ``deepbloom explain`` wrote into a run directory; None where it did not.

    Raises
    ------
    RunError
        The file is damaged.
    """
    path = run / FOLDER / RESULTS
    return load_json(path) if path.exists() else None


def raw_explanation(run: CompleteRun) -> dict[str, object]:
    """Return the columns of report.csv that ``deepbloom explain`` adds to a run's row."""
    return {f"explain_{name}": found["mean"] for name, found in read_means(run).items()}


def read_means(run: CompleteRun) -> dict[str, dict[str, float]]:
    """Return ``mean``, ``low`` and ``high`` of every measure of a run's heatmaps; none where they were not measured."""
    try:
        content = read_explanation(run.path) or {}
        return content["measures"][content["methods"][0]]
    except (RunError, KeyError, IndexError, TypeError):
        return {}
