"""Sentences of a report: findings, audits, how they were made, and what to know before using them."""

from collections.abc import Sequence
from typing import NamedTuple

from deepbloom.report.formatting import count_of, format_percent, shorten
from deepbloom.report.groups import Group
from deepbloom.runs.audit import Audit
from deepbloom.runs.reading import CompleteRun

MAX_ORIGINS = 20
MAX_NAMED = 3
"""Runs that are named beside a failed audit."""
BETTER = "first is better"
VERDICTS = {
    "tie": "It ties with {}: chance alone could explain the difference.",
    "one run only": "It cannot be told apart from {}: a single run says nothing about other seeds.",
    BETTER: "It is better than {}, by more than chance explains.",
}
"""What a verdict about the most accurate model and others means."""
Audited = Sequence[tuple[CompleteRun, Audit]]


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


class Finding(NamedTuple):
    """One audit over all runs of a group: ``passed``, ``failed``, or ``remark`` if it passed with something to know."""

    name: str
    verdict: str
    text: str


def describe_audits(group: Group) -> list[Finding]:
    """Say what the audits of a group's runs found; nothing if no run has one."""
    audited = [(run, run.metrics.audit) for run in group.runs if run.metrics.audit]
    if not audited:
        return []
    findings = [_describe_freeze(audited), _describe_split(group, audited), _describe_test(audited)]
    silent = len(group.runs) - len(audited)
    if silent:
        text = f"{count_of(silent, 'run')} {'has' if silent == 1 else 'have'} no audit in metrics.json."
        findings.append(Finding("Not audited", "remark", text))
    return findings


def _describe_freeze(audited: Audited) -> Finding:
    bad = [(run, audit) for run, audit in audited if not audit.freeze_holds]
    if bad:
        run, audit = bad[0]
        named = ", ".join(map(shorten, (*audit.changed, *audit.undeclared, *audit.missing)[:MAX_NAMED]))
        return Finding(
            "Freeze",
            "failed",
            f"In {len(bad)} of {count_of(len(audited), 'run')}, frozen weights changed or the optimizer held other "
            f"parameters than declared: in {shorten(run.name)}, {named or 'their numbers differ'}.",
        )
    frozen = sum(audit.frozen > 0 for _, audit in audited)
    stayed = (
        f"In {frozen} of them modules are frozen, and all their weights and buffers stayed bit for bit."
        if frozen
        else "No run freezes anything."
    )
    return Finding(
        "Freeze",
        "passed",
        f"{count_of(len(audited), 'run')}. The optimizer held exactly the parameters that were declared trainable. "
        f"{stayed}",
    )


def _describe_split(group: Group, audited: Audited) -> Finding:
    audits = [audit for _, audit in audited]
    doubled = max(audit.in_two_splits for audit in audits)
    if doubled:
        return Finding("Split", "failed", f"{doubled} images are in two splits, so the test is not independent.")
    near, near_val = max(audit.near_test for audit in audits), max(audit.near_val for audit in audits)
    val = f" {near_val} validation {'image has' if near_val == 1 else 'images have'} one in train." if near_val else ""
    if not near:
        return Finding(
            "Split",
            "passed",
            "No image is in two splits, and no test image has a near-duplicate in train or validation (a difference "
            f"hash finds copies and resized, recompressed or mirrored images).{val}",
        )
    count = f"{near}" if near == min(audit.near_test for audit in audits) else f"up to {near}"
    fold = " of each fold" if group.folds else ""
    images = f"test image{fold} has" if near == 1 else f"test images{fold} have"
    first, second = next((audit.examples[0] for audit in audits if audit.examples), ("?", "?"))
    return Finding(
        "Split",
        "remark",
        f"No image is in two splits, but {count} {images} a near-duplicate in train or validation, such as "
        f"{shorten(first)} and {shorten(second)}. The table below gives the accuracy without them.{val}",
    )


def _describe_test(audited: Audited) -> Finding:
    bad = [(run, audit) for run, audit in audited if not audit.test_holds]
    if bad:
        named = "; ".join(f"{shorten(run.name)} ({_describe_reads(audit)})" for run, audit in bad[:MAX_NAMED])
        more = f" and {len(bad) - MAX_NAMED} more" if len(bad) > MAX_NAMED else ""
        return Finding(
            "Test",
            "failed",
            f"In {len(bad)} of {count_of(len(audited), 'run')}, the test images were not read exactly once, after "
            f"training. They may have influenced it, or the test is incomplete: {named}{more}.",
        )
    passed = (
        f"{count_of(len(audited), 'run')}. No test image was read during training, and the test read each image once."
    )
    again = [audit.times_tested for _, audit in audited if audit.times_tested > 1]
    if not again:
        return Finding("Test", "passed", passed)
    return Finding(
        "Test",
        "remark",
        f"{passed} {count_of(len(again), 'run')} started the test more than once (up to {max(again)} times). A run "
        "that is interrupted during the test does so, with the same weights; starting it on purpose would be choosing "
        "by it.",
    )


def _describe_reads(audit: Audit) -> str:
    if audit.read_early:
        return "read before the test"
    if len(audit.reads) != 2:
        return "number of reads unknown"
    least, most = audit.reads
    return f"read {least} times" if least == most else f"read {least} to {most} times"


def list_without_near_duplicates(group: Group) -> list[tuple[str, str, str, str]]:
    """Return model, accuracy, accuracy without test images that have a near-duplicate, and the number of these.

    Empty if there are none. The accuracies are means over runs; an image counts once, whatever the number of seeds.
    """
    rows = []
    for model in group.models:
        audits = [run.metrics.audit for run in model.runs if run.metrics.audit]
        known = [audit.accuracy_without for audit in audits if audit.accuracy_without is not None]
        if audits and len(known) == len(model.runs) and any(audit.near_test for audit in audits):
            left_out = sum(audit.near_test for audit in audits) // len(model.predictions)
            without = format_percent(sum(known) / len(known))
            rows.append((shorten(model.label, 120), format_percent(model.accuracy), without, f"{left_out}"))
    return rows
