"""Predictions on corrupted test images, and the scores of networks on them."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepbloom import __version__
from deepbloom.data.images import map_ahead
from deepbloom.data.pixel_cache import Pixels
from deepbloom.device import available_cores
from deepbloom.engine.evaluate import check_finite
from deepbloom.engine.predictor import Predictor
from deepbloom.metrics import expected_calibration_error, softmax
from deepbloom.progress import ProgressBar
from deepbloom.report.intervals import mean_interval, wilson_interval
from deepbloom.report.statistics import compare_values, correct_for_number
from deepbloom.robustness.corruptions import SEVERITIES, corrupt
from deepbloom.runs import files

CLEAN = "none"
"""The name under which images are measured as they are."""
MOST = 5
BATCH = 16
"""Images that a thread corrupts and predicts at a time. Fewer take longer each, more only take more memory."""


class Condition(NamedTuple):
    """A corruption at a severity; ``(CLEAN, 0)`` is none."""

    corruption: str
    severity: int


CLEAN_CONDITION = Condition(CLEAN, 0)


@dataclass(frozen=True)
class Images:
    """N images of known class, among those of a source.

    Attributes
    ----------
    pixels : Pixels
        Of all images of the source, as are ``all_ids`` and ``all_targets``.
    indices : ndarray of int64, shape (N,)
    all_ids : tuple of str
    all_targets : ndarray of int64
    fingerprint : str
        Of the content of all images of the source.
    """

    pixels: Pixels
    indices: np.ndarray
    all_ids: tuple[str, ...]
    all_targets: np.ndarray
    fingerprint: str

    @property
    def image_ids(self) -> list[str]:
        return [self.all_ids[index] for index in self.indices]

    @property
    def targets(self) -> np.ndarray:
        """Shape (N,), int64."""
        return np.asarray(self.all_targets[self.indices])

    def batches(self) -> list[NDArray[np.int64]]:
        """Return the indices in order, `BATCH` at a time."""
        return np.split(self.indices, range(BATCH, len(self.indices), BATCH))

    def read(self, indices: np.ndarray, condition: Condition, seed: int) -> np.ndarray:
        """Return images of the source under a condition, uint8 of shape (B, S, S, 3)."""
        read = self.pixels.read(indices)
        if condition == CLEAN_CONDITION:
            return read
        pairs = zip(read, indices.tolist(), strict=True)
        return np.stack([corrupt(image, *condition, seed, self.all_ids[index]) for image, index in pairs])


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
        return np.asarray(
            np.mean([self.correct[condition] for condition in self.correct if condition.severity], axis=0)
        )


def conditions(names: Sequence[str], severities: Sequence[int] = SEVERITIES) -> list[Condition]:
    """Return all conditions, the clean one first."""
    return [CLEAN_CONDITION, *(Condition(name, severity) for name in names for severity in severities)]


def run_network(
    predictor: Predictor,
    images: Images,
    wanted: Sequence[Condition],
    seed: int,
    cache: Path,
    checkpoint_digest: str,
) -> tuple[dict[Condition, NDArray[np.bool_]], dict[Condition, NDArray[np.float32]]]:
    """Return whether each prediction is correct, and its confidence, for N images under each condition.

    Each available core has a thread that corrupts a batch and then predicts it; the number of threads does not change
    results. Each finished condition is kept in ``cache``, so an interrupted call resumes there. The file's name is a
    digest of all that decides its content.

    Raises
    ------
    CheckpointError
        The network gives logits that are not finite.
    """
    common = [__version__, checkpoint_digest, images.fingerprint, images.image_ids, seed]
    digests = (hashlib.sha256(json.dumps([*common, *condition]).encode()).hexdigest()[:24] for condition in wanted)
    paths = {condition: cache / f"{digest}.npz" for condition, digest in zip(wanted, digests, strict=True)}
    found = {each: arrays for each, path in paths.items() if (arrays := files.read_arrays(path)) is not None}
    missing, parts = [condition for condition in wanted if condition not in found], images.batches()
    total = len(wanted) * len(images.indices)
    with predictor.shared() as logits_of, ProgressBar(total=total, desc="Testing", unit="image") as bar:
        bar.update(len(found) * len(images.indices))

        def predict(task: tuple[Condition, np.ndarray]) -> np.ndarray:
            condition, indices = task
            return logits_of(images.read(indices, condition, seed))

        with closing(map_ahead(predict, product(missing, parts), available_cores())) as predicted:
            for condition in missing:
                bar.set_postfix_str(f"{condition.corruption} {condition.severity}", refresh=False)
                logits = []
                for part in parts:
                    logits.append(next(predicted))
                    bar.update(len(part))
                found[condition] = _describe(np.concatenate(logits), predictor.temperature)
                files.write_arrays(paths[condition], found[condition])
    return (
        {condition: found[condition]["predictions"] == images.targets for condition in wanted},
        {condition: found[condition]["confidences"] for condition in wanted},
    )


def _describe(logits: np.ndarray, temperature: float) -> dict[str, np.ndarray]:
    """Return ``predictions`` and ``confidences`` of N images."""
    check_finite(logits, "The network")
    return {
        "predictions": logits.argmax(1).astype(np.int32),
        "confidences": softmax(logits, temperature).max(1).astype(np.float32),
    }


def summarize(measured: Measured) -> dict[str, Any]:
    """Return the scores of a network: clean, by condition, and over all corruptions.

    ``mean_corruption_accuracy`` is the mean over all conditions, with an interval over images (`mean_interval`).
    ``relative_loss`` is 1 - mean corruption accuracy / clean accuracy. The corruption error of Hendrycks and Dietterich
    is divided by AlexNet's on ImageNet, which is meaningless on other images.
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


def suffering_classes(measured: Measured, targets: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the `MOST` classes that lose most accuracy under corruption, worst first; small ones are uncertain."""
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
