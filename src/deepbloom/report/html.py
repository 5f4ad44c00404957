"""A page as one HTML file that loads nothing and runs nothing. Text from outside is escaped by the templates."""

import base64
import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from deepbloom.report.document import Section
from deepbloom.runs import files as atomic_files


def render(title: str, lead: str, sections: Sequence[Section], footer: str = "") -> str:
    """Return a page with its figures inside."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"base64": _encode, "breakable": _allow_breaks}
    return environment.get_template("page.html").render(title=title, lead=lead, sections=sections, footer=footer)


def write_page(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write a page.

    Raises
    ------
    RunError
        It cannot be written.
    """
    atomic_files.write_bytes(path, render(title, lead, sections).encode("utf-8", "replace"))


def _encode(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _allow_breaks(text: str) -> Markup:
    """Let a browser break a name after each ``_``, ``/`` and ``=``."""
    return Markup(re.sub("([_/=])", r"\1<wbr>", str(escape(text))))
