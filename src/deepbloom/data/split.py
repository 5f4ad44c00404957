"""Split images into train, validation and test."""

import hashlib
import json
import math
import warnings
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from deepbloom.config.data_settings import SplitConfig
from deepbloom.data.sources import ImageSource
from deepbloom.errors import ConfigError, DataError, name_some

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Disjoint train, validation and test images: ascending int64 indices into a source."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    notes: tuple[str, ...] = ()
    """Sentences for the log: which classes are absent from a split, and why."""

    def fingerprint(self, source: ImageSource) -> str:
        """Return SHA-256 (hex) over each image's split, name and class, independent of the order of images."""
        rows = sorted(
            (part, source.image_ids[i], source.class_names[source.targets[i]])
            for part in PARTS
            for i in getattr(self, part)
        )
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def make_split(source: ImageSource, config: SplitConfig) -> Split:
    """Split the images: ``stratified`` by class, with any predefined split merged, or ``official``, as predefined.

    With ``folds``, a stratified split tests one of that many equal shares of each class, and every image is in exactly
    one. Where an image goes depends on the names and classes of the images and on ``config``, not on the order of
    files.

    Raises
    ------
    DataError
        There are fewer than two classes, a split would be empty, or the data have no predefined split.
    """
    if len(source.class_names) < 2:
        raise DataError(
            f"data={source.name} has {len(source.class_names)} class ({', '.join(source.class_names)}); "
            "telling classes apart needs at least two."
        )
    kind = split_kind(source, config)
    if kind == "official" and config.folds:
        raise DataError(
            f"data.split.folds={config.folds} splits the images anew, but data={source.name} has a predefined split. "
            "Add data.split.kind=stratified to merge it."
        )
    if kind == "official":
        _refuse_unread(source, config)
    elif source.name == "imagefolder" and source.predefined and config.kind == "auto":
        _refuse_without_train(source)
    make = _official if kind == "official" else _fold if config.folds else _stratified
    split = make(source, config)
    if kind == "stratified" and source.predefined:
        merged = ", ".join(part for part in PARTS if part in source.predefined)
        why = "" if "test" in source.predefined else " has no test images: it"
        split = replace(split, notes=(f"The predefined split ({merged}){why} is merged and split anew.", *split.notes))
    for part in PARTS:
        if len(getattr(split, part)) == 0:
            raise DataError(
                f"The {part} split of data={source.name} is empty (data.split.kind={kind}). "
                "Give at least three images of a class, or choose another data.split.kind: stratified or official."
            )
    return split


def split_kind(source: ImageSource, config: SplitConfig) -> str:
    """Return ``stratified`` or ``official``, with ``auto`` resolved for these images."""
    if config.kind != "auto":
        return config.kind
    predefined = source.name == "imagefolder" and {"train", "test"} <= (source.predefined or {}).keys()
    return "official" if predefined else "stratified"


def _refuse_without_train(source: ImageSource) -> None:
    parts = [part for part in PARTS if part in (source.predefined or {})]
    if "train" not in parts:
        raise DataError(
            f"The predefined split has no images to train on, only {' and '.join(parts)}. Add a train folder, or merge "
            "and split anew: data.split.kind=stratified."
        )


def _refuse_unread(source: ImageSource, config: SplitConfig) -> None:
    """Raise `ConfigError` for settings that a predefined split does not read."""
    unread = ["test_fraction"] + ["val_fraction", "seed"] * ("val" in (source.predefined or {}))
    for name in unread:
        if getattr(config, name) != getattr(SplitConfig(), name):
            raise ConfigError(
                f"Nothing reads data.split.{name}={getattr(config, name)}: data={source.name} has a predefined split. "
                "Add data.split.kind=stratified to merge it."
            )


def _round_half_up(count: int, fraction: float) -> int:
    return math.floor(count * Fraction(str(fraction)) + Fraction(1, 2))  # exact: 50 * 0.29 is 14.5, not 14.4999...


def _shuffled(source: ImageSource, indices: np.ndarray, seed: int) -> list[int]:
    def key(index: int) -> str:
        return hashlib.sha256(f"{seed}:{source.image_ids[index]}".encode("utf-8", "surrogateescape")).hexdigest()

    return sorted(indices.tolist(), key=key)


def _classes(source: ImageSource, indices: np.ndarray, seed: int) -> list[list[int]]:
    """Return the images of each class among ``indices``, shuffled."""
    members = (indices[source.targets[indices] == number] for number in range(len(source.class_names)))
    return [_shuffled(source, of_class, seed) for of_class in members]


