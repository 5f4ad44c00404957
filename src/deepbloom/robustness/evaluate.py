"""Predictions of a network on corrupted test images, and what they say of it."""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepbloom.data.batches import prefetch
from deepbloom.data.images import map_ahead
from deepbloom.data.pixel_cache import Pixels
from deepbloom.data.preprocessing import Preprocessing, normalize
from deepbloom.device import available_cores
from deepbloom.engine.evaluate import EVALUATION_BATCH, check_finite, predict_logits
from deepbloom.metrics import expected_calibration_error, softmax
from deepbloom.progress import Progress
from deepbloom.report.statistics import compare_values, correct_for_number, mean_interval, wilson_interval
from deepbloom.robustness.corruptions import SEVERITIES, corrupt
from deepbloom.runs import files

CLEAN = "none"
"""The name under which images are measured as they are."""
MOST = 5


class Condition(NamedTuple):
    """A corruption at a severity; ``(CLEAN, 0)`` is none."""

    corruption: str
    severity: int


CLEAN_CONDITION = Condition(CLEAN, 0)


@dataclass(frozen=True)
class Images:
    """N images of known class.

    Attributes
    ----------
    pixels : Pixels
    indices : ndarray of int64, shape (N,)
        Into ``pixels``.
    image_ids : tuple of str
    targets : ndarray of int64, shape (N,)
    fingerprint : str
        Of the content of all images of the source.
    """

    pixels: Pixels
    indices: np.ndarray
    image_ids: tuple[str, ...]
    targets: np.ndarray
    fingerprint: str


@dataclass(frozen=True)
class Measured:
    """A network on N images under each condition.

    Attributes
    ----------
    label : str
    checkpoint : str
    correct : dict of ndarray of bool, shape (N,)
        By condition; the first is `CLEAN_CONDITION`.
    confidence : dict of ndarray of float32, shape (N,)
    """

    label: str
    checkpoint: str
    correct: dict[Condition, NDArray[np.bool_]]
    confidence: dict[Condition, NDArray[np.float32]]

    @property
    def corrupted(self) -> NDArray[np.float64]:
        """The share of conditions under which each image is classified correctly, shape (N,)."""
        table = np.array(
            [correct for condition, correct in self.correct.items() if condition.severity], dtype=np.float64
        )
        return np.asarray(table.mean(0))


def conditions(names: Sequence[str], severities: Sequence[int] = SEVERITIES) -> list[Condition]:
    """Return all conditions, the clean one first."""
    return [CLEAN_CONDITION, *(Condition(name, severity) for name in names for severity in severities)]


def run_network(
    network: nn.Module,
    preprocessing: Preprocessing,
    images: Images,
    wanted: Sequence[Condition],
    seed: int,
    cache: Path,
    checkpoint_digest: str,
) -> tuple[dict[Condition, NDArray[np.bool_]], dict[Condition, NDArray[np.float32]]]:
    """Return whether each prediction is correct, and its confidence, for N images under each condition.

    Each condition is kept in ``cache`` when it is done, so that an interrupted call resumes there. The file's name is a
    digest of all that decides its content.

    Raises
    ------
    CheckpointError
        The network gives logits that are not finite.
    """
    device = next(network.parameters()).device
    correct, confidences = {}, {}
    common = [checkpoint_digest, images.fingerprint, images.image_ids, seed]
    with Progress(total=len(wanted) * len(images.indices), desc="Testing", unit="image") as bar:
        for condition in wanted:
            bar.set_postfix_str(f"{condition.corruption} {condition.severity}", refresh=False)
            key = hashlib.sha256(json.dumps([*common, *condition]).encode()).hexdigest()[:24]
            path = cache / f"{key}.npz"
            found = _read(path, len(images.indices))
            if found is None:
                batches = _corrupted_batches(images, preprocessing, condition, seed)
                logits, _ = predict_logits(network, batches, device)
                check_finite(logits, "The network")
                found = logits.argmax(1).astype(np.int32), softmax(logits).max(1).astype(np.float32)
                _write(path, *found)
            correct[condition], confidences[condition] = found[0] == images.targets, found[1]
            bar.update(len(images.indices))
    return correct, confidences


