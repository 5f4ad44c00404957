"""Runs are ranked together only where that is fair, and a tie is called a tie."""

import numpy as np
import pytest

from deepbloom.analysis.compare import MAX_COMPARED, explain_separation, make_tables
from deepbloom.analysis.runs import read_run
from deepbloom.analysis.statistics import mcnemar_exact, seed_interval, wilson_interval


def test_seeds_of_one_model_are_one_row(make_run):
    runs = [read_run(make_run(f"s{seed}", seed=seed)) for seed in (2, 0, 1)]
    (table,) = make_tables(runs)
    (model,) = table.models
    assert [run.metrics.seed for run in model.runs] == [0, 1, 2]
    accuracies = [run.metrics.top1_accuracy for run in model.runs]
    assert model.label == "mini_resnet"
    assert model.accuracy == pytest.approx(np.mean(accuracies))
    assert model.spread == pytest.approx(np.std(accuracies, ddof=1))
    assert model.interval == pytest.approx(seed_interval(accuracies))


def test_a_single_run_has_wilsons_interval(make_run):
    (table,) = make_tables([read_run(make_run("one", num_images=200))])
    hits = round(table.models[0].accuracy * 200)
    assert table.models[0].interval == pytest.approx(wilson_interval(hits, 200))
    assert table.models[0].spread is None


def test_seeds_without_any_spread_do_not_claim_certainty(make_run):
    runs = [read_run(make_run(f"s{seed}", seed=seed, accuracy=0.999999, num_images=20)) for seed in (0, 1)]
    for run in runs:
        run.predictions.answers[:] = run.predictions.targets
    low, high = make_tables(runs)[0].models[0].interval
    assert low < 0.9
    assert high == 1


def test_models_are_sorted_by_accuracy_and_told_apart_by_their_settings(make_run):
    runs = [
        read_run(make_run("a", lr=0.1, accuracy=0.6)),
        read_run(make_run("b", lr=0.01, accuracy=0.8)),
        read_run(make_run("c", model="scratch_cnn", accuracy=0.7)),
    ]
    (table,) = make_tables(runs)
    labels = ["mini_resnet (optimizer.lr=0.01)", "scratch_cnn", "mini_resnet (optimizer.lr=0.1)"]
    assert [model.label for model in table.models] == labels


def test_a_run_made_twice_counts_once(make_run):
    runs = [read_run(make_run(name, num_images=50), name) for name in ("b", "a")]
    (table,) = make_tables(runs)
    assert [run.name for run in table.runs] == ["a"]
    assert [run.name for run in table.repeats] == ["b"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"split": "b"}, "split fingerprints differ"),
        ({"split": "b", "kind": "official"}, "different rules"),
        ({"dataset": "flowers102", "dataset_fingerprint": "e" * 64}, "different data"),
        ({"dataset_fingerprint": "e" * 64}, "data or their test pictures differ"),
        ({"num_images": 150}, "data or their test pictures differ"),
    ],
)
def test_runs_that_cannot_be_compared_are_kept_apart_with_the_reason(make_run, changes, reason):
    tables = make_tables([read_run(make_run("a")), read_run(make_run("b", model="scratch_cnn", **changes))])
    assert len(tables) == 2
    assert all(len(table.models) == 1 and not table.comparisons for table in tables)
    assert reason in explain_separation(tables)


def test_runs_of_one_split_need_no_explanation(make_run):
    tables = make_tables([read_run(make_run("a")), read_run(make_run("b", model="scratch_cnn"))])
    assert len(tables) == 1
    assert explain_separation(tables) == ""


def test_every_two_models_are_compared_on_the_same_pictures(make_run):
    names = {"scratch_cnn": 0.5, "mini_resnet": 0.8, "resnet18_partial": 0.95}
    runs = [read_run(make_run(name, model=name, accuracy=value)) for name, value in names.items()]
    (table,) = make_tables(runs)
    assert [(c.first.label, c.second.label) for c in table.comparisons] == [
        ("resnet18_partial", "mini_resnet"),
        ("resnet18_partial", "scratch_cnn"),
        ("mini_resnet", "scratch_cnn"),
    ]
    one = table.comparisons[2]
    assert one.difference.estimate == pytest.approx(one.first.accuracy - one.second.accuracy)
    assert one.difference.p_value == mcnemar_exact(one.first.correct[0], one.second.correct[0])
    assert all(c.adjusted_p >= c.difference.p_value for c in table.comparisons)
    assert one.finding == "mini_resnet is better"


def test_equal_models_are_a_tie(make_run):
    runs = [read_run(make_run(name, model=name, accuracy=0.8)) for name in ("mini_resnet", "scratch_cnn")]
    (comparison,) = make_tables(runs)[0].comparisons
    assert comparison.is_tie
    assert comparison.finding == "tie"


def test_several_seeds_are_compared_as_a_sample_of_seeds(make_run):
    runs = [
        read_run(make_run(f"{model}{seed}", model=model, seed=seed, accuracy=accuracy))
        for model, accuracy in (("mini_resnet", 0.6), ("scratch_cnn", 0.9))
        for seed in range(3)
    ]
    (comparison,) = make_tables(runs)[0].comparisons
    assert comparison.finding == "scratch_cnn is better"
    assert comparison.difference.low < comparison.difference.estimate < comparison.difference.high


def test_only_the_best_of_very_many_models_are_compared(make_run):
    runs = [read_run(make_run(f"r{i}", lr=i + 1, num_images=30)) for i in range(MAX_COMPARED + 3)]
    (table,) = make_tables(runs)
    assert len(table.models) == MAX_COMPARED + 3
    assert len(table.comparisons) == MAX_COMPARED * (MAX_COMPARED - 1) // 2
    assert {c.first for c in table.comparisons} <= set(table.models[:MAX_COMPARED])


def test_calibration_and_confusion_cover_all_seeds(make_run):
    runs = [read_run(make_run(f"s{seed}", seed=seed, num_images=100)) for seed in (0, 1)]
    (table,) = make_tables(runs)
    model = table.models[0]
    confusion = model.confusion(5)
    assert confusion.sum() == 200
    assert np.trace(confusion) / 200 == pytest.approx(model.accuracy)
    assert model.reliability.counts.sum() == 200
    assert 0 <= model.calibration_error <= 1


def test_classes_without_names_get_numbers(make_run):
    (table,) = make_tables([read_run(make_run("one", classes=None))])
    assert table.class_names == ("class 0", "class 1", "class 2", "class 3", "class 4")
