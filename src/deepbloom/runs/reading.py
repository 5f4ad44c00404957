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
from deepbloom.runs import files
from deepbloom.runs import folder as run_dir
from deepbloom.runs import parsing as kinds
from deepbloom.runs.audit import Audit
from deepbloom.runs.parsing import Fields, Kind, at, load_json, read_columns, to_numbers

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

    ``name`` is the path below the folder that was searched, ``state`` one of ``complete``, ``partial``, ``failed`` and
    ``unreadable``, ``problem`` why it failed or cannot be read (empty otherwise).
    """

    path: Path
    name: str
    state: str
    problem: str


@dataclass(frozen=True)
class Metrics:
    """What tells with which runs a run can be compared and where it was made, from metrics.json."""

    audit: Audit | None
    """None if the run has no audit."""
    model: str = at("model", kinds.TEXT)
    name: str = at("name", kinds.TEXT, "")
    """What the user calls the run; often empty."""
    dataset: str = at("dataset", kinds.TEXT)
    data_name: str = at("data_name", kinds.TEXT, "")
    """What people call the images; empty in runs of earlier versions."""
    data_split_kind: str = at("data_split_kind", kinds.TEXT)
    seed: int = at("seed", kinds.COUNT)
    folds: int = at("folds", kinds.COUNT, 0)
    fold: int = at("fold", kinds.COUNT, 0)
    class_names: tuple[str, ...] = at("classes", kinds.NAMES)
    top1_accuracy: float = at("test.top1_accuracy", kinds.FRACTION)
    count: int = at("test.count", kinds.POSITIVE)
    dataset_fingerprint: str = at("dataset_fingerprint", kinds.TEXT)
    split_fingerprint: str = at("split_fingerprint", kinds.TEXT)
    device_name: str = at("device_name", kinds.TEXT)
    precision: str = at("precision", kinds.TEXT)
    num_threads: int = at("num_threads", kinds.COUNT)
    versions: Mapping[str, str] = at("versions", kinds.MAPPING)
    git_commit: str | None = at("git_commit", kinds.TEXT, None)
    identity: Mapping[str, str] = at("identity", kinds.MAPPING)
    """The resolved settings that decide the result, by dotted name."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What predictions.csv says, sorted by image.

    ``targets`` and ``predicted`` are classes, ``confidences`` are in [0, 1]; each has shape (N,).
    """

    image_ids: tuple[str, ...]
    """All different: length N."""
    targets: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidences: NDArray[np.float64]
    rows: NDArray[np.intp]
    """The row of each image in predictions.csv and probabilities.npz."""

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each image is classified correctly: shape (N,)."""
        correct: NDArray[np.bool_] = self.targets == self.predicted
        return correct


@dataclass(frozen=True, eq=False)
class CompleteRun(Run):
    """A run whose files are all there, can be read and agree with each other.

    ``values`` are the fields that the caller asked for (None if the run lacks one), ``history`` the rows of
    history.csv.
    """

    metrics: Metrics
    values: Mapping[str, Any]
    history: History
    predictions: Predictions

    @property
    def model_identity(self) -> dict[str, str]:
        """The identity without what seeds and folds differ in: equal exactly for runs of one model."""
        return {key: value for key, value in self.metrics.identity.items() if key not in VARYING}


def read_probabilities(run: CompleteRun) -> NDArray[np.float64] | None:
    """Return the probabilities of a run's predictions, shape (N, C); None if their file is missing or damaged."""
    predictions = run.predictions
    found = (files.read_arrays(run.path / run_dir.PROBABILITIES) or {}).get("probabilities")
    if found is None or found.shape != (len(predictions.rows), len(run.metrics.class_names)) or found.dtype.kind != "f":
        return None
    probabilities = found[predictions.rows].astype(np.float64)
    return probabilities if (probabilities >= 0).all() and (probabilities.sum(axis=1) > 0).all() else None


