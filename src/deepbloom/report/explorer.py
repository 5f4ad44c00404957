"""What the page needs to show test images: by cell of the confusion matrix, by disagreement of two models, by error."""

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from deepbloom.report.formatting import count_of, format_percent, shorten
from deepbloom.report.groups import Group
from deepbloom.report.pages import Class, PageTable, Section
from deepbloom.report.thumbnails import TestImages
from deepbloom.runs.reading import Predictions
from deepbloom.sinks import printable

MAX_UNITS = 24
"""Models (a seed each) that the page holds predictions of, the most accurate first."""
MAX_LISTED = 12
"""Rows of the list of confusions."""


class Unit(NamedTuple):
    """One seed of a model, with its folds joined."""

    name: str
    predictions: Predictions


def order_classes(confusion: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return an order of the classes in which those confused with each other are neighbors.

    Average linkage of the mean of both shares of confusion, leaves ordered optimally (Bar-Joseph et al. 2001,
    https://doi.org/10.1093/bioinformatics/17.suppl_1.S22).

    Parameters
    ----------
    confusion : array of int, shape (C, C)
        Rows are true classes.
    """
    if len(confusion) < 3:
        return np.arange(len(confusion))
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    distances = 1 - (shares + shares.T) / 2
    np.fill_diagonal(distances, 0)
    tree = hierarchy.linkage(squareform(distances, checks=False), "average", optimal_ordering=True)
    order: NDArray[np.intp] = hierarchy.leaves_list(tree)
    return order


def class_order(group: Group) -> NDArray[np.intp]:
    """Return `order_classes` of the confusions of all models."""
    return order_classes(sum(model.confusion(len(group.class_names)) for model in group.models))  # type: ignore[arg-type]


def list_units(group: Group) -> list[Unit]:
    """Return the first seed of each model, then the others, at most `MAX_UNITS`."""
    units = []
    for place in range(max(len(model.predictions) for model in group.models)):
        for model in group.models:
            if place < len(model.predictions):
                units.append(Unit(model.seed_names[place], model.predictions[place]))
    averaged = [Unit(ensemble.short, ensemble.averaged) for ensemble in group.ensembles]
    return [*units[: MAX_UNITS - len(averaged)], *averaged]


def describe_confusions(group: Group, is_first: bool) -> list[Section]:
    """Return the list of the most frequent confusions of all models; none if there are none."""
    count = len(group.class_names)
    mistakes = np.sum([model.confusion(count) for model in group.models], axis=0) * ~np.eye(count, dtype=bool)
    runs = len(group.runs) if not group.folds else sum(len(model.predictions) for model in group.models)
    images = np.bincount(group.models[0].predictions[0].targets, minlength=count)
    places = [place for place in np.argsort(-mistakes, axis=None, kind="stable")[:MAX_LISTED] if mistakes.flat[place]]
    rows = []
    for row, column in (divmod(int(place), count) for place in places):
        share = mistakes[row, column] / max(images[row] * runs, 1)
        name = Class(shorten(group.class_names[row]), row, column)
        rows.append((name, shorten(group.class_names[column]), f"{mistakes[row, column]}", format_percent(share)))
    headings = ("Class", "Predicted as", "Predictions", "Share of the class")
    caption = f"Predictions of {count_of(runs, 'run')} together." * is_first
    table = PageTable(headings, rows, caption, words=frozenset({1}))
    return [Section("Most frequent confusions", tables=[table])] if rows else []


def explorer_data(group: Group, images: TestImages) -> dict[str, Any]:
    """Return what ``explorer.js`` shows of a group, as plain values for JSON."""
    units = list_units(group)
    predictions = group.models[0].predictions[0]
    return {
        "classes": [printable(name) for name in group.class_names],
        "order": class_order(group).tolist(),
        "images": [printable(name) for name in predictions.image_ids],
        "targets": predictions.targets.tolist(),
        "thumbnails": [_encode(images.thumbnails.get(name)) for name in predictions.image_ids],
        "evidence": [_explain(name, images) for name in predictions.image_ids],
        "source": printable(images.evidence.source),
        "others": {printable(name): _encode(images.thumbnails.get(name)) for name in images.evidence.others},
        "units": [_describe(unit) for unit in units],
        "problem": printable(images.problem),
    }


def _explain(image_id: str, images: TestImages) -> dict[str, Any]:
    """Return what is known of an image: ``near``, ``double`` and ``heatmaps``, those that are."""
    evidence, found = images.evidence, dict[str, Any]()
    if near := evidence.nearest.get(image_id):
        found["near"] = [[printable(name), target, round(score, 3)] for name, target, score in near]
    if image_id in evidence.doubles:
        found["double"] = printable(evidence.doubles[image_id])
    if heatmaps := evidence.heatmaps.get(image_id):
        found["heatmaps"] = [[printable(name), _encode(heatmap)] for name, heatmap in heatmaps.items()]
    return found


def _describe(unit: Unit) -> dict[str, Any]:
    percent: Sequence[float] = np.round(100 * unit.predictions.confidences, 1).tolist()
    return {"name": printable(unit.name), "predicted": unit.predictions.predicted.tolist(), "confidence": percent}


def _encode(thumbnail: bytes | None) -> str:
    return base64.b64encode(thumbnail).decode() if thumbnail else ""
