"""Runs are ranked together only where that is fair, and a tie is called a tie."""

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from deepbloom.report.findings import describe_methods, explain_separation, state_finding
from deepbloom.report.formatting import shorten
from deepbloom.report.groups import MAX_COMPARED, compare_models, make_groups
from deepbloom.report.intervals import seed_interval, wilson_interval
from deepbloom.report.models import Model
from deepbloom.report.network_settings import tabulate_settings
from deepbloom.report.statistics import compare_runs, mcnemar_exact
from deepbloom.runs.reading import read_run


def test_seeds_of_one_model_are_one_row(make_run):
    runs = [read_run(make_run(f"s{seed}", seed=seed)) for seed in (2, 0, 1)]
    (group,) = make_groups(runs)
    (model,) = group.models
    assert [run.metrics.seed for run in model.runs] == [0, 1, 2]
    accuracies = [run.metrics.top1_accuracy for run in model.runs]
    assert model.label == "mini_resnet"
    assert model.accuracy == pytest.approx(np.mean(accuracies))
    assert model.spread == pytest.approx(np.std(accuracies, ddof=1))
    assert model.interval == pytest.approx(seed_interval(accuracies))
    assert model.interval_kind == "seeds"


def test_a_single_run_has_wilsons_interval(make_run):
    (group,) = make_groups([read_run(make_run("one", num_images=200))])
    correct = round(group.models[0].accuracy * 200)
    assert group.models[0].interval == pytest.approx(wilson_interval(correct, 200))
    assert group.models[0].spread is None


def classify(run, correct):
    """Make a run classify its first ``correct`` images correctly and the others not."""
    predictions = run.predictions
    wrong = np.arange(len(predictions.targets)) >= correct
    predictions.predicted[:] = (predictions.targets + wrong) % 5


@pytest.mark.parametrize("correct", [0, 37, 140, 199, 200])
@pytest.mark.parametrize("seeds", [2, 3, 7])
def test_seeds_of_equal_accuracy_have_wilsons_interval_over_images(make_run, correct, seeds):
    """Of three times 140 / 200, NumPy's standard deviation is 1.4e-16: no number to ask for its truth."""
    runs = [read_run(make_run("s0", num_images=200, epochs=1))]
    runs += [replace(runs[0], metrics=replace(runs[0].metrics, seed=seed)) for seed in range(1, seeds)]
    classify(runs[0], correct)
    model = make_groups(runs)[0].models[0]
    assert model.interval == pytest.approx(wilson_interval(correct, 200))
    assert model.interval_kind == "images"
    assert model.spread == 0
    assert np.ptp(model.interval) > 0.01


def test_seeds_that_differ_by_one_image_have_students_interval(make_run):
    runs = [read_run(make_run(f"s{seed}", seed=seed, num_images=200)) for seed in (0, 1)]
    for run, correct in zip(runs, (140, 141), strict=True):
        classify(run, correct)
    model = make_groups(runs)[0].models[0]
    assert model.interval_kind == "seeds"
    assert model.interval == pytest.approx(seed_interval([0.7, 0.705]))


@pytest.mark.parametrize(
    ("key", "other"),
    [("train.precision", "bf16"), ("train.feature_copies", 2), ("model.weights", "9" * 64), ("recipe_version", 2)],
)
def test_runs_that_resolved_differently_are_never_one_model(make_run, key, other):
    """The control resolves alike: three seeds of one model."""
    for name, identity, labels in (("alike", {}, {"mini_resnet"}), ("apart", {key: other}, None)):
        runs = [read_run(make_run(f"{name}{seed}", seed=seed)) for seed in (0, 1)]
        runs.append(read_run(make_run(f"{name}2", seed=2, identity=identity)))
        (group,) = make_groups(runs)
        found = {model.label: len(model.runs) for model in group.models}
        if labels:
            assert found == {"mini_resnet": 3}
        else:
            assert sorted(found.values()) == [1, 2]
            assert all(f"{key}=" in label for label in found)
            assert key.startswith("model.") or tabulate_settings(group)[0] == [key]


def test_official_and_stratified_splits_are_never_in_one_group(make_run):
    """Even if everything else says that they are the same."""
    runs = [
        read_run(make_run(kind, kind=kind, identity={"data.split.kind": ""})) for kind in ("official", "stratified")
    ]
    assert [len(group.models) for group in make_groups(runs)] == [1, 1]


