"""Means, paired differences and verdicts follow from the values per image."""

import numpy as np
import pytest

from deepbloom.explain.summary import CONTROLS, compare_with_controls, judge, state_findings, summarize
from deepbloom.report.statistics import bootstrap_mean

RNG = np.random.default_rng(0)
DIFFICULTY = RNG.normal(0.5, 0.2, 40)


def values(shift: float) -> dict[str, dict[str, np.ndarray]]:
    """Insertion and deletion areas of maps that are ``shift`` better than all controls, image by image."""
    noise = RNG.normal(0, 0.02, 40)
    better = {"insertion_area": DIFFICULTY + shift + noise, "deletion_area": DIFFICULTY - shift + noise}
    plain = {"insertion_area": DIFFICULTY, "deletion_area": DIFFICULTY}
    return {"gradcam": better} | {control: plain for control in CONTROLS}


def test_intervals_of_a_mean_cover_it_as_often_as_they_say() -> None:
    draws = np.random.default_rng(1).exponential(1.0, (200, 40))
    covered = [low <= 1.0 <= high for low, high in (bootstrap_mean(row, num_samples=500) for row in draws)]
    assert 0.87 <= np.mean(covered) <= 0.98
    assert bootstrap_mean([0.25]) == (0.25, 0.25)


def test_images_are_compared_with_themselves() -> None:
    """The spread between images hides the difference of the means, not that of the pairs."""
    found = summarize(values(0.03))
    assert found["gradcam"]["insertion_area"].low < found["center"]["insertion_area"].high
    difference = compare_with_controls(values(0.03))["gradcam"]["center"]["insertion_area"]
    assert difference.low > 0
    assert difference.mean == pytest.approx(0.03, abs=0.01)


@pytest.mark.parametrize(("shift", "verdict"), [(0.03, "better"), (-0.03, "worse"), (0.0, "unclear")])
def test_better_is_more_insertion_and_less_deletion(shift: float, verdict: str) -> None:
    differences = compare_with_controls(values(shift))["gradcam"]["random_maps"]
    assert {judge(name, one) for name, one in differences.items()} == {verdict}


def test_findings_say_which_measures_tell_the_maps_apart() -> None:
    sentences = state_findings(compare_with_controls(values(0.03)))
    assert sentences[0] == "Grad-CAM against random maps: better in deletion, insertion."
    assert len(sentences) == 3


def test_images_without_a_mask_do_not_count() -> None:
    column = np.array([0.2, np.nan, 0.4])
    found = summarize({"gradcam": {"iou": column, "energy_inside": np.full(3, np.nan)}})["gradcam"]
    assert found.keys() == {"iou"}
    assert (found["iou"].mean, found["iou"].count) == (pytest.approx(0.3), 2)
