"""A page as Markdown. Text from outside means itself: no tag, no cell border, no emphasis, no link."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from deepbloom.report.document import Cell, Illustration, PageTable, Section


def escape(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*|\[\]~])", r"\\\1", escaped)


def render(title: str, lead: str, sections: Sequence[Section], folder: Path, footer: str = "") -> str:
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
