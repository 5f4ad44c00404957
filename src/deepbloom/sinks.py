"""Text from outside (names of files and classes, headers of checkpoints) made harmless, in one function for each sink.

Terminal and log: `printable` and `message`, which `Screen` and `LogFormatter` apply to all that is written. CSV:
`to_cell` and `from_cell`. HTML and Markdown: `deepbloom.report.pages`.
"""

import logging
import os
from contextlib import suppress
from typing import IO, Any

HARMLESS = "\u200c\u200d\u00a0\u3000"
"""Characters that Python does not call printable, and names need: joiners and spaces of several scripts."""
FORMULA = tuple("=+-@\t\r")
"""Beginnings of what a spreadsheet runs as a formula."""


def printable(text: str, keep: str = "") -> str:
    """Return a text without control characters and changes of direction: they become Python's escapes.

    ``keep`` holds those that stay, such as the line ends between names.
    """
    if text.isprintable():
        return text
    keep += HARMLESS
    return "".join(
        sign if sign.isprintable() or sign in keep else sign.encode("unicode_escape").decode() for sign in text
    )


class Screen:
    """Standard output or error of a command. Once its reader has gone, as ``head`` does, it takes what comes and shows
    nothing, so that the command writes its files to the end.

    Parameters
    ----------
    stream : text stream
    clean : bool
        Whether `printable` is applied, except to line ends and tabs. Progress bars need control characters.
    """

    def __init__(self, stream: IO[str], clean: bool) -> None:
        self.stream, self.clean, self.is_open = stream, clean, True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write a text and return its length."""
        if self.is_open:
            try:
                self.stream.write(printable(text, "\n\t") if self.clean else text)
            except BrokenPipeError:
                self._close()
        return len(text)

    def flush(self) -> None:
        """Flush what was written."""
        if self.is_open:
            try:
                self.stream.flush()
            except BrokenPipeError:
                self._close()

    def _close(self) -> None:
        self.is_open = False
        with suppress(OSError, ValueError):  # what is still buffered goes nowhere, also when Python ends
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)


def message(text: str) -> str:
    """Return a message for terminal and log: `printable`, lines after the first indented, so that it never looks like
    two.
    """
    return printable(text, "\n").replace("\n", "\n  ")


class LogFormatter(logging.Formatter):
    """A formatter that writes each record as a `message`."""

    def format(self, record: logging.LogRecord) -> str:
        return message(super().format(record))


def to_cell(value: object) -> object:
    """Return a value for a CSV file: a text that a spreadsheet would run as a formula gets a ``'`` in front."""
    return f"'{value}" if isinstance(value, str) and _is_formula(value.lstrip("'")) else value


def from_cell(text: str) -> str:
    """Return the text that `to_cell` wrote."""
    return text[1:] if text.startswith("'") and _is_formula(text.lstrip("'")) else text


def _is_formula(text: str) -> bool:
    if not text.startswith(FORMULA):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False
