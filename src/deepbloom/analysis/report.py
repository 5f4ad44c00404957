"""``report.md``, ``report.csv`` and ``report.html`` from run directories: no network, no data, no checkpoint needed."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from deepbloom import atomic_files, run_dir
from deepbloom.analysis import illustrations
from deepbloom.analysis.audits import describe_audits, list_without_twins
from deepbloom.analysis.benchmark import COLUMNS, list_raw_values
from deepbloom.analysis.compare import MAX_COMPARED, Comparison, Table, explain_separation, make_tables
from deepbloom.analysis.difficulty import find_hard_classes, find_hard_pictures
from deepbloom.analysis.explanation_columns import explanation_columns
from deepbloom.analysis.formatting import format_p_value, format_percent, format_points, shorten
from deepbloom.analysis.heatmaps import find_heatmaps
from deepbloom.analysis.runs import CompleteRun, find_runs
from deepbloom.errors import RunError

MAX_ILLUSTRATED = 4
"""Tables that get figures, the largest first."""
MAX_ROWS = 60
"""Models of a table that the page shows at once; the rest unfolds."""


@dataclass(frozen=True)
class ReportPaths:
    """What `write_report` wrote.

    Attributes
    ----------
    markdown, csv, html, figures : Path
        Three files and a folder.
    summary : str
        The benchmark's main columns, as plain text.
    """

    markdown: Path
    csv: Path
    html: Path
    figures: Path
    summary: str

    def __str__(self) -> str:
        return f"{self.summary}\n\n{self.html}\n{self.markdown}\n{self.csv}\n{self.figures}"


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
        csv=output_dir / "report.csv",
        html=output_dir / "report.html",
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
        "made_with": _list_origins(complete),
    }
    environment = _make_environment()
    for path in (paths.html, paths.markdown):
        text = environment.get_template(path.name).render(content)
        atomic_files.write_bytes(path, text.encode("utf-8", "replace"))
    atomic_files.write_csv(paths.csv, *list_raw_values(runs, tables))
    return paths


def _describe(number: int, table: Table, figures: Path) -> dict[str, object]:
    """Collect what the templates say about one table."""
    compared = table.models[:MAX_COMPARED]
    return {
        "number": number,
        "table": table,
        "finding": _state_finding(table),
        "notes": _list_notes(table),
        "methods": _describe_methods(table),
        "several_seeds": any(len(model.answers) > 1 for model in compared),
        "left_out": len(table.models) - len(compared),
        "hard_classes": find_hard_classes(table),
        "hard_pictures": find_hard_pictures(table),
        "audits": describe_audits(table),
        "without_twins": list_without_twins(table)[:MAX_ROWS],
        "heatmaps": find_heatmaps(table) if number <= MAX_ILLUSTRATED else [],
        "pictures": (
            illustrations.draw(number, table, figures)
            if number <= MAX_ILLUSTRATED
            else {topic: [] for topic in illustrations.TOPICS}
        ),
    }


def _state_finding(table: Table) -> str:
    best = table.models[0]
    low, high = best.interval
    score = f"{format_percent(best.accuracy)} of the test pictures (95 % interval {100 * low:.1f} to {100 * high:.1f})"
    if len(table.models) == 1:
        return f"{shorten(best.label, 120)} classifies {score} correctly."
    ties = [shorten(c.second.label, 120) for c in table.comparisons if c.first is best and c.is_tie]
    if ties:
        named = [*ties[:5], f"{len(ties) - 5} more"] if len(ties) > 6 else ties
        listed = " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)
        verdict = f"It is in a tie with {listed}: chance alone could explain the difference."
    else:
        verdict = "It is better than every other model that it was compared with, beyond what chance explains."
    return f"{shorten(best.label, 120)} has the highest accuracy: {score}. {verdict}"


def _describe_methods(table: Table) -> list[str]:
    """Say how the pairs of this table were compared: only the methods that were used."""
    seeds = [len(c.first.answers) + len(c.second.answers) for c in table.comparisons]
    methods = []
    if any(count == 2 for count in seeds):
        what = "Two models of one seed" if table.folds else "Two single runs"
        methods.append(
            f"{what} are compared picture by picture: the interval is a paired bootstrap over the test pictures "
            "(10 000 draws), p is McNemar's exact test. The finding is about these trained networks; another seed may "
            "change it."
        )
    if table.folds:
        methods.append(
            "The answers of all folds are taken together: each picture was answered by the one network of its model "
            "that did not train on it."
        )
    if any(count > 2 for count in seeds):
        methods.append(
            "With several seeds, test pictures and seeds are both samples: the interval and p are Student's t for a "
            "table of pictures by seeds (crossed random effects). The finding is about the models, whatever the seed. "
            "Where one model has a single run, the other's spread over seeds stands for both."
        )
    return methods


def _list_notes(table: Table) -> list[str]:
    """Say what a reader must know before comparing the rows."""
    notes = []
    devices = {(run.metrics.device_name, run.metrics.num_threads, run.metrics.precision) for run in table.runs}
    if len(devices) > 1:
        notes.append(
            f"Times, speed and memory come from {len(devices)} different machines, thread counts or precisions."
        )
    if len({(run.metrics.versions, run.metrics.git_commit) for run in table.runs}) > 1:
        notes.append("The runs were made by different versions of the software; report.csv lists them.")
    if table.repeats:
        names = ", ".join(shorten(run.name) for run in table.repeats[:5])
        more = " and others" if len(table.repeats) > 5 else ""
        notes.append(f"Left out, because another run has the same settings and seed: {names}{more}.")
    bare = [run for run in table.runs if not (run.path / run_dir.CONFIG).exists()]
    if bare:
        notes.append(f"{len(bare)} runs have no config.yaml, so only their model, weights and epochs tell them apart.")
    return notes


def _list_origins(runs: Sequence[CompleteRun]) -> list[str]:
    versions = {f"{name} {version}" for run in runs for name, version in run.metrics.versions}
    devices = {run.metrics.device_name for run in runs}
    commits = {run.metrics.git_commit for run in runs if run.metrics.git_commit}
    return [shorten(text, 60) for group in (devices, versions, commits) for text in sorted(group)[:20]]


def _write_plain(table: Table) -> str:
    shown = [
        column for column in COLUMNS if column.heading in ("Model", "Training type", "Test accuracy", "Parameters")
    ]
    rows = [[column.heading for column in shown]]
    for model in table.models:
        rows.append([f"{c.write(model)} {c.detail(model)}" if c.detail else c.write(model) for c in shown])
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
