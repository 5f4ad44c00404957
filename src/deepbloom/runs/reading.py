"""Run directories as typed values. Reads their small files, never weights or images."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepbloom.errors import RunError
from deepbloom.runs import folder as run_dir
from deepbloom.runs import parsing as kinds
from deepbloom.runs.audit import Audit, read_audit
from deepbloom.runs.parsing import Fields, Kind, load_json, read_columns, to_numbers

RUN_FILES = (run_dir.CONFIG, run_dir.METRICS, run_dir.HISTORY, run_dir.LAST, run_dir.FAILED)
HISTORY_COLUMNS = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
History = list[dict[str, float]]
VARYING = frozenset({"seed", "split_fingerprint"})
"""Keys of a run's identity in which seeds and folds of one model differ."""


class Field(NamedTuple):
    """A value of metrics.json by its dotted name; a run is damaged if it lacks a required one."""

    path: str
    kind: Kind
    required: bool


@dataclass(frozen=True)
class Run:
    """A run directory, usable or not.

    Attributes
    ----------
    path : Path
    name : str
        Path below the folder that was searched; ``.`` for the folder itself.
    state : str
        ``complete``, ``partial``, ``failed`` or ``unreadable``.
    problem : str
        Why it failed or cannot be read; empty otherwise.
    """

    path: Path
    name: str
    state: str
    problem: str


@dataclass(frozen=True)
class Metrics:
    """What tells with which runs a run can be compared and where it was made, from metrics.json.

    Attributes
    ----------
    identity : dict of str to str
        The resolved settings that decide the result, by dotted name.
    audit : Audit or None
        None if the run has no audit.
    """

    model: str
    dataset: str
    data_split_kind: str
    seed: int
    folds: int
    fold: int
    class_names: tuple[str, ...]
    top1_accuracy: float
    count: int
    dataset_fingerprint: str
    split_fingerprint: str
    device_name: str
    precision: str
    num_threads: int
    versions: Mapping[str, str]
    git_commit: str | None
    identity: Mapping[str, str]
    audit: Audit | None


@dataclass(frozen=True, eq=False)
class Predictions:
    """What predictions.csv says, sorted by image.

    Attributes
    ----------
    image_ids : tuple of str, length N
        All different.
    targets, predicted : ndarray of int64, shape (N,)
        True and predicted class.
    confidences : ndarray of float64 in [0, 1], shape (N,)
    """

    image_ids: tuple[str, ...]
    targets: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidences: NDArray[np.float64]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each image is classified correctly: shape (N,)."""
        correct: NDArray[np.bool_] = self.targets == self.predicted
        return correct


@dataclass(frozen=True, eq=False)
class CompleteRun(Run):
    """A run whose files are all there, can be read and agree with each other.

    Attributes
    ----------
    metrics : Metrics
    values : dict of str to object
        The fields that the caller asked for; None if a run lacks one.
    history : list of rows of history.csv
        `HISTORY_COLUMNS` as floats; empty if the file is missing.
    predictions : Predictions
    """

    metrics: Metrics
    values: Mapping[str, Any]
    history: History
    predictions: Predictions

    @property
    def model_identity(self) -> dict[str, str]:
        """The identity without what seeds and folds differ in: equal exactly for runs of one model."""
        return {key: value for key, value in self.metrics.identity.items() if key not in VARYING}


def find_runs(folder: Path, fields: Mapping[str, Field] | None = None) -> list[Run]:
    """Return every run in a folder, at any depth, sorted by name; those that can be used are `CompleteRun`.

    A damaged run is listed as ``unreadable`` with its problem. Folders that ``deepbloom eval`` wrote are skipped.

    Parameters
    ----------
    folder : Path
    fields : mapping of str to Field, optional
        What to read from metrics.json into `CompleteRun.values`, by key.

    Raises
    ------
    RunError
        The folder does not exist or holds no run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"There is no folder {folder}. Give the folder that holds run directories: runs=FOLDER.")
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if not set(RUN_FILES).isdisjoint(files):
            found.append(_read_or_list(Path(place), folder, fields))
    runs = sorted((run for run in found if run is not None), key=lambda run: run.name)
    if not runs:
        raise RunError(
            f"{folder} holds no run: no folder in it has a {run_dir.METRICS} or {run_dir.CONFIG} of deepbloom train. "
            "Give the folder that holds run directories: runs=FOLDER."
        )
    return runs


