"""Folds of one set are one model; sets that were tested on other images are never ranked together."""

import csv
import json

import numpy as np
import pytest
from scipy import stats

from deepbloom.report.findings import explain_separation
from deepbloom.report.groups import make_groups
from deepbloom.report.intervals import fold_interval, seed_interval, wilson_interval
from deepbloom.report.report import write_report
from deepbloom.runs.reading import CompleteRun, find_runs

CORRECT = {0: 18, 1: 16, 2: 15}


@pytest.fixture
def make_fold(make_run):
    """Return a function that writes the run of one fold: 20 images of its own, `CORRECT` of them correct."""

    def write(model="mini_resnet", fold=0, seed=0, folds=3, name=None, ids=None):
        ids = ids or [f"fold{fold}/{i:02d}" for i in range(20)]
        split = f"{ids[0]} to {ids[-1]}"
        folder = make_run(
            name or f"{model}-s{seed}-f{fold}",
            model=model,
            seed=seed,
            num_images=20,
            folds=folds,
            fold=fold,
            epochs=2,
            identity={"split_fingerprint": split},
        )
        right = CORRECT[fold] - seed
        with open(folder / "predictions.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image_id", "target", "prediction", "confidence", "top5"])
            writer.writerows([ids[i], i % 5, (i + (i >= right)) % 5, 0.9, ""] for i in range(20))
        np.savez(folder / "probabilities.npz", probabilities=0.8 * np.eye(5)[np.arange(20) % 5] + 0.04)
        change(folder / "metrics.json", split_fingerprint=split, **{"test.top1_accuracy": right / 20})
        return folder

    return write


def change(path, **changes):
    content = json.loads(path.read_text())
    for name, value in changes.items():
        block, _, key = name.rpartition(".")
        (content[block] if block else content)[key] = value
    path.write_text(json.dumps(content))


def groups_of(folder):
    return make_groups([run for run in find_runs(folder) if isinstance(run, CompleteRun)])


def test_the_folds_of_a_model_are_one_row_over_all_images(make_fold, tmp_path):
    for model in ("mini_resnet", "scratch_cnn"):
        for fold in CORRECT:
            make_fold(model, fold)
    (group,) = groups_of(tmp_path / "runs")
    assert [len(model.runs) for model in group.models] == [3, 3]
    assert group.num_images == 60
    assert "3 stratified folds, 60 images" in group.name
    model = group.models[0]
    accuracies = np.array([18, 16, 15]) / 20
    assert model.accuracy == pytest.approx(accuracies.mean())
    assert model.spread == pytest.approx(accuracies.std(ddof=1))
    half = stats.t.ppf(0.975, 2) * np.sqrt(accuracies.var(ddof=1) * (1 / 3 + 1 / 2))
    assert model.interval == pytest.approx((accuracies.mean() - half, min(1, accuracies.mean() + half)))
    assert group.comparisons[0].is_tie
    assert group.comparisons[0].difference.p_value == 1


def test_seeds_and_folds_are_told_apart(make_fold, tmp_path):
    for seed in (0, 1):
        for fold in CORRECT:
            make_fold(fold=fold, seed=seed)
    (group,) = groups_of(tmp_path / "runs")
    (model,) = group.models
    assert model.correct.shape == (2, 60)
    assert model.accuracy == pytest.approx((18 + 16 + 15 + 17 + 15 + 14) / 120)
    report = write_report(tmp_path / "runs", tmp_path / "report")
    text = report.markdown.read_text(encoding="utf-8")
    assert "2 × 3 folds ± " in text
    assert "0 labels of 60 may be wrong according to 6 runs" in text


def test_a_set_with_a_missing_fold_stands_apart_and_it_says_why(make_fold, tmp_path):
    for model, folds in (("mini_resnet", (0, 1, 2)), ("scratch_cnn", (0, 2))):
        for fold in folds:
            make_fold(model, fold)
    groups = groups_of(tmp_path / "runs")
    assert [[m.label for m in group.models] for group in groups] == [["mini_resnet"], ["scratch_cnn"]]
    assert "only folds 0, 2 of 3" in groups[1].name
    assert "incomplete" in explain_separation(groups)


def test_folds_and_a_single_split_stand_apart_and_it_says_why(make_fold, make_run, tmp_path):
    for fold in CORRECT:
        make_fold(fold=fold)
    make_run("single", model="scratch_cnn", num_images=20)
    groups = groups_of(tmp_path / "runs")
    assert len(groups) == 2
    assert "not ranked together" in explain_separation(groups)
    assert "folds test every image once" in explain_separation(groups)


def test_folds_that_test_an_image_twice_are_not_joined(make_fold, tmp_path):
    make_fold(fold=0)
    change(make_fold(fold=0, name="copy") / "metrics.json", fold=1)
    assert len(groups_of(tmp_path / "runs")) == 2


def test_folds_of_two_sets_are_not_mixed(make_fold, tmp_path):
    """Another seed of the split divides the same images otherwise."""
    for fold in (0, 1):
        make_fold(fold=fold, folds=2)
        halves = [f"fold{half}/{i:02d}" for half in (0, 1) for i in range(10 * fold, 10 * fold + 10)]
        make_fold(fold=fold, folds=2, name=f"other-{fold}", ids=halves)
    groups = groups_of(tmp_path / "runs")
    assert sorted([run.name for run in group.runs] for group in groups) == [
        ["mini_resnet-s0-f0", "mini_resnet-s0-f1"],
        ["other-0", "other-1"],
    ]


def test_overlapping_folds_with_a_repeat_are_reported(make_fold, tmp_path):
    make_fold(fold=0)
    make_fold(fold=0, name="repeat")
    change(make_fold(fold=0, name="copy") / "metrics.json", fold=1)
    groups = groups_of(tmp_path / "runs")
    assert sorted([run.name for run in group.runs] for group in groups) == [["copy"], ["mini_resnet-s0-f0"]]
    assert [run.name for group in groups for run in group.repeats] == ["repeat"]
    write_report(tmp_path / "runs", tmp_path / "report")


def test_folds_of_equal_accuracy_have_an_interval_over_seeds_or_images(make_fold, tmp_path, monkeypatch):
    monkeypatch.setattr("test_folds.CORRECT", dict.fromkeys(range(3), 14))
    for fold in range(3):
        make_fold(fold=fold)
    (one,) = groups_of(tmp_path / "runs")[0].models
    assert one.interval_kind == "images"
    assert one.interval == pytest.approx(wilson_interval(42, 60))
    for fold in range(3):
        make_fold(fold=fold, seed=1)
    (two,) = groups_of(tmp_path / "runs")[0].models
    assert two.interval_kind == "seeds"
    assert two.interval == pytest.approx(seed_interval([42 / 60, 39 / 60]))


def test_the_interval_over_folds_is_wider_than_students_t_alone():
    values = [0.8, 0.85, 0.9, 0.84, 0.86]
    low, high = fold_interval(values, 5)
    plain = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert low < plain[0]
    assert high > plain[1]
    ratio = (high - low) / (plain[1] - plain[0])
    assert ratio == pytest.approx(np.sqrt((1 / 5 + 1 / 4) / (1 / 5)))
