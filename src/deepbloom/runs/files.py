"""Atomic writes and locks between processes: the only way in which results reach the disk.

File systems differ: network disks often have no locks, and some refuse to sync a folder. What a file system does not
support is done without; what fails is an error.
"""

import csv
import errno
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from deepbloom.errors import RunError
from deepbloom.sinks import to_cell

LOCK = ".lock"
SOFT_LOCK = ".lock.pid"
"""Where the file system has no locks, this file exists while a process works in the folder, and names the process."""
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What ``flock`` gives where the file system has no locks."""
NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What ``fsync`` gives where there is nothing to sync."""
NO_FOLDER_SYNC = (*NO_SYNC, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR)
"""What opening or syncing a folder gives where that is not possible, as on Windows."""
OUTPUT_MARKER = ".deepbloom"
"""An empty file in folders that hold output, by which they are not taken for images."""


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
            sync(file.fileno())
        if previous and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        kept = "What was there before is unchanged." if path.parent.is_dir() else f"{path.parent} is gone."
        raise RunError(
            f"Cannot write {path}: {error.strerror or error}. {kept} "
            "Free space or choose another output_dir=PATH, then start the same command again."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def sync(descriptor: int, refusals: tuple[int, ...] = NO_SYNC) -> None:
    """Wait until what was written to a file is on the disk, if the file system can tell."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in refusals:
            raise


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in NO_FOLDER_SYNC:
            return
        raise
    try:
        sync(descriptor, NO_FOLDER_SYNC)
    finally:
        os.close(descriptor)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write ``content``, which may hold dataclasses, as indented JSON, atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=asdict) + "\n"
    write_bytes(path, text.encode("utf-8", "backslashreplace"))  # a name that is not UTF-8 becomes JSON's own escape


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Write ``rows`` under ``columns`` as CSV, atomically; a missing value is empty."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(to_cell, columns))
    writer.writerows([to_cell(row.get(column, "")) for column in columns] for row in rows)
    write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], compressed: bool = False) -> None:
    """Write named arrays as .npz, atomically."""
    content = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(content, **arrays)  # type: ignore[arg-type]  # names of arrays
    write_bytes(path, content.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays that `write_arrays` wrote; None if the file is absent or damaged."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return dict(content)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


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


def output_folder(path: Path) -> Path:
    """Do as `make_folder`, and mark a new folder as output, so that it is never read as images."""
    is_new = not path.exists()
    make_folder(path)
    if is_new:
        write_bytes(path / OUTPUT_MARKER, b"")
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

    Where the file system has no locks, a file with the number of the process stands for one. If the process is killed,
    the next one on the same machine takes it over.

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
    from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

    soft = not _has_locks(folder / LOCK)
    timeout = -1 if wait_seconds is None else wait_seconds
    lock: BaseFileLock = SoftFileLock(folder / SOFT_LOCK, timeout) if soft else FileLock(folder / LOCK, timeout)
    try:
        lock.acquire(poll_interval=0.02)
    except Timeout as error:
        gone = f" If that process is gone, delete {folder / SOFT_LOCK}." if soft else ""
        raise LockedError(f"Another process works in {folder}.{gone}") from error
    try:
        yield
    finally:
        lock.release()


def _has_locks(path: Path) -> bool:
    """Return whether the file system can lock the file at ``path``, which is created."""
    try:
        import fcntl
    except ImportError:  # Windows, where every file system has locks
        return True
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in NO_LOCKS
    finally:
        os.close(descriptor)
    return True


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
