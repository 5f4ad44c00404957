"""Classes and images that are hard for all models, and what they are confused with."""

from typing import NamedTuple

import numpy as np

from deepbloom.report.formatting import format_percent, shorten
from deepbloom.report.groups import Group
from deepbloom.report.pages import Class, PageTable, Section
from deepbloom.report.thumbnails import TestImages


class HardClass(NamedTuple):
    """A class with low recall: mean over models, and of the best; ``confused_with`` may be empty."""

    place: int
    name: str
    images: int
    mean_recall: float
    best_recall: float
    confused_with: str


class HardImage(NamedTuple):
    """An image with wrong predictions, the most common of them, and their mean confidence."""

    place: int
    image_id: str
    class_name: str
    wrong_runs: int
    runs: int
    confused_with: str
    mean_confidence: float


def find_hard_classes(group: Group, limit: int = 10) -> list[HardClass]:
    """Return the classes with the lowest recall, mean over models, without those that every model gets right."""
    count = len(group.class_names)
    confusions = np.stack([model.confusion(count) for model in group.models])  # (models, C, C)
    recalls = np.diagonal(confusions, axis1=1, axis2=2) / np.maximum(confusions.sum(axis=2), 1)  # (models, C)
    mistakes = confusions.sum(axis=0) * ~np.eye(count, dtype=bool)
    images = np.bincount(group.models[0].predictions[0].targets, minlength=count)
    means = recalls.mean(axis=0)
    order = [int(i) for i in np.argsort(means, kind="stable") if images[i] and means[i] < 1]
    return [
        HardClass(
            place=i,
            name=group.class_names[i],
            images=int(images[i]),
            mean_recall=float(means[i]),
            best_recall=float(recalls[:, i].max()),
            confused_with=group.class_names[int(mistakes[i].argmax())] if mistakes[i].any() else "",
        )
        for i in order[:limit]
    ]


def find_hard_images(group: Group, limit: int = 12) -> list[HardImage]:
    """Return the images with most wrong predictions, each model counting once, then those with most confident ones."""
    errors = np.mean([1 - model.correct.mean(axis=0) for model in group.models], axis=0)  # (N,)
    runs = [predictions for model in group.models for predictions in model.predictions]
    wrong = np.stack([~run.correct for run in runs])  # (runs, N)
    confidences = np.stack([run.confidences for run in runs])
    wrong_runs = wrong.sum(axis=0)
    confidence_when_wrong = (confidences * wrong).sum(axis=0) / np.maximum(wrong_runs, 1)
    order = np.lexsort((-confidence_when_wrong, -errors))[:limit]
    images = []
    for i in order[errors[order] > 0]:
        given = np.bincount([run.predicted[i] for run, bad in zip(runs, wrong[:, i], strict=True) if bad])
        images.append(
            HardImage(
                place=int(i),
                image_id=runs[0].image_ids[i],
                class_name=group.class_names[runs[0].targets[i]],
                wrong_runs=int(wrong_runs[i]),
                runs=len(runs),
                confused_with=group.class_names[int(given.argmax())],
                mean_confidence=float(confidence_when_wrong[i]),
            )
        )
    return images


def describe_hard_classes(group: Group, is_first: bool, images: TestImages) -> Section:
    """Return the section of `find_hard_classes`; the first of a report explains its columns."""
    hardest = {image.class_name: image for image in reversed(find_hard_images(group, group.num_images))}
    rows = [
        (
            Class(shorten(found.name), found.place),
            f"{found.images}",
            format_percent(found.mean_recall),
            format_percent(found.best_recall),
            shorten(found.confused_with) if found.confused_with else "–",
            images.show(hardest[found.name].image_id, hardest[found.name].place),
        )
        for found in find_hard_classes(group)
    ]
    if not rows:
        return Section("Hardest classes", paragraphs=["Every model classifies every test image correctly."])
    caption = (
        "Recall is the share of a class's test images that are classified correctly. A class with few images can be "
        "here by chance. A class that even the best model misses is hard, or mislabeled."
    )
    headings = (
        "Class",
        "Test images",
        "Mean recall of all models",
        "Recall of the best model",
        "Most confused with",
        "Hardest image",
    )
    return Section("Hardest classes", tables=[PageTable(headings, rows, caption * is_first, frozenset({4, 5}))])


def describe_hard_images(group: Group, is_first: bool, images: TestImages) -> list[Section]:
    """Return the section of `find_hard_images`; none if there are none."""
    rows = [
        (
            images.show(found.image_id, found.place),
            shorten(found.class_name),
            f"{found.wrong_runs} of {found.runs} runs",
            shorten(found.confused_with),
            format_percent(found.mean_confidence, 0),
        )
        for found in find_hard_images(group)
    ]
    caption = "Look at these first: an image that all models get wrong with high confidence may be mislabeled."
    headings = ("Image", "Class", "Wrong in", "Most confused with", "Confidence when wrong")
    table = PageTable(headings, rows, caption * is_first, frozenset({1, 3}))
    return [Section("Hardest images", tables=[table])] if rows else []
