"""A folder of images with one folder per class, or a predefined split with one folder per class in each part."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepbloom.config.settings import DataConfig
from deepbloom.data.images import SUFFIXES, digest_files
from deepbloom.data.sources.files import FileSource, fingerprint_files, leave_out_unreadable
from deepbloom.errors import ConfigError, DataError, name_some

PART_OF_FOLDER = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class ImageFolder(FileSource):
    """Images whose class is the name of the folder they lie in. ``image_ids`` are paths relative to the root."""

    @classmethod
    def create(cls, root: str | Path) -> "ImageFolder":
        """Find ``root/CLASS/**/*.{jpg,jpeg,png,webp}`` or ``root/{train,val,test}/CLASS/**``; classes sorted by name.

        Raises
        ------
        DataError
            The folder is absent, has fewer than two classes or a class without images, or its splits differ in classes.
        """
        root = Path(os.path.expanduser(root))
        if not root.is_dir():
            raise DataError(
                f"data.root={str(root)!r} is not a folder. Give a folder with one folder of images per class."
            )
        ignored: Counter[str] = Counter()
        parts = _find_parts(root)
        found = {part: _find_classes(folder, ignored) for part, folder in parts.items()}
        class_names = _agree_on_classes(root, found)
        rows = sorted(
            (path.relative_to(root).as_posix(), part, class_names.index(name), path)
            for part, classes in found.items()
            for name, paths in classes.items()
            for path in paths
        )
        image_ids, part_of_each, targets, paths = zip(*rows, strict=True)
        digests = digest_files(paths)
        return cls(
            name="imagefolder",
            image_ids=image_ids,
            targets=np.array(targets, dtype=np.int64),
            class_names=class_names,
            fingerprint=fingerprint_files(image_ids, (class_names[target] for target in targets), digests),
            predefined={part: np.flatnonzero(np.array(part_of_each) == part) for part in parts}
            if "" not in parts
            else None,
            notes=_notes(ignored),
            paths=paths,
            digests=digests,
        )


def load(config: DataConfig) -> ImageFolder:
    """Return the images in ``data.root``."""
    if not config.root:
        raise ConfigError("data=imagefolder needs data.root=FOLDER, with one folder of images per class in it.")
    found = ImageFolder.create(config.root)
    return leave_out_unreadable(found) if config.allow_missing else found


def _entries(folder: Path, ignored: Counter[str] | None = None) -> tuple[list[Path], list[Path]]:
    """Return (folders, images) of a folder, sorted by name; files of other kinds are counted in ``ignored``."""
    folders, images = [], []
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"Cannot list {folder}: {error.strerror}.") from error
    for path in entries:
        hidden = path.name.startswith(".")
        if path.is_dir():
            folders += [path] * (not hidden)
        elif not hidden and path.suffix.lower() in SUFFIXES:
            images.append(path)
        elif ignored is not None:
            ignored["hidden" if hidden else path.suffix.lower() or "no suffix"] += 1
    return folders, images


def _find_parts(root: Path) -> dict[str, Path]:
    """Return the folder of each part of a predefined split, or {"": root} if the root's folders are the classes."""
    folders, _ = _entries(root)
    named = [folder for folder in folders if folder.name.lower() in PART_OF_FOLDER]
    others = [folder.name for folder in folders if folder not in named]
    if not any(folder.name.lower() == "train" for folder in named) or (len(named) == 1 and others):
        return {"": root}
    parts = {PART_OF_FOLDER[folder.name.lower()]: folder for folder in named}
    if others or len(parts) < len(named):
        raise DataError(
            f"{root} holds a predefined split ({', '.join(folder.name for folder in named)})"
            + (f" next to other folders ({name_some(others)})" if others else "")
            + ". Give a folder that holds either classes, or train, val and test with the classes in each."
        )
    return parts


def _find_classes(folder: Path, ignored: Counter[str]) -> dict[str, list[Path]]:
    classes, loose = _entries(folder, ignored)
    if loose:
        ignored["beside the class folders"] += len(loose)
    found = {path.name: _find_images(path, ignored, ()) for path in classes}
    empty = [name for name, images in found.items() if not images]
    if empty:
        raise DataError(
            f"{len(empty)} of {len(found)} class folders in {folder} hold no image ({name_some(empty)}). "
            f"Put {', '.join(SUFFIXES)} files there or remove the folder."
        )
    return found


def _find_images(folder: Path, ignored: Counter[str], above: tuple[Path, ...]) -> list[Path]:
    here = folder.resolve()
    if here in above:  # a link to a folder that holds it
        return []
    folders, images = _entries(folder, ignored)
    for deeper in folders:
        images += _find_images(deeper, ignored, (*above, here))
    return images


def _agree_on_classes(root: Path, found: dict[str, dict[str, list[Path]]]) -> tuple[str, ...]:
    every = sorted({name for classes in found.values() for name in classes})
    for part, classes in found.items():
        absent = [name for name in every if name not in classes]
        if absent:
            raise DataError(
                f"The splits in {root} differ in classes: {part} has no folder {name_some(absent)}, "
                f"{len(absent)} of {len(every)}. Give every split the same class folders."
            )
    if len(every) < 2:
        raise DataError(
            f"{root} holds {len(every)} class folder{'s' * (not every)}{''.join(f' ({name})' for name in every)}; "
            "telling classes apart needs at least two, with their images in each."
        )
    return tuple(every)


def _notes(ignored: Counter[str]) -> tuple[str, ...]:
    if not ignored:
        return ()
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(ignored.items()))
    return (f"{ignored.total():,} files were ignored ({kinds}); images are {', '.join(SUFFIXES)}.",)
