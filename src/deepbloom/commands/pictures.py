"""Pictures that a person names on the command line: one, many, a folder, a pattern."""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from deepbloom.data.transforms import Preprocessing, preprocess, read_picture
from deepbloom.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class ReadPicture:
    """A picture that could be read (``picture``, ``inputs``), or the reason why not (``error``)."""

    path: Path
    picture: Image.Image | None = None
    inputs: Tensor | None = None
    """float32, shape (3, S, S)."""
    error: str = ""


def find_pictures(image: str | Sequence[str]) -> list[Path]:
    """Return the files that ``image`` names: a file, a folder (searched through), a pattern, or a list of these.

    Files named one by one are taken whatever their suffix; in folders only pictures are.

    Raises
    ------
    DataError
        Nothing is there, or a folder holds no picture.
    """
    names = [image] if isinstance(image, str) else list(image)
    found: list[Path] = []
    for name in map(str, names):
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
            if not inside:
                raise DataError(f"image={name} is a folder without pictures. Looked for: {', '.join(SUFFIXES)}.")
            found += inside
        elif path.exists() or path.is_symlink():
            found.append(path)
        else:
            matches = sorted(map(Path, glob.glob(str(path), recursive=True)))
            if not matches:
                raise DataError(f"image={name}: there is no such file, folder or pattern.")
            found += matches
    return list(dict.fromkeys(found))


def read_batches(paths: Sequence[Path], preprocessing: Preprocessing, batch_size: int) -> Iterator[list[ReadPicture]]:
    """Yield the pictures in groups of ``batch_size``; one that cannot be read carries its error."""
    for start in range(0, len(paths), batch_size):
        yield [_read(path, preprocessing) for path in paths[start : start + batch_size]]


def _read(path: Path, preprocessing: Preprocessing) -> ReadPicture:
    try:
        picture = read_picture(path)
    except DataError as error:
        return ReadPicture(path, error=str(error))
    return ReadPicture(path, picture, preprocess(picture, preprocessing))


def stack_inputs(pictures: Sequence[ReadPicture], device: torch.device) -> Tensor:
    """Return the inputs of readable pictures as one batch, float32 of shape (B, 3, S, S), channels last."""
    inputs = [picture.inputs for picture in pictures if picture.inputs is not None]
    return torch.stack(inputs).to(device).contiguous(memory_format=torch.channels_last)


def refuse_if_none_readable(pictures: Sequence[ReadPicture]) -> None:
    """Raise the first error if not one picture could be read."""
    if pictures and all(picture.error for picture in pictures):
        more = f" None of the {len(pictures)} pictures could be read." if len(pictures) > 1 else ""
        raise DataError(pictures[0].error + more)
