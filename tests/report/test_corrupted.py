"""What ``deepbloom robustness`` adds to a report: columns, curves, and paired comparisons."""

import csv
import json

import pytest

from deepbloom.report.corrupted import find_corrupted
from deepbloom.report.report import write_report
from deepbloom.runs.reading import CompleteRun, find_runs


def describe_row(corruption, severity, accuracy):
    return {"corruption": corruption, "severity": severity, "top1_accuracy": accuracy, "low": 0.1, "high": 0.9}


def write_robustness(run, value=0.5, suite="full", folder=None, model="net", shares=(), **changes):
    folder = folder or run / "robustness"
    folder.mkdir(exist_ok=True)
    network = {
        "model": model,
        "checkpoint": str(run / "model.safetensors"),
        "clean": describe_row("none", 0, 0.8),
        "conditions": [describe_row("haze", 3, 0.7), describe_row("jpeg", 3, 0.3)],
        "mean_corruption_accuracy": {"value": value, "low": 0.25, "high": 0.75},
        "relative_loss": 0.375,
        "mean_calibration_error": 0.125,
    }
    content = {"suite": suite, "seed": 0, "corruptions": ["haze", "jpeg"], "networks": [network]} | changes
    (folder / "robustness.json").write_text(json.dumps(content), encoding="utf-8")
    if shares:
        rows = [f"{model},image {number},1,{share}" for number, share in enumerate(shares)]
        (folder / "images.csv").write_text("\n".join(["model,image_id,clean,corrupted", *rows]))
    return network


def find(folder):
    return find_corrupted(folder, [run for run in find_runs(folder) if isinstance(run, CompleteRun)])


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
    assert "| 80.0 % | 50.0 % \\[25.0, 75.0\\] | 37.5 % | 12.5 % | jpeg 30.0 % |" in text
    assert (tmp_path / "report" / "figures" / "1_corrupted.png").is_file()


def test_networks_measured_on_the_same_images_are_compared(make_run, tmp_path):
    write_robustness(make_run("a", model="scratch_cnn", accuracy=0.5), shares=[0.5, 0.5, 0.0, 0.25])
    write_robustness(make_run("b", model="mini_resnet"), shares=[1.0, 0.5, 0.5, 0.25])
    text = write_report(tmp_path / "runs", tmp_path / "report").markdown.read_text(encoding="utf-8")
    section = text.split("Accuracy under corruption")[1].split("\n###")[0]
    assert "| mini_resnet | scratch_cnn | tie | +25.0 |" in section


@pytest.mark.parametrize("changes", [{"seed": 1}, {"shares": [1.0, 1.0]}, {"shares": []}])
def test_networks_measured_otherwise_are_not_compared(make_run, tmp_path, changes):
    """The negative control of the test above."""
    write_robustness(make_run("a", model="scratch_cnn"), shares=[0.5, 0.5, 0.0])
    write_robustness(make_run("b", model="mini_resnet"), **{"shares": [1.0, 0.5, 0.5], **changes})
    text = write_report(tmp_path / "runs", tmp_path / "report").markdown.read_text(encoding="utf-8")
    assert "so they are not compared" in text


def test_a_joint_measurement_beside_the_runs_is_found(make_run, tmp_path):
    runs = [make_run(name, model=name) for name in ("scratch_cnn", "mini_resnet")]
    joint = tmp_path / "runs" / "robustness"
    networks = [write_robustness(run, folder=joint, model=run.name) for run in runs]
    write_robustness(runs[0], folder=joint, networks=networks)
    assert find(tmp_path / "runs").keys() == set(runs)


def test_without_measurements_there_is_no_column(make_run, tmp_path):
    make_run("a")
    paths = write_report(tmp_path / "runs", tmp_path / "report")
    assert "corrupt" not in paths.markdown.read_text(encoding="utf-8").lower()


@pytest.mark.parametrize("damage", [{"networks": []}, {"networks": 3}, {"corruptions": None}, {"value": 7}])
def test_damaged_measurements_are_left_out(damage, make_run, tmp_path):
    write_robustness(make_run("a"), **damage)
    assert find(tmp_path / "runs") == {}


def test_seeds_of_one_name_are_told_apart(make_run, tmp_path):
    for seed, value in enumerate((0.5, 0.25)):
        run = make_run(f"s{seed}", model="scratch_cnn", seed=seed, name="exp1")
        write_robustness(run, value, shares=[value, 0.5, 1.0])
    text = write_report(tmp_path / "runs", tmp_path / "report").markdown.read_text(encoding="utf-8")
    section = text.split("Accuracy under corruption")[1].split("\n###")[0]
    assert "| scratch_cnn, exp1, seed 0 | 80.0 % | 50.0 %" in section
    assert "| scratch_cnn, exp1, seed 1 | 80.0 % | 25.0 %" in section


def test_a_folder_of_any_name_is_read_by_its_checkpoint(make_run, tmp_path):
    run = make_run("a")
    write_robustness(run, folder=tmp_path / "runs" / "robustness")
    assert [one.mean for one in find(tmp_path / "runs").values()] == [0.5]
