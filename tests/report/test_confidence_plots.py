"""Reliability before and after the temperature, errors by coverage, and the columns about confidence."""

import csv

import numpy as np
import pytest

from deepbloom.metrics import bin_by_confidence, softmax
from deepbloom.report import confidence_plots
from deepbloom.report.confidence_plots import Curve, Panel, uncalibrated_confidences
from deepbloom.report.intervals import wilson_interval
from deepbloom.report.report import write_report
from deepbloom.runs.files import write_arrays
from deepbloom.runs.parsing import NUMBER
from deepbloom.runs.reading import Field, read_run


@pytest.mark.parametrize("models", [1, 30])
def test_reliability_has_a_panel_for_each_of_the_first_models(tmp_path, drawn, models):
    bins = bin_by_confidence([0.1, 0.9, 1.0], [False, True, True])
    confidence_plots.plot_reliability([Panel(f"m{i}", bins, 0.1) for i in range(models)], tmp_path / "figure.png")
    shown = [axis for axis in drawn if axis.get_visible()]
    assert [axis.get_title() for axis in shown] == [f"m{i}\nECE 10.0 %" for i in range(min(models, 12))]
    for axis in shown:
        assert axis.collections[1].get_offsets().ravel().tolist() == pytest.approx([0.1, 0, 0.9, 1, 1, 1])
        assert axis.lines[0].get_xydata().tolist() == [[0, 0], [1, 1]]  # the diagonal


def test_reliability_has_confidence_across_accuracy_upwards_and_an_interval_over_images(tmp_path, drawn):
    confidences, correct = np.repeat([0.9, 0.3], [40, 20]), np.repeat([True, False, True, False], [30, 10, 5, 15])
    after = bin_by_confidence(np.tile(confidences, 2), np.tile(correct, 2), 3)
    before = bin_by_confidence([0.5], [True])
    panel = Panel("net", after, 0.125, seeds=2, before=before, error_before=0.5)
    confidence_plots.plot_reliability([panel], tmp_path / "figure.png")
    (axis,) = drawn
    assert axis.get_title() == "net\nECE 50.0 % → 12.5 %"
    lines, dots, crosses = axis.collections
    np.testing.assert_allclose(dots.get_offsets(), [[0.3, 5 / 20], *2 * [[0.9, 30 / 40]]])
    np.testing.assert_allclose(crosses.get_offsets(), [[0.5, 1]])
    low, high = wilson_interval([5, 15, 15], [20, 20, 20])
    np.testing.assert_allclose([line[:, 1] for line in lines.get_segments()], np.stack([low, high], 1))


def test_the_threshold_is_a_dot_on_the_curve_of_errors(tmp_path, drawn):
    curves = {
        "known": Curve(np.array([0.5, 1.0]), np.array([0.0, 0.5]), (0.5, 0.0)),
        "unknown": Curve(np.array([0.5, 1.0]), np.array([0.5, 0.5])),
    }
    confidence_plots.plot_risk_coverage(curves, tmp_path / "figure.png")
    (axis,) = drawn
    assert [line.get_xydata().tolist() for line in axis.lines] == [
        [[0.5, 0.0], [1.0, 0.5]],
        [[0.5, 0.0]],
        [[0.5, 0.5], [1.0, 0.5]],
    ]
    assert axis.lines[0].get_label() == "known (AURC 25.00 %)"


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_confidences_without_the_temperature_come_from_the_probabilities_with_it(make_run, temperature):
    folder = make_run("a", num_images=40, found={"temperature": temperature})
    logits = np.random.default_rng(0).normal(scale=3, size=(40, 5))
    write_arrays(folder / "probabilities.npz", {"probabilities": softmax(logits, temperature).astype(np.float16)})
    run = read_run(folder, fields={"temperature": Field("found.temperature", NUMBER, False)})
    confidences = uncalibrated_confidences(run)
    assert confidences == pytest.approx(softmax(logits).max(1)[run.predictions.rows], abs=0.01)


@pytest.mark.parametrize("damage", ["absent", "other shape", "nan"])
def test_without_usable_probabilities_nothing_is_known_of_before(make_run, damage):
    folder = make_run("a", num_images=40, found={"temperature": 2.0})
    shape = (3, 5) if damage == "other shape" else (40, 5)
    if damage != "absent":
        write_arrays(folder / "probabilities.npz", {"probabilities": np.full(shape, np.nan, np.float16)})
    run = read_run(folder, fields={"temperature": Field("found.temperature", NUMBER, False)})
    assert uncalibrated_confidences(run) is None


REJECTION = {
    "target": 0.99,
    "threshold": 0.875,
    "coverage": 0.75,
    "accuracy": 0.995,
    "area_under_risk_coverage": 0.0123,
}


def test_confidence_is_in_the_benchmark(make_run, tmp_path):
    make_run("a", model="scratch_cnn", rejection=REJECTION)
    make_run("b", rejection=REJECTION | {"threshold": None, "coverage": 0.0, "accuracy": None})
    report = write_report(tmp_path / "runs", tmp_path / "report")
    text = report.markdown.read_text(encoding="utf-8")
    assert "| 75.0 % for 99 % above 0.875 99.5 % right |" in text
    assert "| 0.0 % 99 % cannot be shown |" in text
    assert "| 1.23 % |" in text
    with report.csv.open(newline="", encoding="utf-8") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert (rows["a"]["rejection_threshold"], rows["b"]["rejection_threshold"]) == ("0.875", "")


def test_a_column_that_no_model_has_is_left_out(make_run, tmp_path):
    """The negative control of the test above."""
    make_run("a")
    text = write_report(tmp_path / "runs", tmp_path / "report").markdown.read_text(encoding="utf-8")
    assert "AURC" not in text.split("## Networks")[0]
    assert "Coverage" not in text