def _corrupted_batches(
    images: Images, preprocessing: Preprocessing, condition: Condition, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches that threads corrupt while the network works on the one before."""

    def change(pair: tuple[np.ndarray, str]) -> np.ndarray:
        return pair[0] if condition == CLEAN_CONDITION else corrupt(pair[0], *condition, seed, pair[1])

    def produce() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(images.indices), EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            read = images.pixels.read(images.indices[part])
            changed = list(map_ahead(change, zip(read, images.image_ids[part], strict=True), available_cores()))
            inputs = normalize(torch.from_numpy(np.stack(changed)), preprocessing)
            yield inputs, torch.from_numpy(images.targets[part])

    return prefetch(produce(), depth=1)


def _read(path: Path, count: int) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
    try:
        with np.load(path, allow_pickle=False) as content:
            predictions, confidences = content["predictions"], content["confidences"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # not there yet, or not written to its end
    if predictions.shape != (count,) or confidences.shape != (count,):
        return None
    return predictions.astype(np.int32), confidences.astype(np.float32)


def _write(path: Path, predictions: NDArray[np.int32], confidences: NDArray[np.float32]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, predictions=predictions, confidences=confidences)
    files.write_bytes(path, buffer.getvalue())


def summarize(measured: Measured) -> dict[str, Any]:
    """Return the scores of a network: clean, by condition, and over all corruptions.

    ``mean_corruption_accuracy`` is the mean over all conditions, with an interval over images (`mean_interval`).
    ``relative_loss`` is 1 - mean corruption accuracy / clean accuracy. The corruption error of Hendrycks and Dietterich
    is divided by AlexNet's on ImageNet, which means nothing on other images.
    """
    clean = score(measured, CLEAN_CONDITION)
    rows = [score(measured, condition) for condition in measured.correct if condition.severity]
    low, high = mean_interval(measured.corrupted)
    mean = float(measured.corrupted.mean())
    return {
        "model": measured.label,
        "checkpoint": measured.checkpoint,
        "clean": clean,
        "mean_corruption_accuracy": {"value": mean, "low": low, "high": high},
        "relative_loss": 1 - mean / clean["top1_accuracy"] if clean["top1_accuracy"] else None,
        "mean_calibration_error": float(np.mean([row["calibration_error"] for row in rows])),
        "conditions": rows,
    }


def score(measured: Measured, condition: Condition) -> dict[str, Any]:
    """Return accuracy, its 95 % interval (Wilson) and the expected calibration error under a condition."""
    correct = measured.correct[condition]
    low, high = wilson_interval(correct.sum(), len(correct))
    return {
        "corruption": condition.corruption,
        "severity": condition.severity,
        "top1_accuracy": float(correct.mean()),
        "low": float(low),
        "high": float(high),
        "count": len(correct),
        "calibration_error": expected_calibration_error(measured.confidence[condition], correct),
    }


def suffering_classes(
    measured: Measured, targets: np.ndarray, classes: Sequence[str], count: int = 5
) -> list[dict[str, Any]]:
    """Return the ``count`` classes that lose most accuracy under corruption, worst first; small ones are uncertain."""
    clean = measured.correct[CLEAN_CONDITION]
    rows: list[dict[str, Any]] = []
    for index in np.unique(targets):
        of_class = targets == index
        before, after = float(clean[of_class].mean()), float(measured.corrupted[of_class].mean())
        name = classes[index]
        rows.append({"class_name": name, "clean": before, "corrupted": after, "count": int(of_class.sum())})
    losing = [row for row in rows if row["corrupted"] < row["clean"]]
    return sorted(losing, key=lambda row: row["corrupted"] - row["clean"])[:MOST]


def compare_all(networks: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return the difference of the mean corruption accuracies of every pair, first minus second, on the same images.

    `compare_values` with `correct_for_number`: an interval leaves out zero where the pair differs although all pairs
    were compared.
    """
    pairs = [(a, b) for number, a in enumerate(networks) for b in networks[number + 1 :]]
    tests = [partial(compare_values, a.corrupted, b.corrupted, 1.0) for a, b in pairs]
    return [
        {
            "first": a.label,
            "second": b.label,
            "difference": found.estimate,
            "low": found.low,
            "high": found.high,
            "p": p,
        }
        for (a, b), (found, p) in zip(pairs, correct_for_number(tests), strict=True)
    ]