def _as_indices(indices: list[int]) -> np.ndarray:
    return np.array(sorted(indices), dtype=np.int64)


def _stratified(source: ImageSource, config: SplitConfig) -> Split:
    """Split each class by itself.

    scikit-learn's ``StratifiedShuffleSplit`` rounds over all classes together: a class of three images may be absent
    from a split, and it refuses classes with one image.
    """
    test: list[int] = []
    val: list[int] = []
    for order in _classes(source, np.arange(len(source)), config.seed):
        count = len(order)
        num_test = min(max(1, _round_half_up(count, config.test_fraction)), count - 2) if count >= 3 else count // 2
        test += order[:num_test]
        val += order[num_test:][: _val_count(count - num_test, config)]
    counts = np.bincount(source.targets, minlength=len(source.class_names))
    singles, pairs = ([source.class_names[number] for number in np.flatnonzero(counts == count)] for count in (1, 2))
    notes = []
    if pairs:
        notes.append(f"{_name(pairs)} 2 images each: one to train, one to test, none for validation.")
    if singles:
        notes.append(f"{_name(singles)} 1 image each: it is in the train split, and the class is never tested.")
    train = np.setdiff1d(np.arange(len(source)), [*test, *val])
    return Split(train, _as_indices(val), _as_indices(test), tuple(notes))


def _fold(source: ImageSource, config: SplitConfig) -> Split:
    """Test one fold. Validation images come from the next fold first, so that no image always validates."""
    from sklearn.model_selection import StratifiedKFold

    largest = int(np.bincount(source.targets).max())
    if config.folds > largest:
        raise DataError(
            f"data.split.folds={config.folds} is more than the {largest} images of the largest class of "
            f"data={source.name}. Choose fewer folds."
        )
    order = np.array(_shuffled(source, np.arange(len(source)), config.seed))
    turn_of = np.empty(len(source), dtype=np.int64)  # 0 in the fold that is tested, 1 in the next one
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of small classes; the notes name them
        for fold, (_, members) in enumerate(StratifiedKFold(config.folds).split(order, source.targets[order])):
            turn_of[order[members]] = (fold - config.fold) % config.folds
    val: list[int] = []
    for members in _classes(source, np.flatnonzero(turn_of > 0), config.seed):
        val += sorted(members, key=lambda index: turn_of[index])[: _val_count(len(members), config)]
    test = np.flatnonzero(turn_of == 0)
    train = np.setdiff1d(np.arange(len(source)), [*test, *val])
    tested = set(source.targets[test].tolist())
    untested = [name for number, name in enumerate(source.class_names) if number not in tested]
    notes = (f"{_name(untested)} no image in fold {config.fold}: too few images for {config.folds} folds.",)
    return Split(train, _as_indices(val), test, notes if untested else ())


def _val_count(count: int, config: SplitConfig) -> int:
    """Return how many of ``count`` images of a class validate: at least one, if one is left to train."""
    return min(max(1, _round_half_up(count, config.val_fraction)), count - 1) if count >= 2 else 0


def _name(classes: list[str]) -> str:
    return f"{len(classes)} class{'es' * (len(classes) > 1)} ({name_some(classes)}) with"


def _official(source: ImageSource, config: SplitConfig) -> Split:
    absent = [part for part in ("train", "test") if part not in (source.predefined or {})]
    if source.predefined is None or absent:
        what = "no predefined split" if source.predefined is None else f"no predefined {' and '.join(absent)} split"
        raise DataError(f"data.split.kind=official, but data={source.name} has {what}. Use data.split.kind=stratified.")
    parts = {part: source.predefined[part].tolist() for part in PARTS if part in source.predefined}
    notes: list[str] = []
    if "val" not in parts:
        classes = _classes(source, np.asarray(parts["train"]), config.seed)
        parts["val"] = [index for order in classes for index in order[: _val_count(len(order), config)]]
        parts["train"] = sorted(set(parts["train"]) - set(parts["val"]))
        notes.append(
            f"The data have no validation split: {len(parts['val']):,} images were taken from the train split."
        )
    for part in PARTS:
        present = set(source.targets[_as_indices(parts[part])].tolist())
        absent_names = [name for number, name in enumerate(source.class_names) if number not in present]
        if absent_names:
            notes.append(f"{_name(absent_names)} no image in the {part} split.")
    train, val, test = (_as_indices(parts[part]) for part in PARTS)
    return Split(train, val, test, tuple(notes))
