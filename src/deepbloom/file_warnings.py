"""Warnings of libraries about a file, logged with the file's name."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

log = logging.getLogger("deepbloom")

_reading = threading.local()
_show_plain = warnings.showwarning


@contextmanager
def warnings_name(name: str) -> Iterator[None]:
    """Let warnings of this thread name a file, in a program that has called `install`."""
    _reading.name = name
    try:
        yield
    finally:
        _reading.name = ""


def install() -> None:
    """Log warnings that arise within `warnings_name`. For the command line: it changes ``warnings.showwarning``.

    As usual in Python, a warning with the same text is shown once, so it names the first of several files.
    """
    warnings.showwarning = _show


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    name = getattr(_reading, "name", "")
    if name:
        log.warning("%s: %s", name, str(message).strip())
    else:
        _show_plain(message, category, filename, lineno, file, line)
