"""Run directories as typed values. Reads their small files, never weights or images."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from deepbloom.errors import RunError
from deepbloom.runs import folder as run_dir
from deepbloom.runs.parsing import Fields, load_json, load_yaml, read_columns, to_numbers

RUN_FILES = (run_dir.CONFIG, run_dir.METRICS, run_dir.HISTORY, run_dir.LAST, run_dir.FAILED)
HISTORY_COLUMNS = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
NO_SETTING = run_dir.NOT_IDENTITY | {"seed", "data.root", "data.allow_missing", "data.split.fold"}
"""Settings that tell runs of one model apart no more than seed and fold do; fingerprints say which data were used."""


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
class Audit:
    """The ``audit`` block of metrics.json.

    Attributes
    ----------
    frozen : int
        Weights and buffers that had to stay.
    changed : tuple of str
        Those that did not.
    declared, in_optimizer : int
        Numbers that may train, and that the optimizer held.
    stray : tuple of str
        Parameters that the optimizer held and should not, or the reverse.
    in_two_parts, near_test, near_val : int
        Images in two parts; test and validation images with a near-duplicate where they must not have one.
    examples : tuple of pairs of str
        Such images.
    accuracy_without, count_without : float or None, int
        Test accuracy without the test images that have a near-duplicate, and how many are left.
    times_tested : int
    reads : tuple of int
        How often the least and the most read test image was read; empty where the run does not say.
    read_early : bool
        Whether a test image was read before the test.
    """

    frozen: int
    changed: tuple[str, ...]
    declared: int
    in_optimizer: int
    stray: tuple[str, ...]
    in_two_parts: int
    near_test: int
    near_val: int
    examples: tuple[tuple[str, str], ...]
    accuracy_without: float | None
    count_without: int
    times_tested: int
    reads: tuple[int, ...]
    read_early: bool

    @property
    def freeze_holds(self) -> bool:
        return not self.changed and not self.stray and self.declared == self.in_optimizer

    @property
    def split_holds(self) -> bool:
        return self.in_two_parts == 0

    @property
    def test_holds(self) -> bool:
        return not self.read_early and self.reads == (1, 1)


@dataclass(frozen=True)
class Metrics:
    """What metrics.json says. Accuracies are fractions in [0, 1]; None is unknown."""

    model: str
    training_type: str
    remarks: str
    dataset: str
    data_split_kind: str
    weights: str
    seed: int
    epochs: int
    best_epoch: int
    device: str
    device_name: str
    precision: str
    num_threads: int
    class_names: tuple[str, ...]
    top1_accuracy: float
    top5_accuracy: float
    macro_f1: float
    loss: float
    count: int
    val_accuracy: float
    params_total: int
    params_trainable: int
    macs: int | None
    train_seconds: float
    images_per_second: float | None
    peak_memory_bytes: int | None
    dataset_fingerprint: str
    split_fingerprint: str
    folds: int
    fold: int
    latency_ms: float | None
    size_bytes: int | None
    audit: Audit | None
    versions: tuple[tuple[str, str], ...]
    git_commit: str | None
    code_version: str | None


@dataclass(frozen=True, eq=False)
class Predictions:
    """What predictions.csv says, sorted by image.

    Attributes
    ----------
    image_ids : tuple of str, length N
        All different.
    targets, answers : ndarray of int64, shape (N,)
        True and predicted class.
    confidences : ndarray of float64 in [0, 1], shape (N,)
    """

    image_ids: tuple[str, ...]
    targets: np.ndarray
    answers: np.ndarray
    confidences: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Whether each image was classified correctly: bool, shape (N,)."""
        return self.targets == self.answers


@dataclass(frozen=True, eq=False)
class CompleteRun(Run):
    """A run whose files are all there, can be read and agree with each other.

    Attributes
    ----------
    metrics : Metrics
    settings : dict of str to str
        Settings of config.yaml by override key, such as ``optimizer.lr``, but for `NO_SETTING`.
    history : list of rows of history.csv, `HISTORY_COLUMNS` as floats; empty where the file is missing
    predictions : Predictions
    """

    metrics: Metrics
    settings: Mapping[str, str]
    history: list[dict[str, float]]
    predictions: Predictions

    @property
    def traits(self) -> dict[str, str]:
        """The settings, and the version of the code that trained: runs that are equal in them are one model."""
        return {**self.settings, "code_version": self.metrics.code_version or "unknown"}


