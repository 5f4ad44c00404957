"""The structure of a page: sections of text, tables and figures, which `html` and `markdown` render."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Illustration:
    """A figure.

    Attributes
    ----------
    path : Path
        The PNG.
    alt : str
        What it shows, for those who cannot see it.
    caption : str
        How to read it.
    title, is_open : str, bool
        If there is a title, the figure can be folded under it; whether it is unfolded at first.
    """

    path: Path
    alt: str
    caption: str
    title: str = ""
    is_open: bool = True

    @property
    def width(self) -> int:
        """Width in pixels, from the PNG's header."""
        with open(self.path, "rb") as file:
            return int(struct.unpack(">I", file.read(20)[16:])[0])


@dataclass(frozen=True)
class Badge:
    """A cell with a verdict; ``look`` is ``good``, ``neutral``, ``look`` or ``bad``."""

    text: str
    look: str


@dataclass(frozen=True)
class Photo:
    """A cell with an image (a dash if there is none) and a line of text below. Markdown shows the text only."""

    path: Path | None
    alt: str
    text: str


Cell = str | Badge | Photo
"""Lines of a text are separated by newlines; those after the first are smaller."""


@dataclass(frozen=True)
class PageTable:
    """A table; its first column names the rows.

    Attributes
    ----------
    caption : str
        How to read it.
    words : set of int
        Columns besides the first that hold words, not numbers.
    look : str
        CSS class.
    shown : int or None
        Rows that are visible at once; the rest can be unfolded.
    title, is_open : str, bool
        If there is a title, the table can be folded under it; whether it is unfolded at first.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    words: frozenset[int] = frozenset()
    look: str = ""
    shown: int | None = None
    title: str = ""
    is_open: bool = True

    def is_number(self, column: int) -> bool:
        """Return whether a column holds numbers."""
        return column > 0 and column not in self.words


@dataclass(frozen=True)
class Section:
    """A part of a page, in the order of its fields.

    Attributes
    ----------
    notes : sequence of str
        What to know before using the tables.
    items : sequence of pairs of str
        Terms and values, as a list under the last note.
    meanings, details : sequence of pairs of str, sequence of str
        Terms and their meanings, then paragraphs; under "How to read this" if ``is_help``.
    look : str
        ``finding`` for paragraphs that state one, ``pair`` for small figures side by side.
    """

    heading: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[PageTable] = ()
    notes: Sequence[str] = ()
    items: Sequence[tuple[str, str]] = ()
    figures: Sequence[Illustration] = ()
    meanings: Sequence[tuple[str, str]] = ()
    details: Sequence[str] = ()
    sections: Sequence["Section"] = ()
    look: str = ""
    is_help: bool = False
