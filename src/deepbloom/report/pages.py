"""Pages of sections with text, tables and figures, and how they become HTML and Markdown.

The HTML is one file that loads nothing. It runs ``explorer.js`` alone, by its hash, where a section has data for it.
Text from outside is shown literally: the templates escape it for HTML, `escape` for Markdown.
"""

import base64
import hashlib
import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import markupsafe
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from deepbloom.runs import files as atomic_files
from deepbloom.sinks import printable

TEMPLATES = Path(__file__).parent / "templates"
LINE_START = re.compile(r"^(\s*(?:\d+(?=[.)](?:\s|$)))?)(#|(?<=\d)[.)]|[-+](?=\s|$)|[-=](?=[-= ]*$))", re.MULTILINE)
"""What makes a heading, a list or a rule of a line in Markdown: the character to escape is the second group."""


@dataclass(frozen=True)
class Illustration:
    """A figure; if it has a title, it can be folded under it."""

    path: Path
    """The PNG."""
    alt: str
    """What it shows, for those who cannot see it."""
    caption: str
    """How to read it."""
    title: str = ""
    is_open: bool = True
    """Whether it is unfolded at first."""
    is_photo: bool = False
    """Whether it shows photographs, which keep their colors on a dark page."""
    fits: bool = False
    """Whether it is shrunk to the width of a phone, and does not scroll there."""

    @property
    def width(self) -> int:
        """Width in pixels, from the PNG's header."""
        with open(self.path, "rb") as file:
            return int(struct.unpack(">I", file.read(20)[16:])[0])


class Badge(NamedTuple):
    """A cell with a verdict; ``look`` is ``good``, ``neutral``, ``look`` or ``bad``."""

    text: str
    look: str


class Photo(NamedTuple):
    """A cell with an image (a dash if there is none) and a line of text below. Markdown shows the text only."""

    image: bytes
    """The bytes of a WebP."""
    alt: str
    text: str
    place: int | None = None
    """Which test image of the group it is, where a click may show it with its predictions."""

    @property
    def url(self) -> str:
        """The image as a ``data:`` URL."""
        return f"data:image/webp;base64,{base64.b64encode(self.image).decode()}"


class Class(NamedTuple):
    """A cell with the name of a class, number ``target`` of the group; with JavaScript, a click shows its test images.

    With ``predicted``, those that at least one model takes for that class.
    """

    text: str
    target: int
    predicted: int | None = None


Cell = str | Badge | Photo | Class
"""Lines of a text are separated by newlines; those after the first are smaller."""


@dataclass(frozen=True)
class PageTable:
    """A table; its first column names the rows. If it has a title, it can be folded under it."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    """How to read it."""
    words: frozenset[int] = frozenset()
    """Columns besides the first that hold words, not numbers."""
    optional: Mapping[int, int] = field(default_factory=dict)
    """Columns that the page leaves out where the table is too wide, the lowest value first; readers can choose them."""
    look: str = ""
    """CSS class."""
    shown: int | None = None
    """Rows that are visible at once; the rest can be unfolded."""
    title: str = ""
    is_open: bool = True
    """Whether it is unfolded at first."""

    def is_number(self, column: int) -> bool:
        """Return whether a column holds numbers."""
        return column > 0 and column not in self.words


@dataclass(frozen=True)
class Section:
    """A part of a page, in the order of its fields."""

    heading: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[PageTable] = ()
    notes: Sequence[str] = ()
    """What to know before using the tables."""
    items: Sequence[tuple[str, str]] = ()
    """Terms and values, as a list under the last note."""
    figures: Sequence[Illustration] = ()
    meanings: Sequence[tuple[str, str]] = ()
    """Terms and their meanings, under "How to read this" if ``is_help``."""
    details: Sequence[str] = ()
    """Paragraphs after the meanings."""
    sections: Sequence["Section"] = ()
    look: str = ""
    """``finding`` for paragraphs that state one, ``pair`` for small figures side by side."""
    is_help: bool = False
    data: Mapping[str, Any] | None = None
    """What ``explorer.js`` shows. Markdown, and a browser without JavaScript, leave it out."""


def render_html(title: str, lead: str, sections: Sequence[Section], footer: str = "") -> str:
    """Return a page as HTML, with its figures inside."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda path: base64.b64encode(path.read_bytes()).decode()
    environment.filters["breakable"] = _allow_breaks
    environment.filters["json"] = _embed
    script = (TEMPLATES / "explorer.js").read_text(encoding="utf-8") if any(map(_is_explored, sections)) else ""
    return environment.get_template("page.html").render(
        title=title,
        lead=lead,
        sections=sections,
        footer=footer,
        script=markupsafe.Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def write_page(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write a page as HTML. Raises `RunError` if it cannot be written."""
    atomic_files.write_bytes(path, render_html(title, lead, sections).encode("utf-8", "replace"))


def _is_explored(section: Section) -> bool:
    return section.data is not None or any(map(_is_explored, section.sections))


def _embed(data: Mapping[str, Any]) -> markupsafe.Markup:
    """Return JSON that cannot end the element that it stands in."""
    return markupsafe.Markup(json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"))


def _allow_breaks(text: str) -> markupsafe.Markup:
    """Let a browser break a name after each ``_``, ``/`` and ``=``."""
    return markupsafe.Markup(re.sub("([_/=])", r"\1<wbr>", str(markupsafe.escape(_clean(text)))))


def _clean(value: Any) -> Any:
    """Return a value for a page: without control characters and changes of direction, if it is a text from outside."""
    return printable(value, "\n") if isinstance(value, str) and not isinstance(value, markupsafe.Markup) else value


def escape(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    escaped = printable(text, "\n").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = re.sub(r"[\\`*|\[\]~]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", escaped)
    return re.sub(LINE_START, r"\1\\\2", escaped)


def render_markdown(title: str, lead: str, sections: Sequence[Section], folder: Path, footer: str = "") -> str:
    """Return a page as Markdown, with links to its figures relative to ``folder``."""
    blocks = [f"# {escape(title)}", escape(lead)]
    for section in sections:
        blocks += _section(section, 2, folder)
    return "\n\n".join([*blocks, *([escape(footer)] if footer else [])]) + "\n"


def _section(section: Section, level: int, folder: Path) -> Iterator[str]:
    yield f"{'#' * level} {escape(section.heading)}"
    yield from map(escape, section.paragraphs)
    for table in section.tables:
        yield from _table(table)
    yield from map(escape, section.notes)
    if section.items:
        yield _terms(section.items)
    for figure in section.figures:
        yield from _figure(figure, folder)
    if section.meanings:
        yield from ["How to read this:"] * section.is_help
        yield _terms(section.meanings)
    yield from map(escape, section.details)
    for part in section.sections:
        yield from _section(part, level + 1, folder)


def _table(table: PageTable) -> Iterator[str]:
    rule = ["---:" if table.is_number(place) else "---" for place in range(len(table.headings))]
    rows = [[_cell(cell) for cell in row] for row in (table.headings, *table.rows)]
    rows.insert(1, rule)
    yield "\n".join(f"| {' | '.join(row)} |" for row in rows)
    if table.caption:
        yield escape(table.caption)


def _cell(cell: Cell) -> str:
    text = cell if isinstance(cell, str) else cell.text
    return escape(" ".join(text.split())) or "–"


def _terms(pairs: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- **{escape(term)}**: {escape(meaning)}" for term, meaning in pairs)


def _figure(figure: Illustration, folder: Path) -> Iterator[str]:
    yield f"![{escape(figure.alt)}]({figure.path.relative_to(folder).as_posix()})"
    if figure.caption:
        yield escape(figure.caption)
