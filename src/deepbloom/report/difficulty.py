"""Which classes and images are hard for every model, and what they are taken for."""

from dataclasses import dataclass

import numpy as np

from deepbloom.report.compare import Table


@dataclass(frozen=True)
class HardClass:
    """A class that models recognize badly.

    Attributes
    ----------
    name : str
    images : int
        Test images of it.
    mean_recall, best_recall : float in [0, 1]
        Share of them that is recognized: mean over models, and by the best model.
    taken_for : str
        The class most often answered instead; empty where there is none.
    """

    name: str
    images: int
    mean_recall: float
    best_recall: float
    taken_for: str


@dataclass(frozen=True)
class HardImage:
    """An image that models classify wrongly.

    Attributes
    ----------
    image_id, class_name : str
    wrong_runs, runs : int
        Runs that got it wrong, of how many.
    taken_for : str
        The most common wrong answer.
    mean_confidence : float in [0, 1]
        How sure the wrong answers were.
    """

    image_id: str
    class_name: str
    wrong_runs: int
    runs: int
    taken_for: str
    mean_confidence: float


def find_hard_classes(table: Table, limit: int = 10) -> list[HardClass]:
    """Return the classes with the lowest recall, mean over models; those that all recognize perfectly are left out."""
    count = len(table.class_names)
    confusions = np.stack([model.confusion(count) for model in table.models])  # (models, C, C)
    recalls = np.diagonal(confusions, axis1=1, axis2=2) / np.maximum(confusions.sum(axis=2), 1)  # (models, C)
    mistakes = confusions.sum(axis=0) * ~np.eye(count, dtype=bool)
    images = np.bincount(table.models[0].answers[0].targets, minlength=count)
    means = recalls.mean(axis=0)
    order = [int(i) for i in np.argsort(means, kind="stable") if images[i] and means[i] < 1]
    return [
        HardClass(
            name=table.class_names[i],
            images=int(images[i]),
            mean_recall=float(means[i]),
            best_recall=float(recalls[:, i].max()),
            taken_for=table.class_names[int(mistakes[i].argmax())] if mistakes[i].any() else "",
        )
        for i in order[:limit]
    ]


def find_hard_images(table: Table, limit: int = 12) -> list[HardImage]:
    """Return the images that models get wrong most often, each model counting once; then the surest mistakes."""
    errors = np.mean([1 - model.correct.mean(axis=0) for model in table.models], axis=0)  # (N,)
    runs = [answers for model in table.models for answers in model.answers]
    wrong = np.stack([~run.correct for run in runs])  # (runs, N)
    confidences = np.stack([run.confidences for run in runs])
    wrong_runs = wrong.sum(axis=0)
    sureness = (confidences * wrong).sum(axis=0) / np.maximum(wrong_runs, 1)
    order = np.lexsort((-sureness, -errors))[:limit]
    images = []
    for i in order[errors[order] > 0]:
        answers = np.bincount([run.answers[i] for run, bad in zip(runs, wrong[:, i], strict=True) if bad])
        images.append(
            HardImage(
                image_id=runs[0].image_ids[i],
                class_name=table.class_names[runs[0].targets[i]],
                wrong_runs=int(wrong_runs[i]),
                runs=len(runs),
                taken_for=table.class_names[int(answers.argmax())],
                mean_confidence=float(sureness[i]),
            )
        )
    return images
