"""What lies in a folder: the images that a path names."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from deepbloom.data.images import SUFFIXES
from deepbloom.errors import DataError


def find_images(image: str | Sequence[str]) -> list[Path]:
    """Return the files that ``image`` names: a file, a folder (searched recursively), a pattern, or a list of these.

    Files named one by one are taken whatever their suffix; in folders, files with one of `SUFFIXES`.

    Raises
    ------
    DataError
        A name matches nothing, or a folder holds no image.
    """
    names = [image] if isinstance(image, str) else list(image)
    found: list[Path] = []
    for name in map(str, names):
        path = Path(os.path.expanduser(name))
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
            if not inside:
                raise DataError(f"image={name} is a folder without images. Looked for: {', '.join(SUFFIXES)}.")
            found += inside
        elif path.exists() or path.is_symlink():
            found.append(path)
        else:
            matches = sorted(map(Path, glob.glob(str(path), recursive=True)))
            if not matches:
                raise DataError(f"image={name}: there is no such file, folder or pattern. Several go in [a.jpg,b.jpg].")
            found += matches
    return list(dict.fromkeys(found))
