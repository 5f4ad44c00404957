"""Results on labeled images, as files: predictions, probabilities, and scores per class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepbloom.metrics import report_classes, softmax, top_classes
from deepbloom.runs import files
from deepbloom.runs import folder as run_dir

PREDICTION_COLUMNS = ("image_id", "target", "target_name", "prediction", "prediction_name", "confidence", "top5")
CLASS_COLUMNS = ("class_name", "precision", "recall", "f1", "count")
CLASS_REPORT = "class_report.csv"


def write_predictions(
    folder: Path,
    image_ids: Sequence[str],
    class_names: Sequence[str],
    logits: np.ndarray,
    targets: np.ndarray,
    temperature: float,
) -> None:
    """Write ``predictions.csv``: a row per image with its class, the prediction, its probability and the top five.

    Parameters
    ----------
    folder : Path
    image_ids : sequence of str, length N
    class_names : sequence of str, length C
    logits : ndarray of float32, shape (N, C)
    targets : ndarray of int64, shape (N,)
    temperature : float
    """
    probabilities, best = softmax(logits, temperature), top_classes(logits)
    rows = [
        {
            "image_id": image_id,
            "target": int(target),
            "target_name": class_names[target],
            "prediction": int(order[0]),
            "prediction_name": class_names[order[0]],
            "confidence": f"{row[order[0]]:.6f}",
            "top5": " ".join(map(str, order)),
        }
        for image_id, target, row, order in zip(image_ids, targets, probabilities, best, strict=True)
    ]
    files.write_csv(folder / run_dir.PREDICTIONS, PREDICTION_COLUMNS, rows)


def write_probabilities(folder: Path, logits: np.ndarray, embeddings: np.ndarray, temperature: float) -> None:
    """Write ``probabilities.npz``: ``probabilities`` (N, C) and ``embeddings`` (N, F) of the test images, float16.

    Parameters
    ----------
    folder : Path
    logits : ndarray of float32, shape (N, C)
    embeddings : ndarray of float32, shape (N, F)
        The inputs of the last layer.
    temperature : float
    """
    largest = np.finfo(np.float16).max
    arrays = {
        "probabilities": softmax(logits, temperature).astype(np.float16),
        "embeddings": embeddings.clip(-largest, largest).astype(np.float16),
    }
    files.write_arrays(folder / run_dir.PROBABILITIES, arrays, compressed=True)


def score_without(left_out: np.ndarray, logits: np.ndarray, targets: np.ndarray) -> dict[str, float | int | None]:
    """Return ``top1_accuracy`` (None of no image) and ``count`` of the images that are not ``left_out`` (bool)."""
    correct = (logits.argmax(axis=1) == targets)[~left_out]
    return {"top1_accuracy": float(correct.mean()) if len(correct) else None, "count": len(correct)}


def write_class_report(folder: Path, confusion: np.ndarray, class_names: Sequence[str]) -> None:
    """Write ``class_report.csv`` from a confusion matrix of shape (C, C)."""
    scores = report_classes(confusion)
    rows = [
        {
            "class_name": name,
            "precision": f"{scores.precision[i]:.4f}",
            "recall": f"{scores.recall[i]:.4f}",
            "f1": f"{scores.f1[i]:.4f}",
            "count": int(scores.support[i]),
        }
        for i, name in enumerate(class_names)
    ]
    files.write_csv(folder / CLASS_REPORT, CLASS_COLUMNS, rows)
