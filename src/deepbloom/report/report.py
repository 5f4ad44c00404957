"""``report.html``, ``report.md`` and the CSV files from run directories: no network, data or checkpoint needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepbloom.errors import RunError
from deepbloom.report import csv_rows
from deepbloom.report.columns import COLUMNS, Column, benchmark_table, fields
from deepbloom.report.explanations import explanation_columns
from deepbloom.report.findings import explain_separation, list_origins
from deepbloom.report.formatting import align, count_of, shorten
from deepbloom.report.groups import Group, make_groups
from deepbloom.report.pages import Section, render_html, render_markdown
from deepbloom.report.sections import FILES, describe_group, describe_runs, describe_unused
from deepbloom.runs import files as atomic_files
from deepbloom.runs.reading import CompleteRun, find_runs

MAX_ILLUSTRATED = 4
"""Groups that get figures, the largest first."""
TITLE = "Which model is better, by how much, and at what cost"
SUMMARY = ("label", "training_type", "top1_accuracy", "params_total")
"""Columns of the plain text that the command prints."""


@dataclass(frozen=True)
class ReportPaths:
    """What `write_report` wrote.

    Attributes
    ----------
    markdown, html : Path
    csv, models, pairs : Path
        Raw values of every run, of every model (means over its runs), and of every comparison.
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


def write_report(runs_folder: Path, output_dir: Path, columns: Sequence[Column] = COLUMNS) -> ReportPaths:
    """Compare the runs in a folder.

    Parameters
    ----------
    runs_folder : Path
        Searched at any depth.
    output_dir : Path
        Created if need be; files of an earlier report in it are replaced.
    columns : sequence of Column
        The columns of the page and of the CSV files. Those of ``deepbloom explain`` are added.

    Raises
    ------
    RunError
        There is no run, or none that is complete and can be read; or ``output_dir`` cannot be written.
    """
    runs_folder, output_dir = Path(runs_folder), Path(output_dir)
    runs = find_runs(runs_folder, fields(columns))
    complete = [run for run in runs if isinstance(run, CompleteRun)]
    if not complete:
        example = runs[0].problem or f"{runs[0].path} is {runs[0].state}"
        raise RunError(f"None of the {len(runs)} runs in {runs_folder} is complete and readable. The first: {example}")
    columns = [*columns[:-1], *explanation_columns(complete), columns[-1]]
    groups = make_groups(complete)
    atomic_files.make_folder(output_dir)
    paths = ReportPaths(
        markdown=output_dir / "report.md",
        html=output_dir / "report.html",
        csv=output_dir / "report.csv",
        models=output_dir / "models.csv",
        pairs=output_dir / "pairs.csv",
        figures=atomic_files.make_folder(output_dir / "figures"),
        summary="\n\n".join(_write_plain(group) for group in groups),
    )
    sections = [
        *(
            describe_group(number, group, columns, paths.figures if number <= MAX_ILLUSTRATED else None)
            for number, group in enumerate(groups, 1)
        ),
        *describe_unused(runs),
        describe_runs(groups),
        Section("Files", meanings=FILES),
    ]
    counted = sum(len(group.runs) for group in groups)
    lead = f"{counted} of {count_of(len(runs), 'run')} compared. {explain_separation(groups)}".strip()
    footer = f"Made with {' · '.join(list_origins(complete))}"
    for path, text in (
        (paths.html, render_html(TITLE, lead, sections, footer)),
        (paths.markdown, render_markdown(TITLE, lead, sections, output_dir, footer)),
    ):
        atomic_files.write_bytes(path, text.encode("utf-8", "replace"))
    csv_rows.write(paths.csv, csv_rows.run_rows(columns, runs, groups))
    csv_rows.write(paths.models, csv_rows.model_rows(columns, groups))
    csv_rows.write(paths.pairs, csv_rows.pair_rows(groups))
    return paths


def _write_plain(group: Group) -> str:
    table = benchmark_table([column for column in COLUMNS if column.key in SUMMARY], group.models)
    rows = [[str(cell).split("\nover")[0].replace("\n", " ") for cell in row] for row in (table.headings, *table.rows)]
    return f"{shorten(group.name, 120)}\n{align(rows)}"
