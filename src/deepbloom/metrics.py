"""Scores of a classifier: pure functions of logits or predictions, and targets.

CPU tensors are accepted wherever an array is. Sums are taken in float64 over all images at once, so no result
depends on how the images were batched. scikit-learn and scipy are imported where they are used: that takes a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class ClassReport(NamedTuple):
    """Scores of every class; index c of each array is class c.

    Attributes
    ----------
    precision : ndarray of float64, shape (C,)
        Share of the images predicted as c that are c; 0 without such predictions.
    recall : ndarray of float64, shape (C,)
        Share of the images of c that are predicted as c; 0 without such images.
    f1 : ndarray of float64, shape (C,)
        Harmonic mean of the two; 0 if both are 0.
    support : ndarray of int64, shape (C,)
        Images of c.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray


@dataclass(frozen=True)
class Reliability:
    """Predictions sorted by confidence into B bins of equal numbers (equal mass), the least confident first.

    Attributes
    ----------
    counts : ndarray of int64, shape (B,)
    mean_confidence, accuracy : ndarray of float64, shape (B,)
    bin_of : ndarray of int64, shape (N,)
        The bin of each prediction.
    rates : ndarray of float64, shape (N,)
        The accuracy of the predictions with the same confidence.
    """

    counts: np.ndarray
    mean_confidence: np.ndarray
    accuracy: np.ndarray
    bin_of: np.ndarray
    rates: np.ndarray


def top_k_accuracy(logits: ArrayLike, targets: ArrayLike, k: int = 1) -> float:
    """Return the share of images whose class is among the ``k`` largest logits.

    Parameters
    ----------
    logits : array, shape (N, C)
        Equal logits rank by class index, as in ``argmax`` (in scikit-learn the last class comes first). ``k`` above C
        counts as C.
    targets : array of int, shape (N,)

    Returns
    -------
    float in [0, 1]

    Raises
    ------
    ValueError
        Shapes do not fit, N is 0, a target is not in [0, C), or a logit is NaN.
    """
    logits, targets = _check_logits(logits, targets)
    if k < 1:
        raise ValueError(f"k={k} must be at least 1.")
    return float((top_classes(logits, k) == targets[:, None]).any(axis=1).mean())


def mean_cross_entropy(logits: ArrayLike, targets: ArrayLike) -> float:
    """Return the mean of -log softmax(logits)[target], in nats; 0 is perfect, log C is uniform guessing.

    Parameters and errors are those of `top_k_accuracy`.
    """
    return float(cross_entropies(*_check_logits(logits, targets)).mean())