def find_runs(folder: Path) -> list[Run]:
    """Return every run in a folder, at any depth, sorted by name; those that can be used are `CompleteRun`.

    A damaged run is listed as ``unreadable`` with its problem and stops nothing. What ``deepbloom eval`` wrote is no
    run.

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
            found.append(_read_or_list(Path(place), folder))
    runs = sorted((run for run in found if run is not None), key=lambda run: run.name)
    if not runs:
        raise RunError(
            f"{folder} holds no run: no folder in it has a {run_dir.METRICS} or {run_dir.CONFIG} of deepbloom train. "
            "Give the folder that holds run directories: runs=FOLDER."
        )
    return runs


def read_run(path: Path, name: str = "") -> CompleteRun:
    """Read one complete run.

    Parameters
    ----------
    path : Path
        The run directory.
    name : str
        What to call it; the folder's name where empty.

    Raises
    ------
    RunError
        A file is missing, damaged or contradicts another; the message names the file and the field.
    """
    metrics = _read_metrics(path / run_dir.METRICS)
    history_path = path / run_dir.HISTORY
    return CompleteRun(
        path=path,
        name=name or path.name,
        state="complete",
        problem="",
        metrics=metrics,
        settings=_read_settings(path / run_dir.CONFIG, metrics),
        history=_read_history(history_path) if history_path.exists() else [],
        predictions=_read_predictions(path / run_dir.PREDICTIONS, metrics),
    )


def _read_or_list(path: Path, folder: Path) -> Run | None:
    name = path.relative_to(folder).as_posix()
    state = run_dir.read_state(path)
    if state == "failed":
        return Run(path, name, state, run_dir.failure_reason(path))
    if state != "complete":
        return Run(path, name, "partial", "")
    try:
        return None if is_evaluation(path) else read_run(path, name)
    except RunError as error:
        return Run(path, name, "unreadable", str(error))


def is_evaluation(path: Path) -> bool:
    alone = not any((path / name).exists() for name in RUN_FILES if name != run_dir.METRICS)
    return alone and "seed" not in load_json(path / run_dir.METRICS)


def _read_metrics(path: Path) -> Metrics:
    fields = Fields(path)
    versions = fields.get("versions")
    device = fields.text("device")
    return Metrics(
        model=fields.text("model"),
        training_type=fields.text("training_type", "–"),
        remarks=fields.text("remarks", ""),
        dataset=fields.text("dataset"),
        data_split_kind=fields.text("data_split_kind", "unknown"),
        weights=fields.text("weights", "unknown"),
        seed=fields.integer("seed"),
        epochs=fields.integer("epochs", 1),
        best_epoch=fields.integer("best_epoch", 1),
        device=device,
        device_name=fields.text("device_name", device),
        precision=fields.text("precision"),
        num_threads=fields.integer("num_threads"),
        class_names=fields.texts("classes") if fields.has("classes") else (),
        top1_accuracy=fields.number("test.top1_accuracy", 1),
        top5_accuracy=fields.number("test.top5_accuracy", 1),
        macro_f1=fields.number("test.macro_f1", 1),
        loss=fields.number("test.loss"),
        count=fields.integer("test.count", 1),
        val_accuracy=fields.number("val.top1_accuracy", 1),
        params_total=fields.integer("params.total"),
        params_trainable=fields.integer("params.trainable"),
        macs=fields.integer("macs") if fields.has("macs") else None,
        train_seconds=fields.number("train_seconds"),
        images_per_second=fields.number("images_per_second") if fields.has("images_per_second") else None,
        peak_memory_bytes=fields.integer("peak_memory_bytes") if fields.has("peak_memory_bytes") else None,
        dataset_fingerprint=fields.text("dataset_fingerprint"),
        split_fingerprint=fields.text("split_fingerprint"),
        folds=fields.integer("folds") if fields.has("folds") else 0,
        fold=fields.integer("fold") if fields.has("fold") else 0,
        latency_ms=fields.number("latency_ms") if fields.has("latency_ms") else None,
        size_bytes=fields.integer("size_bytes") if fields.has("size_bytes") else None,
        audit=_read_audit(fields),
        versions=tuple((str(k), str(v)) for k, v in versions.items()) if isinstance(versions, dict) else (),
        git_commit=fields.text("git_commit", "") or None,
        code_version=_read_code_version(fields, path.parent),
    )


def _read_audit(fields: Fields) -> Audit | None:
    """Return the ``audit`` block, or None where a run has none. Raises `RunError` where it is damaged."""
    if not fields.has("audit"):
        return None
    without, reads = "audit.split.test_without", "audit.test.reads_per_image"
    return Audit(
        frozen=fields.integer("audit.freeze.frozen"),
        changed=fields.names("audit.freeze.changed"),
        declared=fields.integer("audit.freeze.declared"),
        in_optimizer=fields.integer("audit.freeze.in_optimizer"),
        stray=fields.names("audit.freeze.undeclared") + fields.names("audit.freeze.missing"),
        in_two_parts=fields.integer("audit.split.in_two_parts"),
        near_test=fields.integer("audit.split.near_duplicates.test"),
        near_val=fields.integer("audit.split.near_duplicates.val"),
        examples=fields.pairs("audit.split.examples"),
        accuracy_without=fields.number(f"{without}.top1_accuracy", 1)
        if fields.has(f"{without}.top1_accuracy")
        else None,
        count_without=fields.integer(f"{without}.count"),
        times_tested=fields.integer("audit.test.times_tested", 1),
        reads=fields.integers(reads) if fields.has(reads) else (),
        read_early=fields.get("audit.test.read_before_testing") is not False,
    )


def _read_code_version(fields: Fields, folder: Path) -> str | None:
    """Return the version of the code; where metrics.json has none, that of the run's beginning."""
    begun = folder / run_dir.PROVENANCE
    if not fields.has("code_version") and begun.exists():
        fields = Fields(begun)
    return fields.text("code_version", "") or None


