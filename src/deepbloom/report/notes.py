"""What a report says in sentences: its findings, how they were made, and what a reader must know before using them."""

from collections import Counter
from collections.abc import Sequence

from deepbloom.report.compare import Table
from deepbloom.report.formatting import format_percent, shorten
from deepbloom.runs import folder as run_dir
from deepbloom.runs.reading import CompleteRun

MAX_DIFFERENCES = 12
"""Settings that are listed; report.csv has all."""
MAX_ORIGINS = 20
MAX_NAMED = 3
"""Models that are named beside one value of a setting."""
FILES = (
    ("report.md", "this report as Markdown"),
    ("report.csv", "a row per run, complete or not: every number unrounded, and every setting"),
    ("models.csv", "a row per model: mean, standard deviation and interval over its runs"),
    ("pairs.csv", "a row per paired comparison: difference, interval, p, p after Holm's correction, verdict"),
    ("figures/", "the figures as PNG"),
)
TEXTS = {
    "winner_of_many": ("The best of many was lucky as well as good: expect a little less of it on new images."),
    "differences": ("Settings that differ between rows, so a row's place may come from them and not from its network:"),
    "no_figures": (
        "Figures are drawn for the largest tables only. For this one, put its runs into a folder of their own and "
        "report on that."
    ),
    "confusion": (
        "A blue square on the diagonal is a class that is recognized, an orange one beside it a class that is taken "
        "for another; the stronger the color, the larger its share of the true class."
    ),
    "heatmaps": (
        "Written by deepbloom explain, for one run of each model; below each image is that run's answer. A model "
        "that is right because of the background is right by luck: look for maps that leave the object."
    ),
    "no_heatmaps": (
        "There are no heatmaps yet: run deepbloom explain ckpt=RUN for a run of each model, then make this report "
        "again."
    ),
    "hard_classes": (
        "The share of a class's test images that is recognized. A class with few images can be here by bad luck; "
        "one that even the best model misses is hard, or mislabelled."
    ),
    "no_hard_classes": "Every model recognizes every test image.",
    "hard_images": (
        "Look at these first: an image that all models answer wrongly and surely may carry the wrong label."
    ),
    "origin": (
        "The best epoch is the one with the highest validation accuracy; test accuracy chose nothing. All numbers come "
        "from the files in the run directories."
    ),
}
"""Sentences that the page and the Markdown share."""


def state_finding(table: Table) -> str:
    best = table.models[0]
    low, high = best.interval
    score = (
        f"{format_percent(best.accuracy)} of the test images (95 % interval over {best.interval_kind} "
        f"{100 * low:.1f} to {100 * high:.1f})"
    )
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


def describe_methods(table: Table) -> list[str]:
    """Say how the pairs of this table were compared: only the methods that were used."""
    seeds = [len(c.first.answers) + len(c.second.answers) for c in table.comparisons]
    methods = []
    if any(count == 2 for count in seeds):
        what = "Two models of one seed" if table.folds else "Two single runs"
        methods.append(
            f"{what} are compared image by image: the interval is a paired bootstrap over the test images "
            "(10 000 draws), p is McNemar's exact test. The finding is about these trained networks; another seed may "
            "change it."
        )
    if table.folds:
        methods.append(
            "The answers of all folds are taken together: each image was answered by the one network of its model "
            "that did not train on it."
        )
    if any(count > 2 for count in seeds):
        methods.append(
            "With several seeds, test images and seeds are both samples: the interval and p are Student's t for a "
            "table of images by seeds (crossed random effects). The finding is about the models, whatever the seed. "
            "Where one model has a single run, the other's spread over seeds stands for both, and the few seeds that "
            "it is known from make the interval wide."
        )
    return methods


def list_notes(table: Table) -> list[str]:
    """Say what a reader must know before comparing the rows."""
    notes = []
    devices = {(run.metrics.device_name, run.metrics.num_threads, run.metrics.precision) for run in table.runs}
    if len(devices) > 1:
        notes.append(
            f"Times, speed and memory come from {len(devices)} different machines, thread counts or precisions."
        )
    if len({(run.metrics.versions, run.metrics.git_commit) for run in table.runs}) > 1:
        notes.append("The runs were made by different versions of the software; report.csv lists them.")
    trained_by = Counter(run.metrics.code_version or "unknown" for run in table.runs)
    if len(trained_by) > 1:
        counts = ", ".join(f"{count} by {shorten(version)}" for version, count in trained_by.most_common())
        notes.append(
            f"{len(trained_by)} versions of the training code made these runs ({counts}). What decides results "
            "differs between them, so runs of different versions are never one row; compare such rows with care, or "
            "train the old ones again."
        )
    if table.repeats:
        names = ", ".join(shorten(run.name) for run in table.repeats[:5])
        more = " and others" if len(table.repeats) > 5 else ""
        notes.append(f"Left out, because another run has the same settings, code and seed: {names}{more}.")
    bare = [run for run in table.runs if not (run.path / run_dir.CONFIG).exists()]
    if bare:
        notes.append(f"{len(bare)} runs have no config.yaml, so only their model, weights and epochs tell them apart.")
    return notes


def list_differences(table: Table) -> list[tuple[str, str]]:
    """Return the settings in which the rows of a table differ, and which rows have which value."""
    known = [(model.short, model.runs[0].traits) for model in table.models]
    keys = dict.fromkeys(key for _, traits in known for key in traits if key != "model.name")
    found = []
    for key in keys:
        rows: dict[str, list[str]] = {}
        for name, traits in known:
            rows.setdefault(traits.get(key, "unknown"), []).append(name)
        if len(rows) > 1:
            found.append((key, "; ".join(f"{shorten(value)} ({_name(names)})" for value, names in rows.items())))
    if len(found) > MAX_DIFFERENCES:
        left_out = len(found) - MAX_DIFFERENCES
        return [*found[:MAX_DIFFERENCES], (f"{left_out} more", "in report.csv")]
    return found


def _name(models: Sequence[str]) -> str:
    return ", ".join(models) if len(models) <= MAX_NAMED else f"{len(models)} models"


def list_origins(runs: Sequence[CompleteRun]) -> list[str]:
    """Return the machines, versions and commits that runs came from."""
    versions = {f"{name} {version}" for run in runs for name, version in run.metrics.versions}
    devices = {run.metrics.device_name for run in runs}
    commits = {run.metrics.git_commit for run in runs if run.metrics.git_commit}
    return [line for group in (devices, versions, commits) for line in _list_some(sorted(group))]


def _list_some(names: Sequence[str]) -> list[str]:
    more = [f"{len(names) - MAX_ORIGINS} more"] if len(names) > MAX_ORIGINS else []
    return [shorten(name, 60) for name in names[:MAX_ORIGINS]] + more