def cross_entropies(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return -log softmax(logits)[target] of each image, in nats: float64, shape (N,)."""
    from scipy.special import log_softmax

    logits = logits.astype(np.float64)
    return np.asarray(-np.take_along_axis(log_softmax(logits, axis=1), targets[:, None], axis=1)[:, 0])


def confusion_matrix(predictions: ArrayLike, targets: ArrayLike, num_classes: int) -> np.ndarray:
    """Count images by true class (row) and predicted class (column).

    Parameters
    ----------
    predictions, targets : array of int in [0, num_classes), shape (N,)

    Returns
    -------
    ndarray of int64, shape (C, C)

    Raises
    ------
    ValueError
        Shapes differ, N is 0, or an index is out of range.
    """
    from sklearn.metrics import confusion_matrix as count

    predictions, targets = _check_predictions(predictions, targets, num_classes)
    return np.asarray(count(targets, predictions, labels=np.arange(num_classes)))


def report_classes(confusion: np.ndarray) -> ClassReport:
    """Return precision, recall and F1 of every class, from a `confusion_matrix` of shape (C, C)."""
    from sklearn.metrics import precision_recall_fscore_support

    classes = np.arange(len(confusion))
    targets, predictions = (indices.ravel() for indices in np.meshgrid(classes, classes, indexing="ij"))
    precision, recall, f1, support = precision_recall_fscore_support(
        targets, predictions, labels=classes, sample_weight=confusion.ravel(), zero_division=0
    )
    return ClassReport(precision, recall, f1, support.astype(np.int64))


def macro_f1(predictions: ArrayLike, targets: ArrayLike, num_classes: int) -> float:
    """Return the unweighted mean of the classes' F1 scores, so that a rare class counts as much as a common one.

    Classes with neither images nor predictions are left out. Parameters and errors are those of `confusion_matrix`.
    """
    from sklearn.metrics import f1_score

    predictions, targets = _check_predictions(predictions, targets, num_classes)
    return float(f1_score(targets, predictions, average="macro", zero_division=0))


def bin_by_confidence(confidences: ArrayLike, correct: ArrayLike, num_bins: int = 15) -> Reliability:
    """Sort predictions by confidence into bins of equal numbers, for a reliability diagram.

    Equal confidences count as equally often correct, so the order of the images does not matter.

    Parameters
    ----------
    confidences : array of float in [0, 1], shape (N,)
        Probability of the predicted class.
    correct : array of bool, shape (N,)
    num_bins : int
        Where there are fewer predictions, each is a bin.

    Raises
    ------
    ValueError
        Shapes differ, N is 0, or a confidence is outside [0, 1].
    """
    confidences = np.asarray(confidences, dtype=np.float64)
    correct = np.asarray(correct, dtype=np.float64)
    if confidences.shape != correct.shape or confidences.ndim != 1 or not len(correct):
        raise ValueError(
            f"confidences {confidences.shape} and correct {correct.shape} must both have shape (N,), with N at least 1."
        )
    if not ((confidences >= 0) & (confidences <= 1)).all():
        raise ValueError("Confidences must be numbers in [0, 1].")
    _, group, sizes = np.unique(confidences, return_inverse=True, return_counts=True)
    rates = (np.bincount(group, correct) / sizes)[group]
    order = np.argsort(confidences, kind="stable")
    number = min(num_bins, len(order))
    bin_of = np.empty(len(order), dtype=np.int64)
    bin_of[order] = np.arange(len(order)) * number // len(order)
    counts = np.bincount(bin_of)
    return Reliability(
        counts, np.bincount(bin_of, confidences) / counts, np.bincount(bin_of, rates) / counts, bin_of, rates
    )


def expected_calibration_error(confidences: ArrayLike, correct: ArrayLike, num_bins: int = 15) -> float:
    """Return the mean distance between confidence and accuracy, in [0, 1]; 0 is perfectly calibrated.

    ECE = sum_b n_b / N * |accuracy_b - confidence_b| (Naeini et al. 2015) over bins of equal numbers (Nixon et al.
    2019, https://arxiv.org/abs/1904.01685). Parameters and errors are those of `bin_by_confidence`.
    """
    bins = bin_by_confidence(confidences, correct, num_bins)
    return float((bins.counts * np.abs(bins.accuracy - bins.mean_confidence)).sum() / bins.counts.sum())


def brier_scores(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the squared distance between the probabilities, shape (N, C), and the true class, of each image.

    In [0, 2]; 0 is perfect (Brier 1950). float64, shape (N,).
    """
    own = np.take_along_axis(probabilities, targets[:, None], axis=1)[:, 0]
    return np.asarray((probabilities**2).sum(1) - 2 * own + 1)


def score_logits(logits: ArrayLike, targets: ArrayLike) -> dict[str, float | int]:
    """Return ``top1_accuracy``, ``top5_accuracy``, ``macro_f1``, ``loss`` and ``count``: a run's ``test`` block.

    Parameters and errors are those of `top_k_accuracy`.
    """
    logits, targets = _check_logits(logits, targets)
    return {
        "top1_accuracy": top_k_accuracy(logits, targets, 1),
        "top5_accuracy": top_k_accuracy(logits, targets, 5),
        "macro_f1": macro_f1(logits.argmax(axis=1), targets, logits.shape[1]),
        "loss": mean_cross_entropy(logits, targets),
        "count": len(targets),
    }


def _check_logits(logits: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    logits, targets = np.asarray(logits, dtype=np.float64), np.asarray(targets)
    if logits.ndim != 2 or targets.shape != logits.shape[:1] or logits.size == 0:
        raise ValueError(f"logits {logits.shape} must be (N, C) and targets {targets.shape} (N,), with N at least 1.")
    if np.isnan(logits).any():
        raise ValueError("A logit is NaN, so the image has no prediction.")
    _check_indices("targets", targets, logits.shape[1])
    return logits, targets.astype(np.int64)


def _check_predictions(predictions: ArrayLike, targets: ArrayLike, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    predictions, targets = np.asarray(predictions), np.asarray(targets)
    if predictions.shape != targets.shape or targets.ndim != 1 or targets.size == 0:
        raise ValueError(
            f"predictions {predictions.shape} and targets {targets.shape} must both have shape (N,), with N at least 1."
        )
    _check_indices("predictions", predictions, num_classes)
    _check_indices("targets", targets, num_classes)
    return predictions, targets


def _check_indices(name: str, indices: np.ndarray, num_classes: int) -> None:
    if indices.size and (indices.dtype.kind not in "iu" or indices.min() < 0 or indices.max() >= num_classes):
        raise ValueError(f"{name} must be class indices, integers in [0, {num_classes}).")


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return probabilities, float64 of shape (N, C), from logits of that shape divided by a temperature."""
    logits = logits.astype(np.float64) / temperature
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def top_classes(logits: np.ndarray, k: int = 5) -> np.ndarray:
    """Return the ``k`` best classes of each image, best first, int64 of shape (N, min(k, C))."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :k]


def best_guesses(logits: np.ndarray, temperature: float, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return ``index``, ``class_name`` and ``confidence`` of the five best classes of one image: predictions.json."""
    probabilities = softmax(logits[None], temperature)[0]
    return [
        {"index": int(i), "class_name": class_names[i], "confidence": round(float(probabilities[i]), 6)}
        for i in top_classes(logits[None])[0]  # not of the probabilities, of which small ones may be equal
    ]
