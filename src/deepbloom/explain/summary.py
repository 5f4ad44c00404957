"""Summary of measured maps: what each measure means, means with intervals, paired differences, findings."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from deepbloom.explain.methods import METHODS
from deepbloom.report.intervals import mean_interval
from deepbloom.report.statistics import compare_values, correct_for_number

RANDOM_WEIGHTS, RANDOM_MAPS, CENTER = "random_weights", "random_maps", "center"
CONTROLS = {
    RANDOM_MAPS: "random maps",
    CENTER: "a blob in the center",
    RANDOM_WEIGHTS: "the same network with random weights",
}
"""Maps that know nothing of what the network has learned."""

Values = Mapping[str, Mapping[str, np.ndarray]]
"""By kind of map (a method or a control) and measure: one value per image, NaN where there is none."""


@dataclass(frozen=True)
class Measure:
    """A measure of maps and how to read it."""

    title: str
    meaning: str
    higher_is_better: bool = True
    lowest: float = 0.0
    """The lowest value; the highest is 1."""

    @property
    def arrow(self) -> str:
        """The direction that is better."""
        return "↑" if self.higher_is_better else "↓"


MEASURES = {
    "deletion_area": Measure(
        "deletion",
        "Mean probability of the class while the marked pixels are replaced by the mean color, most evidence first; "
        "lower is better (Petsiuk et al. 2018).",
        higher_is_better=False,
    ),
    "insertion_area": Measure(
        "insertion",
        "Mean probability of the class while the blurred image becomes sharp, most evidence first; higher is better "
        "(Petsiuk et al. 2018).",
    ),
    "road_score": Measure(
        "ROAD",
        "Probability after the least relevant pixels are interpolated from their surroundings, minus the probability "
        "after the most relevant ones are; random maps get 0, higher is better (Rong et al. 2022).",
        lowest=-1.0,
    ),
    "average_drop": Measure(
        "average drop",
        "Share of the probability that is lost when the image is dimmed by its map; lower is better, and a map that "
        "is bright everywhere is best (Chattopadhay et al. 2018).",
        higher_is_better=False,
    ),
    "increase": Measure(
        "increase",
        "Share of the images whose probability grows when they are dimmed by their maps; higher is better "
        "(Chattopadhay et al. 2018).",
    ),
    "energy_inside": Measure(
        "energy inside",
        "Share of the map's sum that lies on the flower; a uniform map gets the flower's share of the image "
        "(Wang et al. 2020).",
    ),
    "pointing_hit": Measure(
        "pointing game",
        "Share of the images in which the strongest point lies on the flower or within 15 of 224 pixels of it "
        "(Zhang et al. 2016).",
    ),
    "iou": Measure(
        "IoU",
        "Overlap of the flower with the part of the map above a threshold, over their union. Each kind of map has its "
        "own threshold, the best on validation images.",
    ),
}


@dataclass(frozen=True)
class Interval:
    """A mean over images and its 95 % interval."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Contrast(Interval):
    """A mean paired difference. Its interval is widened by Holm's correction for all differences measured."""

    p_value: float
    """After Holm's correction: below 0.05 exactly if the interval leaves out zero."""


Means = dict[str, dict[str, Interval]]
"""By kind of map and measure."""
Contrasts = dict[str, dict[str, dict[str, Contrast]]]
"""By method, control and measure."""


def summarize(values: Values) -> Means:
    """Return the mean of each measure of each kind of map; measures without a value are left out."""
    return {
        kind: {name: found for name in MEASURES if name in columns and (found := _mean(name, columns[name]))}
        for kind, columns in values.items()
    }


def compare_with_controls(values: Values) -> Contrasts:
    """Return the mean paired differences: a method's value minus the control's."""
    contrasts: Contrasts = {
        method: {control: {} for control in CONTROLS} for method in values if method not in CONTROLS
    }
    places, tests, counts = [], [], []
    for method, controls in contrasts.items():
        for control in controls:
            for name in (name for name in MEASURES if name in values[method]):
                first, second = values[method][name], values[control][name]
                known = np.isfinite(first) & np.isfinite(second)
                if known.any():
                    places.append((method, control, name))
                    tests.append(partial(compare_values, first[known], second[known], 1 - MEASURES[name].lowest))
                    counts.append(int(known.sum()))
    for (method, control, name), count, (found, p) in zip(places, counts, correct_for_number(tests), strict=True):
        contrasts[method][control][name] = Contrast(found.estimate, found.low, found.high, count, p)
    return contrasts


def judge(name: str, difference: Contrast) -> str:
    """Return ``better`` or ``worse`` if the corrected interval of a difference excludes zero, ``unclear`` otherwise."""
    if difference.low <= 0 <= difference.high:
        return "unclear"
    return "better" if (difference.mean > 0) == MEASURES[name].higher_is_better else "worse"


def state_findings(differences: Contrasts) -> list[str]:
    """Return a sentence for each method and control."""
    words = {"better": "better", "worse": "worse", "unclear": "no clear difference"}
    sentences = []
    for method, controls in differences.items():
        for control, measured in controls.items():
            verdicts: dict[str, list[str]] = {verdict: [] for verdict in words}
            for name, difference in measured.items():
                verdicts[judge(name, difference)].append(MEASURES[name].title)
            parts = [f"{words[verdict]} in {', '.join(found)}" for verdict, found in verdicts.items() if found]
            sentences.append(f"{METHODS[method].title} against {CONTROLS[control]}: {'; '.join(parts)}.")
    return sentences


def _mean(name: str, values: np.ndarray) -> Interval | None:
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    low, high = mean_interval(known, MEASURES[name].lowest)
    return Interval(float(known.mean()), low, high, len(known))
