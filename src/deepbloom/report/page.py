"""A page that stands alone: headings, tables and figures in one HTML file, which loads nothing and runs nothing."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from deepbloom.report.illustrations import Illustration
from deepbloom.runs import files as atomic_files


@dataclass(frozen=True)
class PageTable:
    """A table; its first column names the rows.

    Attributes
    ----------
    headings : tuple of str
    rows : tuple of tuples of str
        A cell's lines are divided by newlines; those after the first are smaller.
    caption : str
        How to read it.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page: text, then tables, then what their terms mean, then figures."""

    heading: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[PageTable, ...] = ()
    figures: tuple[Illustration, ...] = ()
    meanings: tuple[tuple[str, str], ...] = ()
    """Terms and what they mean."""


def write_page(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write a page, its figures in it.

    Raises
    ------
    RunError
        It cannot be written.
    """
    templates = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["base64"] = lambda figure: base64.b64encode(figure.read_bytes()).decode()
    text = environment.get_template("page.html").render(title=title, lead=lead, sections=sections)
    atomic_files.write_bytes(path, text.encode("utf-8", "replace"))
