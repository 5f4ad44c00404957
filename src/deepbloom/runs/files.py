"""Atomic writes and locks between processes: the only way in which results reach the disk."""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from deepbloom.errors import RunError

LOCK = ".lock"


def write_bytes(path: Path, content: bytes, previous: Path | None = None) -> None:
    """Write a file so that after a crash at any moment either the old or the new content is there, never a part.

    Parameters
    ----------
    path : Path
    content : bytes
    previous : Path, optional
        Where the old content is kept. After a crash between the two renames it is there, and nothing at ``path``.

    Raises
    ------
    RunError
        The folder cannot be written (full disk, no permission, gone); the file is as it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        kept = "What was there before is unchanged." if path.parent.is_dir() else f"{path.parent} is gone."
        raise RunError(
            f"Cannot write {path}: {error.strerror or error}. {kept} "
            "Free space or choose another output_dir=PATH, then start the same command again."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write ``content``, which may hold dataclasses, as indented JSON, atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=asdict) + "\n"
    write_bytes(path, text.encode("utf-8", "backslashreplace"))  # a name that is no UTF-8 becomes JSON's own escape


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Write ``rows`` under ``columns`` as CSV, atomically."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))


def make_folder(path: Path) -> Path:
    """Create a folder for output and prove that it can be written, before any work is done.

    Raises
    ------
    RunError
        It cannot be created or written.
    """
    probe = path / f".writable.{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunError(
            f"Cannot write into {path}: {error.strerror or error}. Choose another output_dir=PATH."
        ) from error
    return path


def remove_leftovers(folder: Path) -> None:
    """Remove what writes left behind that were killed; for the process that holds the folder."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


class LockedError(RunError):
    """Another process holds the lock."""


@contextmanager
def locked(folder: Path, wait_seconds: float | None = None) -> Iterator[None]:
    """Hold the lock of a folder, which one process at a time can. It ends with the process, however that ends.

    Parameters
    ----------
    folder : Path
    wait_seconds : float, optional
        How long to wait for another process; without end by default.

    Raises
    ------
    LockedError
        Another process still holds the lock.
    OSError
        The folder does not exist or cannot be written.
    """
    lock = FileLock(folder / LOCK, timeout=-1 if wait_seconds is None else wait_seconds)
    try:
        lock.acquire(poll_interval=0.02)
    except Timeout as error:
        raise LockedError(f"Another process works in {folder}.") from error
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Return whether a process holds the folder's lock."""
    if not (folder / LOCK).is_file():
        return False
    try:
        with locked(folder, 0):
            return False
    except LockedError:
        return True
    except OSError:
        return False
