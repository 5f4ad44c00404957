"""``report.html``, ``report.md`` and the CSV files from run directories: no network, data or checkpoint needed."""

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from deepbloom.errors import RunError
from deepbloom.report import illustrations, notes, raw_values
from deepbloom.report.audits import describe_audits, list_without_twins
from deepbloom.report.benchmark import COLUMNS
from deepbloom.report.compare import MAX_COMPARED, Comparison, Table, explain_separation, make_tables
from deepbloom.report.difficulty import find_hard_classes, find_hard_images
from deepbloom.report.explanation_columns import explanation_columns
from deepbloom.report.formatting import format_p_value, format_percent, format_points, shorten
from deepbloom.report.heatmaps import MAX_IMAGES, MAX_MODELS, find_heatmaps
from deepbloom.runs import files as atomic_files
from deepbloom.runs.reading import CompleteRun, find_runs

MAX_ILLUSTRATED = 4
"""Tables that get figures, the largest first."""
MAX_ROWS = 60
"""Models of a table that the page shows at once; the rest unfolds."""


@dataclass(frozen=True)
class ReportPaths:
    """What `write_report` wrote.

    Attributes
    ----------
    markdown, html : Path
    csv, models, pairs : Path
        Raw values of every run, of every model (means over its runs), and of every paired comparison.
    figures : Path
        A folder.
    summary : str
        The benchmark's main columns, as plain text.
    """

    markdown: Path
    html: Path
    csv: Path
    models: Path
    pairs: Path
    figures: Path
    summary: str

    def __str__(self) -> str:
        written = (self.html, self.markdown, self.csv, self.models, self.pairs, self.figures)
        return "\n".join([f"{self.summary}\n", *map(str, written)])


def write_report(runs_folder: Path, output_dir: Path) -> ReportPaths:
    """Compare the runs in a folder.

    Parameters
    ----------
    runs_folder : Path
        Searched at any depth.
    output_dir : Path
        Created if need be; files of an earlier report in it are replaced.

    Raises
    ------
    RunError
        There is no run, or none that is complete and can be read; or ``output_dir`` cannot be written.
    """
    runs_folder, output_dir = Path(runs_folder), Path(output_dir)
    runs = find_runs(runs_folder)
    complete = [run for run in runs if isinstance(run, CompleteRun)]
    if not complete:
        example = runs[0].problem or f"{runs[0].path} is {runs[0].state}"
        raise RunError(f"None of the {len(runs)} runs in {runs_folder} is complete and readable. The first: {example}")
    tables = make_tables(complete)
    atomic_files.make_folder(output_dir)
    paths = ReportPaths(
        markdown=output_dir / "report.md",
        html=output_dir / "report.html",
        csv=output_dir / "report.csv",
        models=output_dir / "models.csv",
        pairs=output_dir / "pairs.csv",
        figures=atomic_files.make_folder(output_dir / "figures"),
        summary="\n\n".join(_write_plain(table) for table in tables),
    )
    content = {
        "sections": [_describe(number, table, paths.figures) for number, table in enumerate(tables, 1)],
        "max_rows": MAX_ROWS,
        "columns": (*COLUMNS[:-1], *explanation_columns([m for table in tables for m in table.models]), COLUMNS[-1]),
        "separation": explain_separation(tables),
        "runs": runs,
        "unused": [run for run in runs if not isinstance(run, CompleteRun)],
        "counted": sum(len(table.runs) for table in tables),
        "made_with": notes.list_origins(complete),
        "files": notes.FILES,
        "texts": notes.TEXTS,
        "heatmap_limits": f"At most {MAX_IMAGES} images and {MAX_MODELS} models are shown.",
    }
    environment = _make_environment()
    for path in (paths.html, paths.markdown):
        text = environment.get_template(path.name).render(content)
        atomic_files.write_bytes(path, text.encode("utf-8", "replace"))
    atomic_files.write_csv(paths.csv, *raw_values.list_runs(runs, tables))
    atomic_files.write_csv(paths.models, *raw_values.list_models(tables))
    atomic_files.write_csv(paths.pairs, *raw_values.list_pairs(tables))
    return paths


def _describe(number: int, table: Table, figures: Path) -> dict[str, object]:
    """Collect what the templates say about one table."""
    compared = table.models[:MAX_COMPARED]
    return {
        "number": number,
        "table": table,
        "finding": notes.state_finding(table),
        "notes": notes.list_notes(table),
        "differences": notes.list_differences(table),
        "methods": notes.describe_methods(table),
        "several_seeds": any(len(model.answers) > 1 for model in compared),
        "left_out": len(table.models) - len(compared),
        "hard_classes": find_hard_classes(table),
        "hard_images": find_hard_images(table),
        "audits": describe_audits(table),
        "without_twins": list_without_twins(table),
        "heatmaps": find_heatmaps(table) if number <= MAX_ILLUSTRATED else [],
        "images": (
            illustrations.draw(number, table, figures)
            if number <= MAX_ILLUSTRATED
            else {topic: [] for topic in illustrations.TOPICS}
        ),
    }


def _write_plain(table: Table) -> str:
    shown = [
        column for column in COLUMNS if column.heading in ("Model", "Training type", "Test accuracy", "Parameters")
    ]
    rows = [[column.heading for column in shown]]
    for model in table.models:
        rows.append(
            [f"{c.write(model)} {c.detail(model)}".replace("\n", " ") if c.detail else c.write(model) for c in shown]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([shorten(table.name, 120), *lines])


def _make_environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "short": shorten,
        "percent": format_percent,
        "points": format_points,
        "p_value": format_p_value,
        "base64": lambda path: base64.b64encode(path.read_bytes()).decode(),
        "md": _escape_markdown,
        "interval": _write_interval,
        "breakable": _allow_breaks,
    }
    return environment


def _write_interval(comparison: Comparison) -> str:
    return f"[{format_points(comparison.difference.low)}, {format_points(comparison.difference.high)}]"


def _allow_breaks(text: str) -> Markup:
    """Let a browser break a name after each ``_``, ``/`` and ``=``."""
    return Markup(re.sub("([_/=])", r"\1<wbr>", str(escape(text))))


def _escape_markdown(text: str) -> str:
    """Make a text mean itself in Markdown: no tag, no cell border, no emphasis, no link."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*|\[\]~])", r"\\\1", escaped)
