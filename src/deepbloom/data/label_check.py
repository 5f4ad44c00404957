"""Images whose label is probably wrong, by confident learning (Northcutt et al. 2021, https://arxiv.org/abs/1911.00068).

Probabilities must come from networks that were not trained with the image: those of k folds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepbloom.data.sources import ImageSource
from deepbloom.errors import RunError
from deepbloom.runs import folder as run_dir
from deepbloom.runs.files import read_arrays
from deepbloom.runs.parsing import read_columns
from deepbloom.runs.reading import CompleteRun, find_runs

COLUMNS = ("image_id", "given", "suggested", "score")
Embedded = tuple[NDArray[np.int64], np.ndarray]
"""Places of the images that a run tested, shape (M,), and their embeddings, shape (M, F)."""


class Suspects(NamedTuple):
    """Images whose label is probably wrong, the most suspicious first.

    Attributes
    ----------
    places : ndarray of int64, shape (S,)
        Which images.
    suggested : ndarray of int64, shape (S,)
        Their more probable class.
    scores : ndarray of float64, shape (S,)
        One minus the probability of the given class, in [0, 1].
    """

    places: NDArray[np.int64]
    suggested: NDArray[np.int64]
    scores: NDArray[np.float64]


class LabelCheck(NamedTuple):
    """What is known of the labels of N images of C classes; images are named by their place.

    Attributes
    ----------
    suspects : Suspects
    typical : ndarray of int64, shape (C,)
        Of each class, the image with the highest probability of its label; -1 of a class without images.
    conflicts : list of (int, int)
        Near-duplicates with different labels, each pair once.
    outliers : list of (int, float)
        Images unlike all others, with their distance, the most distant first.
    """

    suspects: Suspects
    typical: NDArray[np.int64]
    conflicts: list[tuple[int, int]]
    outliers: list[tuple[int, float]]


def find_typical(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``typical`` of `LabelCheck`; parameters as of `find_suspects`."""
    own = probabilities[np.arange(len(targets)), targets]
    typical = np.full(probabilities.shape[1], -1, dtype=np.int64)
    order = np.argsort(own, kind="stable")
    typical[targets[order]] = order  # the last of a class stays
    return typical


def find_suspects(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> Suspects:
    """Return the images whose label is probably wrong.

    An image counts for a class if its probability reaches the mean that the class has on images with its label. For
    a suspect another class counts most, or is the most probable one. Suspects are ranked by self-confidence, the
    probability of the given class: it found more planted errors than the margin between both classes.

    Parameters
    ----------
    probabilities : ndarray, shape (N, C)
        Out of fold.
    targets : ndarray of int, shape (N,)
    """
    rows = np.arange(len(targets))
    own = probabilities[rows, targets]
    counts = np.bincount(targets, minlength=probabilities.shape[1])
    thresholds = np.bincount(targets, own, probabilities.shape[1]) / np.maximum(counts, 1)
    thresholds[counts == 0] = np.inf
    counted = np.where(probabilities >= thresholds, probabilities, -1)
    others = probabilities.copy()
    others[rows, targets] = -1
    suggested = np.where(counted.max(1) >= 0, counted.argmax(1), targets)
    suggested = np.where(suggested == targets, others.argmax(1), suggested)
    confident = (counted.max(1) >= 0) & (counted.argmax(1) != targets)
    scores = 1 - own
    suspects = np.flatnonzero(confident | (others.max(1) > own))
    order = suspects[np.argsort(-scores[suspects], kind="stable")]
    return Suspects(order, suggested[order], scores[order])


def find_folds(folder: Path, source: ImageSource) -> list[CompleteRun]:
    """Return the complete runs in a folder that tested a fold of these images.

    Raises
    ------
    RunError
        There is none.
    """
    runs = [run for run in find_runs(folder) if isinstance(run, CompleteRun) and run.metrics.folds]
    runs = [run for run in runs if run.metrics.dataset_fingerprint == source.fingerprint]
    if not runs:
        raise RunError(
            f"{folder} holds no complete run with folds of these images. Train them first: deepbloom train -m ... "
            "data.split.folds=5 data.split.fold=0,1,2,3,4"
        )
    return runs


def read_out_of_fold(
    runs: Sequence[CompleteRun], image_ids: Sequence[str], num_classes: int
) -> tuple[NDArray[np.float64], list[Embedded]]:
    """Return the mean probabilities, shape (N, C), of the runs that tested each image in a fold, and their embeddings.

    Raises
    ------
    RunError
        Folds are missing, or the probabilities of one.
    """
    places = {name: place for place, name in enumerate(image_ids)}
    sums, counts = np.zeros((len(places), num_classes)), np.zeros(len(places))
    embedded: list[Embedded] = []
    for run in runs:
        names = read_columns(run.path / run_dir.PREDICTIONS, ("image_id",))["image_id"]
        arrays = read_arrays(run.path / run_dir.PROBABILITIES) or {}
        found = arrays.get("probabilities")
        if found is None or found.shape != (len(names), num_classes):
            raise RunError(f"{run.path / run_dir.PROBABILITIES} is missing or damaged. Train this fold again.")
        rows = np.array([places[name] for name in names])
        sums[rows] += found
        counts[rows] += 1
        if (embeddings := arrays.get("embeddings")) is not None and len(embeddings) == len(rows):
            embedded.append((rows, embeddings))
    if not counts.all():
        tested = sorted({run.metrics.fold for run in runs})
        raise RunError(
            f"The runs are of folds {', '.join(map(str, tested))} of {runs[0].metrics.folds}, which test "
            f"{int((counts > 0).sum()):,} of {len(places):,} images. Train the others as well."
        )
    return np.asarray(sums / counts[:, None]), embedded
