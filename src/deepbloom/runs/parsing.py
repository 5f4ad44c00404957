"""JSON, YAML and CSV files that may be damaged: a fault becomes one `RunError` that names the file and the field."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from deepbloom.errors import RunError
from deepbloom.runs import folder as run_dir


def read_text(path: Path, errors: str = "strict") -> str:
    """Return a UTF-8 file's text. Raises `RunError` where it is missing, no regular file, too large or no text."""
    try:
        return run_dir.read_text(path, errors)
    except FileNotFoundError:
        raise RunError(f"{path} is missing.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}.") from error


def load_json(path: Path) -> dict:
    """Return a JSON file's named fields. Raises `RunError`."""
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
        return _flatten(run_dir.load_settings(text))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}.") from error


def _flatten(content: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def read_columns(path: Path, columns: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the named columns of a CSV file that has at least one row, as text. Raises `RunError`."""
    text = read_text(path, "surrogateescape")
    by_name = _split_plain(text) or _split_quoted(path, text)
    for column in columns:
        if column not in by_name:
            raise RunError(f"{path}: column {column!r} is missing.")
    if not by_name[columns[0]]:
        raise RunError(f"{path} holds no rows.")
    return {column: by_name[column] for column in columns}


def _split_plain(text: str) -> dict[str, tuple[str, ...]]:
    """Return the columns of a table in which nothing is quoted, several times faster than the csv module; else {}."""
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    commas = {line.count(",") for line in lines}
    if '"' in text or len(commas) > 1 or text.count("\r") > text.count("\r\n"):
        return {}
    header, cells = lines[0].split(","), ",".join(lines).split(",")
    return {name: tuple(cells[place + len(header) :: len(header)]) for place, name in enumerate(header)}


def _split_quoted(path: Path, text: str) -> dict[str, tuple[str, ...]]:
    try:
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise RunError(f"{path} is damaged: {error}.") from error
    header = rows[0] if rows else []
    if {*map(len, rows)} - {len(header)}:
        number, row = next((n, row) for n, row in enumerate(rows) if len(row) != len(header))
        raise RunError(f"{path}: row {number} has {len(row)} values for {len(header)} columns.")
    columns = zip(*rows[1:], strict=True) if len(rows) > 1 else [()] * len(header)
    return dict(zip(header, columns, strict=True))


def to_numbers(path: Path, column: str, texts: tuple[str, ...], kind: type) -> np.ndarray:
    """Return a column as an array of ``kind``. Raises `RunError`."""
    try:
        return np.array([*map(float if kind is np.float64 else int, texts)], dtype=kind)
    except (ValueError, OverflowError) as error:
        raise RunError(f"{path}: column {column!r}: {error}.") from error


class Fields:
    """The fields of a JSON file by dotted name, each checked as it is taken; what does not fit is a `RunError`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = load_json(path)

    def get(self, name: str) -> object:
        """Return whatever the field holds; None where it is missing."""
        value: object = self.content
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def has(self, name: str) -> bool:
        """Return whether the field is there and not null."""
        return self.get(name) is not None

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text, or ``default`` where the field is missing."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self._fail(name, value, "text")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of at least one text."""
        value = self.get(name)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise self._fail(name, value, "a list of texts")
        return tuple(value)

    def names(self, name: str) -> tuple[str, ...]:
        """Return a list of texts, which may be empty."""
        value = self.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._fail(name, value, "a list of texts")
        return tuple(value)

    def pairs(self, name: str) -> tuple[tuple[str, str], ...]:
        """Return a list of pairs of texts."""
        value = self.get(name)
        if not isinstance(value, list) or not all(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(item, str) for item in pair) for pair in value
        ):
            raise self._fail(name, value, "a list of pairs of texts")
        return tuple((first, second) for first, second in value)

    def integers(self, name: str) -> tuple[int, ...]:
        """Return a list of whole numbers, which may be empty."""
        value = self.get(name)
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            raise self._fail(name, value, "a list of whole numbers")
        return tuple(value)

    def number(self, name: str, high: float = 1e300) -> float:
        """Return a number in [0, high]."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= high:
            raise self._fail(name, value, f"a number in [0, {high:g}]" if high < 1e300 else "a number of at least 0")
        return float(value)

    def integer(self, name: str, low: int = 0) -> int:
        """Return a whole number of at least ``low``."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise self._fail(name, value, f"a whole number of at least {low}")
        return value

    def _fail(self, name: str, value: object, wanted: str) -> RunError:
        found = "is missing" if value is None else f"is {str(value)[:60]!r}"
        return RunError(f"{self.path}: field {name!r} {found}; expected {wanted}.")
