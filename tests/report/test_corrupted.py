"""The column that ``deepbloom robustness`` adds to a report."""

import csv
import json

import pytest

from deepbloom.report.corrupted import robustness_columns
from deepbloom.report.report import write_report
from deepbloom.runs.reading import CompleteRun, find_runs


def write_robustness(run, value=0.5, suite="full", **changes):
    (run / "robustness").mkdir()
    network = {"mean_corruption_accuracy": {"value": value, "low": 0.25, "high": 0.75}}
    content = {"suite": suite, "corruptions": ["haze", "jpeg"], "networks": [network]} | changes
    (run / "robustness" / "robustness.json").write_text(json.dumps(content), encoding="utf-8")


def test_a_report_shows_the_mean_corruption_accuracy(make_run, tmp_path):
    write_robustness(make_run("a", model="scratch_cnn"), 0.5)
    make_run("b", model="mini_resnet")
    paths = write_report(tmp_path / "runs", tmp_path / "report")
    with paths.csv.open(newline="", encoding="utf-8") as file:
        rows = {row["model"]: row["mean_corruption_accuracy"] for row in csv.DictReader(file)}
    assert (float(rows["scratch_cnn"]), rows["mini_resnet"]) == (0.5, "")
    text = paths.markdown.read_text(encoding="utf-8")
    assert r"\[25.0, 75.0\]" in text
    assert "full suite, 2 kinds" in text


def test_without_measurements_there_is_no_column(make_run, tmp_path):
    make_run("a")
    paths = write_report(tmp_path / "runs", tmp_path / "report")
    assert "corrupt" not in paths.markdown.read_text(encoding="utf-8").lower()


@pytest.mark.parametrize("damage", [{"networks": []}, {"networks": 3}, {"corruptions": None}, {"value": 7}])
def test_damaged_measurements_add_no_column(damage, make_run, tmp_path):
    write_robustness(make_run("a"), **damage)
    runs = [run for run in find_runs(tmp_path / "runs") if isinstance(run, CompleteRun)]
    assert robustness_columns(runs) == []
