"""What the audits of runs found, and near-duplicates in two splits side by side."""

from collections.abc import Sequence
from typing import NamedTuple

from deepbloom.report.evidence import near_duplicates
from deepbloom.report.formatting import count_of, format_percent, shorten
from deepbloom.report.groups import Group
from deepbloom.report.pages import Badge, PageTable, Section
from deepbloom.report.thumbnails import TestImages
from deepbloom.runs.audit import Audit
from deepbloom.runs.reading import CompleteRun

MAX_NAMED = 3
"""Runs that are named beside a failed audit."""
SHOWN_PAIRS = 10
"""Pairs of near-duplicates that are visible at once."""
LOOKS = {"passed": "good", "failed": "bad", "remark": "look"}
Audited = Sequence[tuple[CompleteRun, Audit]]


def describe_audits(group: Group, images: TestImages, shown: int) -> list[Section]:
    """Return the section of a group's audits, with ``shown`` rows visible at once; none if no run has an audit."""
    findings = list_findings(group)
    if not findings:
        return []
    rows = [(found.name, Badge(found.verdict, LOOKS[found.verdict]), found.text) for found in findings]
    tables = [PageTable(("Audit", "Result", "Finding"), rows, words=frozenset({1, 2}), look="text")]
    without = list_without_near_duplicates(group)
    if without:
        headings = ("Model", "Test accuracy", "Without near-duplicates", "Images left out")
        tables.append(PageTable(headings, without, shown=shown))
    return [Section("Audits", tables=tables, sections=_show_near_duplicates(group, images))]


def _show_near_duplicates(group: Group, images: TestImages) -> list[Section]:
    """Return the near-duplicates in two splits that the runs name, each pair once; none if there are none."""
    predictions = group.models[0].predictions[0]
    places = {image_id: place for place, image_id in enumerate(predictions.image_ids)}
    names = {name: group.class_names[predictions.targets[place]] for name, place in places.items()}
    names = {**images.class_names, **names}
    pairs = sorted(near_duplicates(group), key=lambda pair: names.get(pair[0]) == names.get(pair[1]))
    rows = [
        tuple(
            cell
            for image_id in pair
            for cell in (images.show(image_id, places.get(image_id)), shorten(names.get(image_id, "–")))
        )
        for pair in pairs
    ]
    caption = "Up to ten pairs of each run, those with different labels first."
    headings = ("Test image", "Class", "Near-duplicate", "Its class")
    table = PageTable(headings, rows, caption, frozenset({1, 2, 3}), shown=SHOWN_PAIRS)
    return [Section("Near-duplicates in two splits", tables=[table])] if rows else []


class Finding(NamedTuple):
    """One audit over all runs of a group: ``passed``, ``failed``, or ``remark`` if it passed with something to know."""

    name: str
    verdict: str
    text: str


def list_findings(group: Group) -> list[Finding]:
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
