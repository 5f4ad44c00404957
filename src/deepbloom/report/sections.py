"""The sections of a report: one per group of comparable models, then all runs and files."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepbloom.report import confidence_plots, group_plots
from deepbloom.report.audits import describe_audits
from deepbloom.report.columns import Column, benchmark_table, shown_columns
from deepbloom.report.corrupted import Measured, describe_corrupted
from deepbloom.report.difficulty import describe_hard_classes, describe_hard_images
from deepbloom.report.explanations import heatmap_table
from deepbloom.report.explorer import class_order, describe_confusions, explorer_data
from deepbloom.report.exported import Exported, describe_exported
from deepbloom.report.findings import list_notes, state_finding
from deepbloom.report.formatting import format_percent, shorten
from deepbloom.report.groups import Group
from deepbloom.report.labels import describe_group_labels
from deepbloom.report.models import Model
from deepbloom.report.network_settings import describe_settings
from deepbloom.report.pages import Illustration, PageTable, Section
from deepbloom.report.pairs import describe_pairs
from deepbloom.report.run_plots import plot_confusion
from deepbloom.report.slices import describe_slices
from deepbloom.report.thumbnails import TestImages
from deepbloom.runs.reading import CompleteRun, Run

MAX_ROWS = 60
"""Rows of a table that the page shows at once; the rest can be unfolded."""
MAX_RUNS = 30
"""Runs whose list is unfolded at first."""
MAX_CONFUSIONS = 8
"""Models whose confusion matrices are all drawn; of more, the `BEST_CONFUSIONS` most accurate."""
BEST_CONFUSIONS = 3
MANY_CLASSES = 40
"""With this many classes, only one matrix is drawn of many models: each takes a second."""
FEW_CLASSES = 12
"""With this many classes or fewer, confusion matrices are small enough to stand side by side."""
FILES = (
    ("report.html", "this report as one page"),
    ("report.md", "this report as Markdown"),
    ("report.csv", "a row per run, complete or not: every unrounded value and every setting that decides the result"),
    ("models.csv", "a row per model: mean, standard deviation and interval over its runs"),
    ("pairs.csv", "a row per comparison: difference, interval, p, p after Holm's correction, verdict"),
    ("figures/", "the figures as PNG"),
)


def describe_group(
    number: int,
    group: Group,
    columns: Sequence[Column],
    folder: Path | None,
    images: TestImages,
    corrupted: Measured,
    exported: Exported,
) -> Section:
    """Return the section of a group. Figures are drawn into ``folder``, unless it is None.

    What does not depend on the group is explained in the first one only.
    """
    is_first = number == 1
    drawn = folder / f"{number}" if folder else None
    return Section(
        f"Group {number}: {shorten(group.name, 100)}",
        paragraphs=[state_finding(group)],
        look="finding",
        sections=[
            _benchmark(group, columns, drawn, is_first),
            describe_settings(group, MAX_ROWS),
            *([describe_pairs(group)] if group.comparisons or group.ensembles else []),
            *_figures(group, drawn, is_first),
            *describe_corrupted(group, corrupted, _name(drawn, "corrupted") if drawn else None),
            *describe_exported(group, exported),
            *describe_audits(group, images, MAX_ROWS),
            *([_explorer(group, images)] if drawn else []),
            *describe_confusions(group, is_first),
            *describe_slices(group, images.facts),
            *([_heatmaps(group)] if drawn and images.are_wanted else []),
            describe_hard_classes(group, is_first, images),
            *describe_hard_images(group, is_first, images),
            *(describe_group_labels(group, images) if drawn else []),
        ],
    )


def _name(prefix: Path, topic: str) -> Path:
    return prefix.with_name(f"{prefix.name}_{topic}.png")


def _benchmark(group: Group, columns: Sequence[Column], drawn: Path | None, is_first: bool) -> Section:
    shown = shown_columns(columns, group.rows)
    return Section(
        "Benchmark",
        tables=[benchmark_table(columns, group.rows, MAX_ROWS)],
        notes=list_notes(group),
        figures=[group_plots.draw_accuracy(group, _name(drawn, "accuracy"), is_first)] if drawn else [],
        meanings=[(column.heading, column.meaning) for column in shown] if is_first else [],
        is_help=True,
    )


def _figures(group: Group, drawn: Path | None, is_first: bool) -> list[Section]:
    if not drawn:
        note = "Figures are drawn for the largest groups only. Put the runs of this one into a folder of their own and "
        return [Section("Figures", notes=[note + "make a report of that folder."])]
    matrices = _draw_confusions(group, drawn.with_name(f"{drawn.name}_confusion"))
    cut = len(matrices) < len(group.models)
    some = "The most accurate model is" if len(matrices) == 1 else f"The {len(matrices)} most accurate models are"
    general = (
        "Rows are true classes, columns predicted classes. Blue squares on the diagonal are correct predictions, "
        "orange ones confusions; the stronger the color, the larger the share of the true class. "
        "Classes that are confused with each other are neighbors."
    )
    has_history = any(run.history for run in group.runs)
    curves = [group_plots.draw_curves(group, _name(drawn, "curves"), is_first)] if has_history else []
    return [
        *(Section("Learning curves", figures=[figure]) for figure in curves),
        Section("Accuracy and cost", figures=[group_plots.draw_cost(group, _name(drawn, "cost"), is_first)]),
        Section(
            "Confidence",
            figures=[
                confidence_plots.draw_calibration(group, _name(drawn, "calibration"), is_first),
                confidence_plots.draw_risk_coverage(group, _name(drawn, "risk"), is_first),
            ],
        ),
        Section(
            "Confusion matrices",
            paragraphs=[*([general] if is_first else []), *([f"{some} drawn."] if cut else [])],
            figures=matrices,
            look="pair" if len(group.class_names) <= FEW_CLASSES else "",
        ),
    ]


def _draw_confusions(group: Group, prefix: Path) -> list[Illustration]:
    """Draw the confusion matrices of the most accurate models; file names begin with that of ``prefix``."""
    best = 1 if len(group.class_names) >= MANY_CLASSES else BEST_CONFUSIONS
    shown = group.models if len(group.models) <= MAX_CONFUSIONS else group.models[:best]
    order = class_order(group)
    return [
        _draw_confusion(group, model, prefix.with_name(f"{prefix.name}_{rank}_{_slug(model.label)}.png"), rank, order)
        for rank, model in enumerate(shown, 1)
    ]


def _draw_confusion(group: Group, model: Model, path: Path, rank: int, order: np.ndarray) -> Illustration:
    matrix, label = model.confusion(len(group.class_names)), shorten(model.label, 80)
    plot_confusion(matrix[np.ix_(order, order)], [group.class_names[c] for c in order], path, model.label)
    mistakes = matrix * ~np.eye(len(matrix), dtype=bool)
    row, column = np.unravel_index(mistakes.argmax(), mistakes.shape)
    names = [shorten(group.class_names[place]) for place in (row, column)]
    worst = (
        f" Most common mistake: {names[0]} confused with {names[1]}, {mistakes.max()} times." if mistakes.any() else ""
    )
    runs = f" of {len(model.runs)} runs" if len(model.runs) > 1 else ""
    return Illustration(
        path,
        f"Confusion matrix of {label}: {np.trace(matrix)} of {matrix.sum()} predictions{runs} are correct.{worst}",
        f"{label}.{worst}",
        title="" if len(group.class_names) <= FEW_CLASSES else shorten(model.label, 120),
        is_open=rank == 1,
    )


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:40] or "model"


def _explorer(group: Group, images: TestImages) -> Section:
    return Section("The test images", data=explorer_data(group, images))


def _heatmaps(group: Group) -> Section:
    table = heatmap_table(group)
    note = "There are none yet. Run deepbloom explain ckpt=RUN for a run of each model, then repeat the report."
    return Section("Heatmaps of the same images", tables=[table] if table else [], notes=[] if table else [note])


def describe_unused(runs: Sequence[Run]) -> list[Section]:
    """Return the section of runs that are not complete or cannot be read; none if there are none."""
    rows = [
        (
            shorten(run.name, 80),
            run.state,
            shorten(run.problem, 300) if run.problem else "Not finished: re-running its train command resumes it.",
        )
        for run in runs
        if not isinstance(run, CompleteRun)
    ]
    table = PageTable(("Run", "State", "Reason"), rows, words=frozenset({1, 2}), look="text")
    return [Section("Runs not used", tables=[table])] if rows else []


def describe_runs(groups: Sequence[Group]) -> Section:
    """Return the list of all runs that count."""
    rows = [
        (
            "\n".join(shorten(name, 80) for name in (run.metrics.name, run.name) if name),
            f"{number}",
            model.short,
            f"{run.metrics.seed}",
            format_percent(run.values["val_top1_accuracy"]),
            format_percent(run.metrics.top1_accuracy),
        )
        for number, group in enumerate(groups, 1)
        for model in group.models
        for run in model.runs
    ]
    table = PageTable(
        ("Run", "Group", "Model", "Seed", "Validation accuracy", "Test accuracy"),
        rows,
        "The best epoch on the validation split was tested; no choice depends on test accuracy. All numbers "
        "come from the files in the run directories.",
        words=frozenset({2}),
        look="runs",
        title=f"{len(rows)} runs",
        is_open=len(rows) <= MAX_RUNS,
    )
    return Section("Runs", tables=[table])
