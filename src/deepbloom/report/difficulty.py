"""Classes and images that are hard for all models, and what they are confused with."""

from typing import NamedTuple

import numpy as np

from deepbloom.report.groups import Group


class HardClass(NamedTuple):
    """A class with low recall: mean over models, and of the best; ``confused_with`` may be empty."""

    name: str
    images: int
    mean_recall: float
    best_recall: float
    confused_with: str


class HardImage(NamedTuple):
    """An image with wrong predictions, the most common of them, and their mean confidence."""

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
                image_id=runs[0].image_ids[i],
                class_name=group.class_names[runs[0].targets[i]],
                wrong_runs=int(wrong_runs[i]),
                runs=len(runs),
                confused_with=group.class_names[int(given.argmax())],
                mean_confidence=float(confidence_when_wrong[i]),
            )
        )
    return images