def walk_runs(folder: Path) -> list[tuple[Path, str]]:
    """Return the path of every run in a folder, at any depth, and its name: the path below the folder. Sorted by name.

    Hidden folders and those that ``deepbloom eval`` wrote are skipped. A link to a folder elsewhere is followed.

    Raises
    ------
    RunError
        The folder does not exist or holds no run.
    """
    if not folder.is_dir():
        raise RunError(f"There is no folder {folder}. Give the folder that holds run directories: runs=FOLDER.")
    root, followed = folder.resolve(), set[Path]()
    found: dict[Path, tuple[Path, str]] = {}

    def is_entered(path: Path) -> bool:
        if path.name.startswith("."):
            return False
        if not path.is_symlink():
            return True
        target = path.resolve()
        if target in followed or target.is_relative_to(root) or root.is_relative_to(target):
            return False
        followed.add(target)
        return True

    for name, folders, names in os.walk(folder, followlinks=True):
        place = Path(name)
        folders[:] = [entry for entry in sorted(folders) if is_entered(place / entry)]
        if not set(RUN_FILES).isdisjoint(names) and not _is_evaluation(place):
            found.setdefault(place.resolve(), (place, place.relative_to(folder).as_posix()))
    if not found:
        raise RunError(
            f"{folder} holds no run: no folder in it has a {run_dir.METRICS} or {run_dir.CONFIG} of deepbloom train. "
            "Give the folder that holds run directories: runs=FOLDER."
        )
    return sorted(found.values(), key=lambda run: run[1])


def find_runs(folder: Path, fields: Mapping[str, Field] | None = None) -> list[Run]:
    """Return every run that `walk_runs` finds; those that can be used are `CompleteRun`.

    A damaged run is listed as ``unreadable`` with its problem.

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
    return [_read_or_list(path, name, fields) for path, name in walk_runs(Path(folder))]


def read_run(path: Path, name: str = "", fields: Mapping[str, Field] | None = None) -> CompleteRun:
    """Read one complete run, named like its folder if ``name`` is empty; ``fields`` as in `find_runs`.

    Raises
    ------
    RunError
        A file is missing, damaged or contradicts another; the message names the file and the field.
    """
    content = Fields(path / run_dir.METRICS)
    metrics = content.fill(Metrics, audit=None if content.get("audit") is None else content.fill(Audit))
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
        history=read_history(path),
        predictions=_read_predictions(path / run_dir.PREDICTIONS, metrics),
    )


def read_history(folder: Path) -> History:
    """Return the rows of a run's history.csv, one per finished epoch; none if the file is missing.

    Raises
    ------
    RunError
        The file lacks one of `HISTORY_COLUMNS` or holds something else than numbers.
    """
    path = folder / run_dir.HISTORY
    if not path.exists():
        return []
    table = read_columns(path, HISTORY_COLUMNS)
    columns = [to_numbers(path, name, texts, np.float64).tolist() for name, texts in table.items()]
    return [dict(zip(table, row, strict=True)) for row in zip(*columns, strict=True)]


def _read_or_list(path: Path, name: str, fields: Mapping[str, Field] | None) -> Run:
    state = run_dir.read_state(path)
    if state == "failed":
        return Run(path, name, state, run_dir.failure_reason(path))
    if state != "complete":
        return Run(path, name, "partial", "")
    try:
        return read_run(path, name, fields)
    except RunError as error:
        return Run(path, name, "unreadable", str(error))


def _is_evaluation(path: Path) -> bool:
    """Return whether ``deepbloom eval`` wrote the folder; a damaged metrics.json is taken for that of a run."""
    if any((path / name).exists() for name in RUN_FILES if name != run_dir.METRICS):
        return False
    try:
        return "seed" not in load_json(path / run_dir.METRICS)
    except RunError:
        return False


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
    return Predictions(image_ids, targets[order], predicted[order], confidences[order], order)


def newest_runs(folder: Path) -> list[Path]:
    """Return the complete runs in a folder, at any depth, the newest first; none where the folder holds none."""
    try:
        found = [path for path, _ in walk_runs(folder) if (path / run_dir.METRICS).is_file()]
    except RunError:
        return []
    return sorted(found, key=lambda path: (path / run_dir.METRICS).stat().st_mtime_ns, reverse=True)


@lru_cache(maxsize=32)
def _sort(names: tuple[str, ...]) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """Return the names sorted, and their places; runs of one split share the result."""
    order = sorted(range(len(names)), key=names.__getitem__)
    return tuple(names[i] for i in order), np.array(order, dtype=np.intp)
