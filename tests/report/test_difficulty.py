"""The hardest classes and images, by hand."""

import numpy as np

from deepbloom.report.difficulty import find_hard_classes, find_hard_images
from deepbloom.report.groups import make_groups
from deepbloom.runs.reading import read_run


def make_group(make_run, predicted, confidences):
    """Two models on six images of three classes: 0, 1, 2, 0, 1, 2, in the order of their names."""
    runs = []
    for model, given, sure in zip(("mini_resnet", "scratch_cnn"), predicted, confidences, strict=True):
        run = read_run(make_run(model, model=model, num_images=6, class_names=("a", "b", "c")))
        predictions = run.predictions
        order = np.argsort([name.split("/")[1] for name in predictions.image_ids])
        predictions.predicted[order] = given
        predictions.confidences[order] = sure
        runs.append(run)
    (group,) = make_groups(runs)
    return group


def test_hard_images_are_those_that_all_get_wrong_with_the_most_confident_first(make_run):
    group = make_group(
        make_run,
        [[0, 2, 2, 1, 1, 2], [0, 2, 2, 1, 0, 2]],
        [[0.9, 0.6, 0.9, 0.8, 0.9, 0.9], [0.9, 0.4, 0.9, 0.8, 0.7, 0.9]],
    )
    found = find_hard_images(group)
    assert [(p.image_id, p.class_name, p.confused_with, p.wrong_runs, p.runs) for p in found] == [
        ("a/0003", "a", "b", 2, 2),
        ("b/0001", "b", "c", 2, 2),
        ("b/0004", "b", "a", 1, 2),
    ]
    assert found[1].mean_confidence == 0.5
    assert found[2].mean_confidence == 0.7
    assert len(find_hard_images(group, limit=1)) == 1


def test_hard_classes_have_the_lowest_recall_over_models(make_run):
    group = make_group(make_run, [[0, 2, 2, 1, 1, 2], [0, 2, 2, 1, 0, 2]], [[0.9] * 6, [0.9] * 6])
    found = find_hard_classes(group)
    assert [(c.name, c.images, c.mean_recall, c.best_recall, c.confused_with) for c in found] == [
        ("b", 2, 0.25, 0.5, "c"),
        ("a", 2, 0.5, 0.5, "b"),
    ]


def test_nothing_is_hard_where_all_is_right(make_run):
    group = make_group(make_run, [[0, 1, 2] * 2] * 2, [[0.9] * 6] * 2)
    assert find_hard_classes(group) == []
    assert find_hard_images(group) == []