def test_settings_are_told_apart_by_whether_models_differ_in_them(make_run):
    runs = [
        read_run(make_run("a", model="scratch_cnn", epochs=30)),
        read_run(make_run("b", model="mini_resnet", epochs=10)),
        read_run(make_run("c", model="resnet18_frozen", epochs=10, accuracy=0.3)),
    ]
    (group,) = make_groups(runs)
    differing, shared = tabulate_settings(group)
    assert differing == ["train.epochs"]
    assert (shared["optimizer.lr"], "seed" in shared) == ("0.001", False)
    differing, shared = tabulate_settings(make_groups(runs[1:])[0])
    assert (differing, shared["train.epochs"]) == ([], "10")


def test_long_labels_stay_apart_in_figures(make_run):
    """Three differ in the middle only, where a long label is cut; the fourth makes their end long."""
    runs = []
    for lr, end in ((0.001, 1), (0.002, 1), (0.003, 1), (0.004, 2)):
        identity: dict[str, float] = {"augment.some_long_setting_of_it": 1, "train.some_long_setting": end}
        identity |= {"augment.a_long_one_that_differs": lr}
        runs.append(read_run(make_run(f"r{lr}", num_images=30, lr=lr, identity=identity)))
    models = make_groups(runs)[0].models
    cut = [shorten(model.label) for model in models]
    assert len(set(cut)) == 2
    assert len({model.short for model in models}) == 4
    assert [short[:2] == f"{rank}." for rank, short in enumerate((m.short for m in models), 1)] == [
        cut.count(name) > 1 for name in cut
    ]
    assert max(len(model.short) for model in models) <= 48


def test_a_run_made_twice_counts_once(make_run):
    runs = [read_run(make_run(name, num_images=50), name) for name in ("b", "a")]
    (group,) = make_groups(runs)
    assert [run.name for run in group.runs] == ["a"]
    assert [run.name for run in group.repeats] == ["b"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"split": "b"}, "split fingerprints differ"),
        ({"split": "b", "kind": "official"}, "kinds of split differ"),
        ({"dataset": "flowers102", "dataset_fingerprint": "e" * 64}, "data differ"),
        ({"dataset_fingerprint": "e" * 64}, "data or their test images differ"),
        ({"num_images": 150}, "data or their test images differ"),
    ],
)
def test_runs_that_cannot_be_compared_are_kept_apart_with_the_reason(make_run, changes, reason):
    groups = make_groups([read_run(make_run("a")), read_run(make_run("b", model="scratch_cnn", **changes))])
    assert len(groups) == 2
    assert all(len(group.models) == 1 and not group.comparisons for group in groups)
    assert reason in explain_separation(groups)


def test_runs_of_one_split_need_no_explanation(make_run):
    groups = make_groups([read_run(make_run("a")), read_run(make_run("b", model="scratch_cnn"))])
    assert len(groups) == 1
    assert explain_separation(groups) == ""


def test_every_two_models_are_compared_on_the_same_images(make_run):
    names = {"scratch_cnn": 0.5, "mini_resnet": 0.8, "resnet18_partial": 0.95}
    runs = [read_run(make_run(name, model=name, accuracy=value)) for name, value in names.items()]
    (group,) = make_groups(runs)
    assert [(c.first.label, c.second.label) for c in group.comparisons] == [
        ("resnet18_partial", "mini_resnet"),
        ("resnet18_partial", "scratch_cnn"),
        ("mini_resnet", "scratch_cnn"),
    ]
    one = group.comparisons[2]
    assert one.difference.estimate == pytest.approx(one.first.accuracy - one.second.accuracy)
    assert one.difference.p_value == mcnemar_exact(one.first.correct[0], one.second.correct[0])
    assert all(c.adjusted_p >= c.difference.p_value for c in group.comparisons)
    assert (one.first.label, one.verdict) == ("mini_resnet", "first is better")


def test_equal_models_are_a_tie(make_run):
    runs = [read_run(make_run(name, model=name, accuracy=0.8)) for name in ("mini_resnet", "scratch_cnn")]
    (comparison,) = make_groups(runs)[0].comparisons
    assert comparison.is_tie
    assert comparison.verdict == "tie"


def test_equal_models_with_unequal_numbers_of_seeds_are_ties_after_holm():
    """In about 95 of 100 tables of three equal models none is called better; without Holm it is more often."""
    rng = np.random.default_rng(4)
    corrected, single = [], []
    for _ in range(150):
        tables = simulate_tables(rng, seeds=(2, 3, 4))
        models = [SimpleNamespace(label=str(len(table)), correct=table, folds=[0]) for table in tables]
        pairs = compare_models(cast(list[Model], models))
        corrected.append(all(pair.is_tie for pair in pairs))
        single.append(all(pair.difference.p_value >= 0.05 for pair in pairs))
    assert np.mean(corrected) >= 0.94
    assert np.mean(single) <= np.mean(corrected)