def _read_settings(path: Path, metrics: Metrics) -> dict[str, str]:
    """Return the settings by override key; without config.yaml, the few that metrics.json repeats."""
    repeated = {"model.name": metrics.model, "model.weights": metrics.weights, "train.epochs": str(metrics.epochs)}
    if not path.exists():
        return repeated
    flat = load_yaml(path)
    for name, value in (
        ("model.name", metrics.model),
        ("seed", str(metrics.seed)),
        ("train.epochs", str(metrics.epochs)),
    ):
        if flat.get(name, value) != value:
            raise RunError(f"{path}: {name} is {flat[name]!r}, but {run_dir.METRICS} says {value!r}.")
    return repeated | {name: value for name, value in flat.items() if name not in NO_SETTING}


def _read_history(path: Path) -> list[dict[str, float]]:
    table = read_columns(path, HISTORY_COLUMNS)
    columns = [to_numbers(path, name, texts, np.float64).tolist() for name, texts in table.items()]
    return [dict(zip(HISTORY_COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]


def _read_predictions(path: Path, metrics: Metrics) -> Predictions:
    table = read_columns(path, ("image_id", "target", "prediction", "confidence"))
    targets = to_numbers(path, "target", table["target"], np.int64)
    answers = to_numbers(path, "prediction", table["prediction"], np.int64)
    confidences = to_numbers(path, "confidence", table["confidence"], np.float64)
    classes = len(metrics.class_names) or np.inf
    for column, values in (("target", targets), ("prediction", answers)):
        if values.min() < 0 or values.max() >= classes:
            raise RunError(f"{path}: column {column!r} holds a class that {run_dir.METRICS} does not list.")
    if not ((confidences >= 0) & (confidences <= 1)).all():
        raise RunError(f"{path}: column 'confidence' must hold numbers in [0, 1].")
    image_ids, order = _sort(table["image_id"])
    if len(set(image_ids)) < len(image_ids):
        raise RunError(f"{path}: column 'image_id' names an image twice.")
    accuracy = (targets == answers).mean()
    if len(targets) != metrics.count or abs(accuracy - metrics.top1_accuracy) > 0.5 / len(targets):
        raise RunError(
            f"{path} gives {accuracy:.4f} on {len(targets)} images, but {run_dir.METRICS} says "
            f"{metrics.top1_accuracy:.4f} on {metrics.count}: one of them was changed."
        )
    return Predictions(image_ids, targets[order], answers[order], confidences[order])


@lru_cache(maxsize=32)
def _sort(names: tuple[str, ...]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names sorted, and their places; runs of one split share the result."""
    order = sorted(range(len(names)), key=names.__getitem__)
    return tuple(names[i] for i in order), np.array(order)
