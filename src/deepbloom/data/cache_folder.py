"""The per-user cache folder, and locks between processes that use it."""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepbloom.runs import files

log = logging.getLogger("deepbloom")


def cache_folder() -> Path:
    """Return ``$DEEPBLOOM_CACHE``, else ``deepbloom`` in ``$XDG_CACHE_HOME`` or ``~/.cache``. It may not exist yet.

    Raises
    ------
    OSError
        The user has no home folder and none of the variables is set.
    """
    if os.environ.get("DEEPBLOOM_CACHE"):
        return Path(os.path.expanduser(os.environ["DEEPBLOOM_CACHE"])).absolute()
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]).absolute() / "deepbloom"
    try:
        return Path.home() / ".cache" / "deepbloom"
    except RuntimeError as error:
        message = "this user has no home folder, and the environment variable DEEPBLOOM_CACHE names none"
        raise FileNotFoundError(errno.ENOENT, message) from error


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