def read_run(path: Path, name: str = "", fields: Mapping[str, Field] | None = None) -> CompleteRun:
    """Read one complete run.

    Parameters
    ----------
    path : Path
        The run directory.
    name : str
        The folder's name if empty.
    fields : mapping of str to Field, optional
        As in `find_runs`.

    Raises
    ------
    RunError
        A file is missing, damaged or contradicts another; the message names the file and the field.
    """
    content = Fields(path / run_dir.METRICS)
    metrics = _read_metrics(content)
    history_path = path / run_dir.HISTORY
    return CompleteRun(
        path=path,
        name=name or path.name,
        state="complete",
        problem="",
        metrics=metrics,
        values={
            key: content.take(field.path, field.kind, *(() if field.required else (None,)))
            for key, field in (fields or {}).items()
        },
        history=_read_history(history_path) if history_path.exists() else [],
        predictions=_read_predictions(path / run_dir.PREDICTIONS, metrics),
    )


def _read_or_list(path: Path, folder: Path, fields: Mapping[str, Field] | None) -> Run | None:
    name = path.relative_to(folder).as_posix()
    state = run_dir.read_state(path)
    if state == "failed":
        return Run(path, name, state, run_dir.failure_reason(path))
    if state != "complete":
        return Run(path, name, "partial", "")
    try:
        return None if is_evaluation(path) else read_run(path, name, fields)
    except RunError as error:
        return Run(path, name, "unreadable", str(error))


def is_evaluation(path: Path) -> bool:
    """Return whether ``deepbloom eval`` wrote the folder."""
    alone = not any((path / name).exists() for name in RUN_FILES if name != run_dir.METRICS)
    return alone and "seed" not in load_json(path / run_dir.METRICS)


def _read_metrics(fields: Fields) -> Metrics:
    return Metrics(
        model=fields.take("model", kinds.TEXT),
        dataset=fields.take("dataset", kinds.TEXT),
        data_split_kind=fields.take("data_split_kind", kinds.TEXT),
        seed=fields.take("seed", kinds.COUNT),
        folds=fields.take("folds", kinds.COUNT, 0),
        fold=fields.take("fold", kinds.COUNT, 0),
        class_names=tuple(fields.take("classes", kinds.NAMES)),
        top1_accuracy=fields.take("test.top1_accuracy", kinds.FRACTION),
        count=fields.take("test.count", kinds.POSITIVE),
        dataset_fingerprint=fields.take("dataset_fingerprint", kinds.TEXT),
        split_fingerprint=fields.take("split_fingerprint", kinds.TEXT),
        device_name=fields.take("device_name", kinds.TEXT),
        precision=fields.take("precision", kinds.TEXT),
        num_threads=fields.take("num_threads", kinds.COUNT),
        versions={str(key): str(value) for key, value in fields.take("versions", kinds.MAPPING).items()},
        git_commit=fields.take("git_commit", kinds.TEXT, None),
        identity={str(key): str(value) for key, value in fields.take("identity", kinds.MAPPING).items()},
        audit=read_audit(fields) if fields.get("audit") is not None else None,
    )


def _read_history(path: Path) -> History:
    table = read_columns(path, HISTORY_COLUMNS)
    columns = [to_numbers(path, name, texts, np.float64).tolist() for name, texts in table.items()]
    return [dict(zip(HISTORY_COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]


def _read_predictions(path: Path, metrics: Metrics) -> Predictions:
    table = read_columns(path, ("image_id", "target", "prediction", "confidence"))
    targets = to_numbers(path, "target", table["target"], np.int64)
    predicted = to_numbers(path, "prediction", table["prediction"], np.int64)
    confidences = to_numbers(path, "confidence", table["confidence"], np.float64)
    for column, values in (("target", targets), ("prediction", predicted)):
        if values.min() < 0 or values.max() >= len(metrics.class_names):
            raise RunError(f"{path}: column {column!r} holds a class that {run_dir.METRICS} does not list.")
    if not ((confidences >= 0) & (confidences <= 1)).all():
        raise RunError(f"{path}: column 'confidence' must hold numbers in [0, 1].")
    image_ids, order = _sort(table["image_id"])
    if len(set(image_ids)) < len(image_ids):
        raise RunError(f"{path}: column 'image_id' names an image twice.")
    accuracy = (targets == predicted).mean()
    if len(targets) != metrics.count or abs(accuracy - metrics.top1_accuracy) > 0.5 / len(targets):
        raise RunError(
            f"{path} gives {accuracy:.4f} on {len(targets)} images, but {run_dir.METRICS} says "
            f"{metrics.top1_accuracy:.4f} on {metrics.count}: one of them was changed."
        )
    return Predictions(image_ids, targets[order], predicted[order], confidences[order])


@lru_cache(maxsize=32)
def _sort(names: tuple[str, ...]) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """Return the names sorted, and their places; runs of one split share the result."""
    order = sorted(range(len(names)), key=names.__getitem__)
    return tuple(names[i] for i in order), np.array(order, dtype=np.intp)