def simulate_tables(rng, seeds, images=400, spread=0.15):
    """Equal models on images of their own difficulty: bool, shape (seeds, images) each."""
    difficulty = rng.normal(size=images)
    return [
        difficulty + rng.normal(scale=0.7, size=(count, images)) < 1.27 + rng.normal(scale=spread, size=(count, 1))
        for count in seeds
    ]


def test_several_seeds_are_compared_as_a_sample_of_seeds(make_run):
    runs = [
        read_run(make_run(f"{model}{seed}", model=model, seed=seed, accuracy=accuracy))
        for model, accuracy in (("mini_resnet", 0.6), ("scratch_cnn", 0.9))
        for seed in range(3)
    ]
    (comparison,) = make_groups(runs)[0].comparisons
    assert (comparison.first.label, comparison.verdict) == ("scratch_cnn", "first is better")
    assert comparison.difference.low < comparison.difference.estimate < comparison.difference.high


def test_only_the_best_of_very_many_models_are_compared(make_run):
    runs = [read_run(make_run(f"r{i}", lr=i + 1, num_images=30)) for i in range(MAX_COMPARED + 3)]
    (group,) = make_groups(runs)
    assert len(group.models) == MAX_COMPARED + 3
    assert len(group.comparisons) == MAX_COMPARED * (MAX_COMPARED - 1) // 2
    assert {c.first for c in group.comparisons} <= set(group.models[:MAX_COMPARED])
    smallest = min(group.comparisons, key=lambda pair: pair.difference.p_value)
    pairs = (MAX_COMPARED + 3) * (MAX_COMPARED + 2) // 2  # the others were left out by the same data
    assert smallest.adjusted_p == pytest.approx(min(1, pairs * smallest.difference.p_value))


def test_an_interval_leaves_out_zero_exactly_if_the_verdict_is_not_a_tie(make_run):
    accuracies = (0.95, 0.92, 0.9, 0.88, 0.85, 0.8, 0.7)
    runs = [read_run(make_run(f"r{i}", lr=i + 1, accuracy=value)) for i, value in enumerate(accuracies)]
    pairs = make_groups(runs)[0].comparisons
    assert {pair.is_tie for pair in pairs} == {True, False}
    assert all(pair.is_tie == (pair.difference.low <= 0) for pair in pairs)
    assert any(pair.is_tie and compare_runs(pair.first.correct[0], pair.second.correct[0]).low > 0 for pair in pairs)


def test_a_single_run_beside_several_seeds_is_not_judged(make_run):
    runs = [read_run(make_run(f"s{seed}", seed=seed, accuracy=0.95)) for seed in range(3)]
    runs.append(read_run(make_run("one", model="scratch_cnn", accuracy=0.4)))
    (group,) = make_groups(runs)
    assert [pair.verdict for pair in group.comparisons] == ["one run only"]
    assert "cannot be told apart from scratch_cnn" in state_finding(group)
    assert "better" not in state_finding(group)
    assert any("other seeds" in method for method in describe_methods(group))


def test_calibration_and_confusion_cover_all_seeds(make_run):
    runs = [read_run(make_run(f"s{seed}", seed=seed, num_images=100)) for seed in (0, 1)]
    (group,) = make_groups(runs)
    model = group.models[0]
    confusion = model.confusion(5)
    assert confusion.sum() == 200
    assert np.trace(confusion) / 200 == pytest.approx(model.accuracy)
    bins = model.reliability
    assert bins.counts.sum() == 200
    filled = bins.counts > 0
    distances = np.abs(bins.accuracy - bins.mean_confidence)[filled]
    assert model.calibration_error == pytest.approx((bins.counts[filled] * distances).sum() / 200)


def test_seeds_are_told_apart_by_the_names_of_their_runs(make_run):
    runs = [read_run(make_run("a", seed=0, name="warm")), read_run(make_run("b", seed=1))]
    (group,) = make_groups(runs)
    (model,) = group.models
    assert model.seed_names == ["mini_resnet, warm", "mini_resnet, seed 1"]
    assert [model.name_of(run) for run in model.runs] == model.seed_names


def test_a_folder_is_called_by_its_name_and_its_split_is_never_official(make_run):
    own = read_run(make_run("a", dataset="imagefolder", data_name="my_garden", kind="official"))
    assert make_groups([own])[0].name == "my_garden, predefined split, 200 test images"
    oxford = read_run(make_run("b", dataset="flowers102", data_name="flowers102", kind="official"))
    assert make_groups([oxford])[0].name == "flowers102, official split, 200 test images"
