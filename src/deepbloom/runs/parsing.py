"""Read JSON, YAML and CSV files that may be damaged; errors name the file and the field."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import field, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from deepbloom.config.schema import flatten
from deepbloom.errors import RunError
from deepbloom.runs import folder as run_dir
from deepbloom.sinks import from_cell


def read_text(path: Path, errors: str = "strict") -> str:
    """Return the text of a UTF-8 file. Raises `RunError` if it is missing, too large, or not a text file."""
    try:
        return run_dir.read_text(path, errors)
    except FileNotFoundError:
        raise RunError(f"{path} is missing.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}.") from error


def load_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises `RunError`."""
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}.") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged: it holds a {type(content).__name__}, not named fields.")
    return content


def load_yaml(path: Path) -> dict[str, str]:
    """Return a YAML file's scalars as text, by dotted name. Raises `RunError`."""
    text = read_text(path)
    try:
        return {key: str(value) for key, value in flatten(run_dir.load_settings(text)).items()}
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}.") from error


def read_columns(path: Path, columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return all columns of a CSV file with at least one row, as text. Raises `RunError`, also without ``columns``.

    A byte order mark and empty lines, which spreadsheets and editors add, are skipped.
    """
    text = read_text(path, "surrogateescape").removeprefix("\ufeff")
    try:
        header, *rows = [[*map(from_cell, row)] for row in csv.reader(io.StringIO(text, newline="")) if row] or [[]]
    except csv.Error as error:
        raise RunError(f"{path} is damaged: {error}.") from error
    for column in columns:
        if column not in header:
            separated = len(header) == 1 and (";" in header[0] or "\t" in header[0])
            hint = " Its columns are separated by semicolons or tabs: save it with commas." if separated else ""
            raise RunError(f"{path}: column {column!r} is missing.{hint}")
    if not rows:
        raise RunError(f"{path} holds no rows.")
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise RunError(f"{path}: row {number} has {len(row)} values for {len(header)} columns.")
    return dict(zip(header, zip(*rows, strict=True), strict=True))


def to_numbers(path: Path, column: str, texts: tuple[str, ...], kind: type) -> NDArray[Any]:
    """Return a column as an array of ``kind``. Raises `RunError`."""
    try:
        return np.array([*map(float if kind is np.float64 else int, texts)], dtype=kind)
    except (ValueError, OverflowError) as error:
        raise RunError(f"{path}: column {column!r}: {error}.") from error


class Kind(NamedTuple):
    """What a field of metrics.json may hold, and whether a mean of it over runs makes sense."""

    words: str
    fits: Callable[[Any], bool]
    is_number: bool = False


def _is_list(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_in(low: float, high: float, *types: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in types and low <= value <= high


TEXT = Kind("text", _is_text)
TEXTS = Kind("a list of texts", _is_list(_is_text))
NAMES = Kind("a list of at least one text", lambda value: _is_list(_is_text)(value) and bool(value))
PAIRS = Kind("a list of pairs of texts", _is_list(lambda pair: _is_list(_is_text)(pair) and len(pair) == 2))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
MAPPING = Kind("named values", lambda value: isinstance(value, dict))
COUNT = Kind("a whole number of at least 0", _is_in(0, 1e300, int), is_number=True)
COUNTS = Kind("a list of whole numbers", _is_list(_is_in(0, 1e300, int)))
POSITIVE = Kind("a whole number of at least 1", _is_in(1, 1e300, int), is_number=True)
NUMBER = Kind("a number of at least 0", _is_in(0, 1e300, int, float), is_number=True)
FRACTION = Kind("a number in [0, 1]", _is_in(0, 1, int, float), is_number=True)
THRESHOLD = Kind("a number in [-1, 1]", _is_in(-1, 1, int, float), is_number=True)

REQUIRED: Any = object()
Content = TypeVar("Content")


def at(path: str, kind: Kind, default: Any = REQUIRED) -> Any:
    """Return a dataclass field that `Fields.fill` takes from ``path``."""
    return field(metadata={"path": path, "kind": kind, "default": default})


class Fields:
    """The fields of a JSON file by dotted name, checked when they are taken."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = load_json(path)

    def get(self, name: str) -> Any:
        """Return the value of a field, whatever it is; None if it is missing."""
        value: Any = self.content
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def take(self, path: str, kind: Kind, default: Any = REQUIRED) -> Any:
        """Return the value of a field, or ``default`` if it is missing or null.

        Raises
        ------
        RunError
            The field is required and missing, or is not of ``kind``.
        """
        value = self.get(path)
        if value is None and default is not REQUIRED:
            return default
        if not kind.fits(value):
            found = "is missing" if value is None else f"is {str(value)[:60]!r}"
            raise RunError(f"{self.path}: field {path!r} {found}; expected {kind.words}.")
        return value

    def fill(self, content: type[Content], **given: object) -> Content:
        """Return a dataclass filled from the file: lists as tuples, mappings from text to text. Raises `RunError`.

        Parameters
        ----------
        content : dataclass
            Its fields are made by `at`, except those that are ``given``.
        """
        for part in fields(content):  # type: ignore[arg-type]
            if part.name not in given:
                value = self.take(**part.metadata)
                if isinstance(value, dict):
                    value = {str(key): str(entry) for key, entry in value.items()}
                given[part.name] = tuple(value) if isinstance(value, list) else value
        return content(**given)
