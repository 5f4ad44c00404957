"""``report.html``, ``report.md`` and the CSV files from run directories: no network, data or checkpoint needed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deepbloom.errors import RunError
from deepbloom.report.columns import COLUMNS, Column, benchmark_table, fields
from deepbloom.report.corrupted import find_corrupted, robustness_columns
from deepbloom.report.explanations import explanation_columns
from deepbloom.report.exported import find_exported
from deepbloom.report.findings import explain_separation, list_origins
from deepbloom.report.formatting import align, count_of, shorten
from deepbloom.report.groups import Group, make_groups
from deepbloom.report.labels import check_group, list_shown
from deepbloom.report.models import Comparison
from deepbloom.report.pages import Section, render_html, render_markdown
from deepbloom.report.sections import FILES, describe_group, describe_runs, describe_unused
from deepbloom.report.slices import check_known, read_slices
from deepbloom.report.thumbnails import MAX_BYTES, Facts, TestImages, load_test_images
from deepbloom.runs import files as atomic_files
from deepbloom.runs.reading import CompleteRun, Run, find_runs

MAX_ILLUSTRATED = 4
"""Groups that get figures, the largest first."""
TITLE = "Which model is better, by how much, and at what cost"
SUMMARY = ("label", "training_type", "top1_accuracy", "params_total")
"""Columns of the plain text that the command prints."""
Rows = list[dict[str, object]]
PAIR_COLUMNS: dict[str, Callable[[Comparison], object]] = {
    "first": lambda pair: pair.first.label,
    "second": lambda pair: pair.second.label,
    "first_seeds": lambda pair: len(pair.first.predictions),
    "second_seeds": lambda pair: len(pair.second.predictions),
    "compared_over": lambda pair: pair.difference.basis,
    "difference": lambda pair: pair.difference.estimate,
    "difference_low": lambda pair: pair.difference.low,
    "difference_high": lambda pair: pair.difference.high,
    "p_value": lambda pair: pair.difference.p_value,
    "p_value_holm": lambda pair: pair.adjusted_p,
    "verdict": lambda pair: pair.verdict,
}


@dataclass(frozen=True)
class ReportPaths:
    """What `write_report` wrote; as text, ``summary`` and the paths."""

    markdown: Path
    html: Path
    csv: Path
    """Raw values of every run."""
    models: Path
    """Raw values of every model: means over its runs."""
    pairs: Path
    """Raw values of every comparison."""
    figures: Path
    """A folder."""
    summary: str
    """The benchmark's main columns."""

    def __str__(self) -> str:
        written = (self.html, self.markdown, self.csv, self.models, self.pairs, self.figures)
        return "\n".join([f"{self.summary}\n", *map(str, written)])


def write_report(
    runs_folder: Path,
    output_dir: Path,
    columns: Sequence[Column] = COLUMNS,
    thumbnails: bool = True,
    slices: Path | None = None,
) -> ReportPaths:
    """Compare the runs in a folder.

    Parameters
    ----------
    runs_folder : Path
        Searched at any depth.
    output_dir : Path
        Created if need be; files of an earlier report in it are replaced.
    columns : sequence of Column
        The columns of the page and of the CSV files. Those of ``deepbloom robustness`` and ``explain`` are added.
    thumbnails : bool
        Whether the page holds the test images, if they are where the runs found them.
    slices : Path, optional
        A CSV file with a column ``image_id`` and others, by whose values accuracies are given as well.

    Raises
    ------
    RunError
        There is no run, or none that is complete and can be read; ``output_dir`` cannot be written, or ``slices`` not
        be read.
    """
    runs_folder, output_dir = Path(runs_folder), Path(output_dir)
    runs = find_runs(runs_folder, fields(columns))
    complete = [run for run in runs if isinstance(run, CompleteRun)]
    if not complete:
        example = runs[0].problem or f"{runs[0].path} is {runs[0].state}"
        raise RunError(f"None of the {len(runs)} runs in {runs_folder} is complete and readable. The first: {example}")
    corrupted, exported = find_corrupted(runs_folder, complete), find_exported(runs_folder, complete)
    columns = [*columns, *robustness_columns(corrupted), *explanation_columns(complete)]
    groups = make_groups(complete)
    given = read_slices(slices) if slices else {}
    if slices:
        check_known(slices, given, {image_id for run in complete for image_id in run.predictions.image_ids})
    atomic_files.output_folder(output_dir)
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
            describe_group(
                number,
                group,
                columns,
                paths.figures if number <= MAX_ILLUSTRATED else None,
                _look_at_images(group, thumbnails, given, min(len(groups), MAX_ILLUSTRATED))
                if number <= MAX_ILLUSTRATED
                else TestImages(facts=given),
                corrupted,
                exported,
            )
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
    _write_rows(paths.csv, _run_rows(columns, runs, groups))
    _write_rows(paths.models, _model_rows(columns, groups))
    _write_rows(paths.pairs, _pair_rows(groups))
    return paths


