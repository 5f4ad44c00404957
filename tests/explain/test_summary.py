"""Means, paired differences and verdicts follow from the values per image."""

import numpy as np
import pytest
from scipy import stats

from deepbloom.explain.summary import CONTROLS, compare_with_controls, judge, state_findings, summarize

RNG = np.random.default_rng(0)
DIFFICULTY = RNG.normal(0.5, 0.2, 40)


def values(shift: float) -> dict[str, dict[str, np.ndarray]]:
    """Insertion and deletion areas of maps that are ``shift`` better than all controls, image by image."""
    noise = RNG.normal(0, 0.02, 40)
    better = {"insertion_area": DIFFICULTY + shift + noise, "deletion_area": DIFFICULTY - shift + noise}
    plain = {"insertion_area": DIFFICULTY, "deletion_area": DIFFICULTY}
    return {"gradcam": better} | {control: plain for control in CONTROLS}


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


def test_few_images_prove_nothing_and_no_interval_is_a_point() -> None:
    """Four images of 25 against none: p is 0.125 for one verdict, and there are three controls."""
    hits, none = np.arange(25.0) < 4, np.zeros(25)
    found = {"gradcam": {"pointing_hit": hits * 1.0}} | {control: {"pointing_hit": none} for control in CONTROLS}
    contrasts = compare_with_controls(found)["gradcam"]
    assert {judge("pointing_hit", contrast["pointing_hit"]) for contrast in contrasts.values()} == {"unclear"}
    assert [contrast["pointing_hit"].p_value for contrast in contrasts.values()] == pytest.approx([0.375] * 3)
    assert summarize(found)["center"]["pointing_hit"].high > 0.1


def test_verdicts_are_corrected_for_their_number() -> None:
    """Of maps as good as the controls, at most 6 of 100 networks get any verdict. The control judges each alone."""
    rng = np.random.default_rng(3)
    names = ("insertion_area", "deletion_area", "energy_inside", "iou")
    any_verdict, any_alone = [], []
    for _ in range(200):
        found = {kind: {name: rng.beta(1, 4, 25) for name in names} for kind in ("gradcam", *CONTROLS)}
        contrasts = compare_with_controls(found)["gradcam"]
        judged = [judge(name, contrast[name]) for contrast in contrasts.values() for name in names]
        any_verdict.append(set(judged) != {"unclear"})
        alone = [stats.ttest_rel(found["gradcam"][n], found[c][n]).pvalue for c in CONTROLS for n in names]
        any_alone.append(min(alone) < 0.05)
    assert np.mean(any_verdict) <= 0.06
    assert np.mean(any_alone) > 0.2
