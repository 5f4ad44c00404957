"""The per-user cache folder, and locks between processes that use it."""

import errno
import logging
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from deepbloom.runs import files

log = logging.getLogger("deepbloom")


def cache_folder() -> Path:
    """Return ``$DEEPBLOOM_CACHE``, else the user's cache folder: ``~/.cache/deepbloom`` on Linux. It may not exist yet.

    Raises
    ------
    OSError
        The user has no home folder, and no variable names another place.
    """
    if os.environ.get("DEEPBLOOM_CACHE"):
        return Path(os.path.expanduser(os.environ["DEEPBLOOM_CACHE"])).absolute()
    try:
        folder = platformdirs.user_cache_path("deepbloom", appauthor=False)
    except RuntimeError:  # new versions of platformdirs; old ones return a relative path
        folder = Path()
    if not folder.is_absolute():
        message = "this user has no home folder, and the environment variable DEEPBLOOM_CACHE names none"
        raise FileNotFoundError(errno.ENOENT, message)
    return folder


def scratch_folder() -> Path | None:
    """Return a folder for large files that do not outlive the process: in the cache folder, else a temporary one.

    None where neither can be written or map files into memory.
    """
    for choose in (_feature_folder, tempfile.gettempdir):
        try:
            folder = Path(choose())
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.truncate(mmap.PAGESIZE)
                mmap.mmap(file.fileno(), mmap.PAGESIZE).close()
            return folder
        except (OSError, ValueError) as error:
            log.warning("The feature cache cannot use a folder: %s.", error)
    return None


def _feature_folder() -> Path:
    return cache_folder() / "features"


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a cache folder; create the folder if it is absent.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if files.is_locked(folder):
        log.info("Another process is filling %s: waiting for it.", folder)
    with files.locked(folder):
        yield


def keep_newest(folder: Path, count: int) -> None:
    """Delete all files of a cache folder but the newest ``count``."""
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)[:-count]:
        path.unlink(missing_ok=True)
