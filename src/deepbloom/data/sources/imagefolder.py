"""A folder of images with one folder per class, or a predefined split with one folder per class in each part."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepbloom.config.data_settings import DataConfig
from deepbloom.data.folders import read_folder, refuse_archive
from deepbloom.data.index import digest_files
from deepbloom.data.layout import describe, find_classes, find_parts
from deepbloom.data.sources.files import FileSource, fingerprint_files, leave_out_unreadable
from deepbloom.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class ImageFolder(FileSource):
    """Images whose class is the name of the folder they lie in. ``image_ids`` are paths relative to the root."""

    @classmethod
    def create(cls, root: str | Path, allow_missing: bool = False, verify: str = "changed") -> "ImageFolder":
        """Find the images in ``root/CLASS/**`` or ``root/{train,val,test}/CLASS/**``; classes sorted by name.

        `read_folder` says which files are images, `name_parts` which names stand for splits. With ``allow_missing``,
        class folders without images are left out. ``verify`` is as in `digest_files`. ``notes`` say what was found and
        what was ignored.

        Raises
        ------
        DataError
            The folder is absent, can be read in two ways, has fewer than two classes or a class without images, or its
            splits differ in classes.
        """
        root = Path(os.path.expanduser(root))
        refuse_archive("data.root", root)
        if not root.is_dir():
            raise DataError(
                f"data.root={str(root)!r} is not a folder. Give a folder with one folder of images per class."
            )
        folder, ignored = read_folder(root)
        parts = find_parts(folder, ignored)
        found = find_classes(root, parts, ignored, allow_missing)
        class_names = tuple(sorted({name for classes in found.values() for name in classes}))
        numbers = {name: number for number, name in enumerate(class_names)}
        rows = sorted(
            (path.relative_to(root).as_posix(), part, numbers[name], path)
            for part, classes in found.items()
            for name, paths in classes.items()
            for path in paths
        )
        image_ids, part_of_each, targets, paths = zip(*rows, strict=True)
        digests = digest_files(root, image_ids, paths, verify)
        return cls(
            name="imagefolder",
            image_ids=image_ids,
            targets=np.array(targets, dtype=np.int64),
            class_names=class_names,
            fingerprint=fingerprint_files(image_ids, (class_names[target] for target in targets), digests),
            predefined={part: np.flatnonzero(np.array(part_of_each) == part) for part in parts}
            if "" not in parts
            else None,
            notes=(describe(parts, found), *([f"Ignored: {ignored}."] if ignored else [])),
            paths=paths,
            digests=digests,
        )


def load(config: DataConfig) -> ImageFolder:
    """Return the images in ``data.root``."""
    if not config.root:
        raise ConfigError("data=imagefolder needs data.root=FOLDER, with one folder of images per class in it.")
    found = ImageFolder.create(config.root, config.allow_missing, config.verify)
    return leave_out_unreadable(found) if config.allow_missing else found
