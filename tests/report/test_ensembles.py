"""Ensembles: the mean of the probabilities of a model's seeds, as rows of the report."""

import csv

import numpy as np
import pytest

from deepbloom.report.groups import make_groups
from deepbloom.report.report import write_report
from deepbloom.report.statistics import compare_values
from deepbloom.runs.files import write_arrays
from deepbloom.runs.reading import read_run

CLASSES = ("daisy", "iris", "lily")


def write_probabilities(folder, seed):
    """Give a run probabilities whose largest is its prediction; return them in the order of its predictions."""
    run = read_run(folder)
    predictions = run.predictions
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet((1, 1, 1), len(predictions.targets))
    places = np.arange(len(rows))
    best = rows.argmax(axis=1)
    rows[places, best], rows[places, predictions.predicted] = rows[places, predictions.predicted], rows.max(axis=1)
    in_file = np.empty_like(rows)
    in_file[predictions.rows] = rows
    write_arrays(folder / "probabilities.npz", {"probabilities": in_file.astype(np.float16)})
    return rows


@pytest.fixture
def seeds(make_run):
    """The folders of three seeds, and their probabilities."""
    folders = [make_run(f"s{seed}", seed=seed, num_images=60, class_names=CLASSES, accuracy=0.6) for seed in range(3)]
    return folders, [write_probabilities(folder, seed) for seed, folder in enumerate(folders)]


def test_an_ensemble_predicts_the_class_of_the_highest_mean_probability(seeds):
    folders, probabilities = seeds
    (group,) = make_groups([read_run(folder) for folder in folders])
    (ensemble,) = group.ensembles
    mean = sum(probabilities) / 3
    clear = np.diff(np.sort(mean, axis=1)[:, 1:])[:, 0] > 0.01  # in half precision too
    assert clear.sum() > 50
    assert (ensemble.averaged.predicted == mean.argmax(axis=1))[clear].all()
    assert ensemble.averaged.confidences == pytest.approx(mean.max(axis=1), abs=0.001)
    assert ensemble.accuracy == ensemble.averaged.correct.mean()
    assert ensemble.interval_kind == "images"


def test_an_ensemble_is_compared_with_the_mean_over_its_members(seeds):
    folders, _ = seeds
    (group,) = make_groups([read_run(folder) for folder in folders])
    (pair,) = group.ensemble_comparisons
    expected = compare_values(pair.first.correct.mean(axis=0), pair.second.correct.mean(axis=0), 1.0)
    assert (pair.difference, pair.adjusted_p) == (expected, expected.p_value)
    assert group.comparisons == ()


def test_an_ensemble_is_a_row_that_costs_what_its_members_cost_together(seeds, make_run, tmp_path):
    write_probabilities(make_run("single", model="scratch_cnn", num_images=60, class_names=CLASSES), 9)
    report = write_report(tmp_path / "runs", tmp_path / "report")
    text = report.markdown.read_text(encoding="utf-8")
    assert "| ensemble of 3: mini_resnet | from scratch |" in text
    with report.models.open(newline="", encoding="utf-8") as file:
        rows = {row["label"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"mini_resnet", "ensemble of 3: mini_resnet", "scratch_cnn"}
    members, ensemble = rows["mini_resnet"], rows["ensemble of 3: mini_resnet"]
    for key in ("params_total", "train_seconds", "macs"):
        assert float(ensemble[key]) == pytest.approx(3 * float(members[key]))
    assert ensemble["macro_f1"] == ensemble["epochs"] == ""
    with report.pairs.open(newline="", encoding="utf-8") as file:
        pairs = list(csv.DictReader(file))
    assert len(pairs) == 3
    assert sum("ensemble" in row["first"] + row["second"] for row in pairs) == 2


@pytest.mark.parametrize("damage", ["absent", "text"])
def test_without_the_probabilities_of_all_seeds_there_is_no_ensemble(seeds, damage):
    folders, _ = seeds
    path = folders[1] / "probabilities.npz"
    path.unlink()
    if damage == "text":
        path.write_text("no archive")
    (group,) = make_groups([read_run(folder) for folder in folders])
    assert (group.ensembles, group.ensemble_comparisons) == ((), ())
