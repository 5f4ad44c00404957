"""Sentences of a report: findings, how they were made, and what to know before using them."""

from collections.abc import Sequence

from deepbloom.report.formatting import format_percent, shorten
from deepbloom.report.groups import Group
from deepbloom.runs.reading import CompleteRun

MAX_ORIGINS = 20
BETTER = "first is better"
VERDICTS = {
    "tie": "It ties with {}: chance alone could explain the difference.",
    "one run only": "It cannot be told apart from {}: a single run says nothing about other seeds.",
    BETTER: "It is better than {}, by more than chance explains.",
}
"""What a verdict about the most accurate model and others means."""


def state_finding(group: Group) -> str:
    """Say which model is best, how accurate it is, and whether others may be as good."""
    best = group.models[0]
    low, high = best.interval
    score = (
        f"{format_percent(best.accuracy)} of the test images (95 % interval over {best.interval_kind}: "
        f"{100 * low:.1f} to {100 * high:.1f})"
    )
    averaged = group.ensembles[:1] if group.rows[0] is not best else ()
    more = "".join(
        f" The mean of {len(one.runs)} runs of {shorten(one.runs[0].metrics.model)} has {format_percent(one.accuracy)}."
        for one in averaged
    )
    if len(group.models) == 1:
        return f"{shorten(best.label, 120)} classifies {score} correctly.{more}"
    pairs = [pair for pair in group.comparisons if pair.first is best]
    others = {verdict: [shorten(p.second.label, 120) for p in pairs if p.verdict == verdict] for verdict in VERDICTS}
    sentences = [text.format(_enumerate(others[verdict])) for verdict, text in VERDICTS.items() if others[verdict]]
    if len(sentences) == 1 and others[BETTER]:
        sentences = ["It is better than every other compared model, by more than chance explains."]
    if any(pair.difference.basis == "images" for pair in pairs):
        sentences.append("This holds for these trained networks; another seed may change it.")
    verdict = f"{' '.join(sentences)}{more}"
    return f"{shorten(best.label, 120)} is the most accurate model. It classifies {score} correctly. {verdict}"


def _enumerate(names: Sequence[str]) -> str:
    named = [*names[:5], f"{len(names) - 5} more"] if len(names) > 6 else names
    return " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)


def explain_separation(groups: Sequence[Group]) -> str:
    """Say why runs are in several groups; empty for a single one."""
    if len(groups) < 2:
        return ""
    metrics = [group.runs[0].metrics for group in groups]
    reasons = []
    if len({one.dataset for one in metrics}) > 1:
        reasons.append("their data differ")
    if len({one.data_split_kind for one in metrics}) > 1:
        reasons.append(
            "their kinds of split differ (a predefined split may train on far fewer images than a stratified one, "
            "which lowers the accuracy of every model)"
        )
    if len({one.folds for one in metrics}) > 1:
        reasons.append(
            "their numbers of folds differ (folds test every image once and a single split only its test images, and "
            "the share of images that trains differs)"
        )
    if any(0 < len(group.folds_tested) < group.folds for group in groups):
        reasons.append("some sets of folds are incomplete, so they were tested on other images")
    if not reasons and len({one.split_fingerprint for one in metrics}) == len(groups):
        reasons.append("other images were used for training and test (their split fingerprints differ)")
    if not reasons:
        reasons.append("their data or their test images differ")
    return (
        f"The runs are in {len(groups)} groups that are not ranked together, because {' and '.join(reasons)}. The "
        "images alone may explain a difference between groups."
    )


def describe_methods(group: Group) -> list[str]:
    """Say how the pairs of this group were compared: only the methods that were used."""
    bases = {pair.difference.basis for pair in group.comparisons}
    methods = {
        "images": "Single runs are compared image by image: p is McNemar's exact test, and the interval is that of "
        "Bonett and Price (2012). The finding holds for these trained networks; another seed may change it.",
        "folds": "Models are compared fold by fold: the interval and p are the corrected Student's t of Nadeau and "
        "Bengio (2003), because folds share most of their training images. Few folds make the interval wide.",
        "seeds": "With several seeds of both models, test images and seeds are samples: the interval and p are "
        "Student's t for crossed random effects of images and seeds, with each model's own variance over seeds. The "
        "finding holds for the models, whatever the seed. Two or three seeds make the interval wide.",
        "nothing": "A single run against several seeds is not judged, because its spread over seeds is unknown. "
        "Train it with other seeds.",
    }
    return [text for basis, text in methods.items() if basis in bases]


def list_notes(group: Group) -> list[str]:
    """Say what to know before comparing the rows."""
    notes = []
    metrics = [run.metrics for run in group.runs]
    machines = {(one.device_name, one.num_threads, one.precision) for one in metrics}
    if len(machines) > 1:
        notes.append(
            f"Times, speed and memory come from {len(machines)} combinations of machine, number of threads and "
            "precision."
        )
    if len({(tuple(one.versions.items()), one.git_commit) for one in metrics}) > 1:
        notes.append("The runs were made by different versions of the software; report.csv lists them.")
    if group.repeats:
        names = ", ".join(shorten(run.name) for run in group.repeats[:5])
        more = " and others" if len(group.repeats) > 5 else ""
        notes.append(f"Left out, because another run has the same settings and seed: {names}{more}.")
    return notes


def list_origins(runs: Sequence[CompleteRun]) -> list[str]:
    """Return the machines, versions and commits that runs came from."""
    versions = {f"{name} {version}" for run in runs for name, version in run.metrics.versions.items()}
    devices = {run.metrics.device_name for run in runs}
    commits = {run.metrics.git_commit for run in runs if run.metrics.git_commit}
    return [line for group in (devices, versions, commits) for line in _list_some(sorted(group))]


def _list_some(names: Sequence[str]) -> list[str]:
    more = [f"{len(names) - MAX_ORIGINS} more"] if len(names) > MAX_ORIGINS else []
    return [shorten(name, 60) for name in names[:MAX_ORIGINS]] + more
