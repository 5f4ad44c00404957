"""Digests of files, kept from one start to the next: only files that are new or have changed are read again.

The index of a folder lies in the per-user cache folder. A file counts as unchanged while its size, its times of
modification and of status change, and its inode are the same. A file that changed in the last seconds is read again at
the next start, since another change in the same tick of the clock would leave no trace.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from deepbloom.data.cache_folder import cache_folder, keep_newest
from deepbloom.data.images import UNREADABLE, UnreadableError, digest, map_ahead, read_file
from deepbloom.device import available_cores
from deepbloom.errors import RunError
from deepbloom.progress import ProgressBar
from deepbloom.runs.files import write_bytes

FILES_AT_ONCE = 64
READERS = 8
"""Threads: a network disk answers many requests at a time."""
SETTLED_NANOSECONDS = 3_000_000_000
"""Longer than the coarsest clock of a file system in use (FAT, two seconds)."""
KEPT_INDEXES = 50

Entry = list[int | str]
"""Size, time of modification, time of status change (both in nanoseconds), inode, digest."""


def digest_files(root: Path, names: Sequence[str], paths: Sequence[Path], verify: str) -> tuple[str, ...]:
    """Return the digest of each file, or `UNREADABLE` where `read_file` raises `UnreadableError`.

    Parameters
    ----------
    root : Path
        The folder whose index is used.
    names : sequence of str
        What each file is called in the index.
    paths : sequence of Path
    verify : str
        ``changed``: files that the index knows are not read. ``full``: all are read.

    Raises
    ------
    DataError
        The machine failed to read a file.
    """
    known = _recall(root) if verify == "changed" else {}
    digests: list[str] = []
    index: dict[str, Entry] = {}

    def check(start: int) -> list[tuple[str, Entry | None]]:
        files = zip(names[start : start + FILES_AT_ONCE], paths[start : start + FILES_AT_ONCE], strict=True)
        return [_digest(path, known.get(name)) for name, path in files]

    starts = range(0, len(paths), FILES_AT_ONCE)
    blocks = map_ahead(check, starts, max(READERS, available_cores()))
    with ProgressBar(total=len(paths), desc="Reading images", unit="image") as bar:
        for block in blocks:
            for found, entry in block:
                if entry:
                    index[names[len(digests)]] = entry
                digests.append(found)
            bar.update(len(block))
    if index != known:
        _remember(root, index)
    return tuple(digests)


def _digest(path: Path, known: Entry | None) -> tuple[str, Entry | None]:
    """Return the digest of a file, and what the index may keep of it."""
    now, before = time.time_ns(), _signature(path)
    if known and before == known[:-1]:
        return str(known[-1]), known
    try:
        found = digest(read_file(path))
    except UnreadableError:
        return UNREADABLE, None
    settled = before and max(before[1:3]) < now - SETTLED_NANOSECONDS and before == _signature(path)
    return found, [*before, found] if settled else None


def _signature(path: Path) -> list[int]:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _file(root: Path) -> Path:
    return cache_folder() / "index" / f"{digest(os.fsencode(os.path.realpath(root)))[:32]}.json"


def _recall(root: Path) -> dict[str, Entry]:
    """Return the index of a folder; empty if it is absent or damaged."""
    try:
        checksum, content = _file(root).read_bytes().split(b"\n", 1)
        return dict(json.loads(content)) if checksum.decode() == digest(content) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _remember(root: Path, index: Mapping[str, Entry]) -> None:
    """Write down the index; if the cache folder is not writable, the next start reads all files again."""
    with suppress(OSError, RunError):
        path, content = _file(root), json.dumps(index).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, digest(content).encode() + b"\n" + content)
        keep_newest(path.parent, KEPT_INDEXES)
