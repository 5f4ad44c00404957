"""Galleries: which predictions they show, how they are drawn, and what an earlier one leaves."""

import json
from pathlib import Path

import numpy as np

from deepbloom.explain.gallery import choose_errors, choose_predictions, quick_method, remove_old


def test_the_most_confident_correct_predictions_come_before_the_wrong_ones() -> None:
    correct = [0.6, 0.9, 0.7]  # places 0 to 2
    wrong = [0.55, 0.8]  # places 4 and 5
    probabilities = np.array([[p, 1 - p, 0] for p in correct] + [[0.95, 0.05, 0]] + [[0, p, 1 - p] for p in wrong])
    targets = np.array([0, 0, 0, 1, 0, 0])
    assert choose_predictions(probabilities, targets, 0) == [1, 2, 5, 4]
    assert choose_predictions(probabilities, targets, 1) == [None, None, 3, None]


def test_the_most_confident_errors_come_first_and_correct_predictions_are_none_of_them() -> None:
    probabilities = np.array([[0.6, 0.4], [0.2, 0.8], [0.9, 0.1], [0.3, 0.7]])
    assert choose_errors(probabilities, np.array([1, 0, 0, 0])).tolist() == [1, 3, 0]
    assert len(choose_errors(np.tile([0.6, 0.4], (40, 1)), np.ones(40, int))) == 24


def test_galleries_use_a_method_that_is_not_slow() -> None:
    assert quick_method(["scorecam", "layercam"]) == "layercam"
    assert quick_method(["ablationcam"]) == "gradcam"


def test_files_of_an_earlier_explanation_are_removed_and_nothing_else(tmp_path: Path) -> None:
    files = ("heatmaps/a/1.png", "heatmaps/mine.png", "figures/gallery_7.png", "figures/mine.png", "keep.png")
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    remove_old(tmp_path)
    entries = [{"file": name} for name in ("a/1.png", "../keep.png", "gone.png")]
    (tmp_path / "explain.json").write_text(json.dumps({"heatmaps": entries}))
    remove_old(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert left == {"heatmaps/mine.png", "figures/mine.png", "keep.png"}