def _look_at_images(group: Group, thumbnails: bool, given: Mapping[str, Facts], pages: int) -> TestImages:
    """Return a group's test images, with the columns that the user gave; thumbnails share their room with ``pages``."""
    labels = check_group(group)
    image_ids = group.models[0].predictions[0].image_ids
    shown = [image_ids[place] for place in list_shown(labels)] if labels else []
    found = (
        load_test_images(group, MAX_BYTES // pages, shown)
        if thumbnails
        else TestImages(problem="thumbnails=false.", are_wanted=False)
    )
    named = found.facts.keys() | given.keys()
    facts = {name: {**found.facts.get(name, {}), **given.get(name, {})} for name in named}
    return replace(found, facts=facts, labels=labels)


def _write_plain(group: Group) -> str:
    table = benchmark_table([column for column in COLUMNS if column.key in SUMMARY], group.rows)
    rows = [[str(cell).split("\nover")[0].replace("\n", " ") for cell in row] for row in (table.headings, *table.rows)]
    return f"{shorten(group.name, 120)}\n{align(rows)}"


def _write_rows(path: Path, rows: Rows) -> None:
    """Write rows under all their columns in order of appearance."""
    columns = dict.fromkeys(key for row in rows for key in row) or ("group", *PAIR_COLUMNS)
    atomic_files.write_csv(path, list(columns), rows)


def _run_rows(columns: Sequence[Column], runs: Sequence[Run], groups: Sequence[Group]) -> Rows:
    """Return the rows of report.csv: every run, complete or not, with its unrounded values and its identity."""
    number_of = {run.name: number for number, group in enumerate(groups, 1) for run in (*group.runs, *group.repeats)}
    counted = {run.name for group in groups for run in group.runs}
    rows: Rows = []
    accuracy = {run.name: run.metrics.top1_accuracy for run in runs if isinstance(run, CompleteRun)}
    order = {run.name: (number_of.get(run.name, len(groups) + 1), -accuracy.get(run.name, 0), run.name) for run in runs}
    for run in sorted(runs, key=lambda run: order[run.name]):
        row: dict[str, object] = {"run": run.name, "state": run.state, "problem": run.problem}
        if isinstance(run, CompleteRun):
            row |= {"group": number_of[run.name], "counted": run.name in counted}
            row |= {column.key: column.of_run(run) for column in columns if column.path or column.run}
            row = {**row, **{key: value for key, value in run.metrics.identity.items() if key not in row}}
        rows.append(row)
    return rows


def _model_rows(columns: Sequence[Column], groups: Sequence[Group]) -> Rows:
    """Return the rows of models.csv: every model, with means over its seeds and folds."""
    return [
        {"group": number, "rank": rank} | {column.key: column.of_model(model) for column in columns}
        for number, group in enumerate(groups, 1)
        for rank, model in enumerate(group.rows, 1)
    ]


def _pair_rows(groups: Sequence[Group]) -> Rows:
    """Return the rows of pairs.csv: every paired comparison."""
    return [
        {"group": number} | {key: get(pair) for key, get in PAIR_COLUMNS.items()}
        for number, group in enumerate(groups, 1)
        for pair in (*group.comparisons, *group.ensemble_comparisons)
    ]
