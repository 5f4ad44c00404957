"""What runs prove about themselves: frozen parts stayed, the parts of the split are apart, the test was made once."""

from collections.abc import Sequence
from dataclasses import dataclass

from deepbloom.report.compare import Table
from deepbloom.report.formatting import format_percent, shorten
from deepbloom.runs.reading import Audit, CompleteRun

MAX_NAMED = 3


@dataclass(frozen=True)
class Finding:
    """One audit over all runs of a table.

    Attributes
    ----------
    name : str
    verdict : str
        ``passed``, ``failed`` or ``remark``: passed, with something that the reader should know.
    text : str
    """

    name: str
    verdict: str
    text: str


def describe_audits(table: Table) -> list[Finding]:
    """Say what the audits of a table's runs found; nothing where no run has one."""
    audited = [(run, run.metrics.audit) for run in table.runs if run.metrics.audit]
    if not audited:
        return []
    findings = [_describe_freeze(audited), _describe_split(table, audited), _describe_test(audited)]
    silent = len(table.runs) - len(audited)
    if silent:
        findings.append(Finding("Not audited", "remark", f"{_runs(silent)} {_have(silent)} no audit in metrics.json."))
    return findings


def _describe_freeze(audited: Sequence[tuple[CompleteRun, Audit]]) -> Finding:
    bad = [(run, audit) for run, audit in audited if not audit.freeze_holds]
    if bad:
        run, audit = bad[0]
        what = (*audit.changed, *audit.stray)[:MAX_NAMED]
        return Finding(
            "Freeze",
            "failed",
            f"In {len(bad)} of {_runs(len(audited))} something moved that was declared frozen, or the optimizer held "
            f"other parameters than declared: in {shorten(run.name)}, "
            f"{', '.join(map(shorten, what)) or 'another number of them'}.",
        )
    frozen = sum(audit.frozen > 0 for _, audit in audited)
    stayed = (
        f"In {frozen} with frozen parts, every frozen weight and buffer ends as it began, bit for bit. "
        if frozen
        else "No run freezes anything. "
    )
    return Finding(
        "Freeze",
        "passed",
        f"{_runs(len(audited))}. {stayed}The optimizer held exactly the parameters that were declared to train.",
    )


def _describe_split(table: Table, audited: Sequence[tuple[CompleteRun, Audit]]) -> Finding:
    audits = [audit for _, audit in audited]
    doubled = max(audit.in_two_parts for audit in audits)
    if doubled:
        return Finding("Split", "failed", f"{doubled} images are in two parts, so the test is not a test.")
    near = max(audit.near_test for audit in audits)
    count = f"{near}" if near == min(audit.near_test for audit in audits) else f"up to {near}"
    if not near:
        return Finding(
            "Split",
            "passed",
            "No image is in two parts, and no test image has a near-duplicate in training or validation "
            "(a difference hash finds copies, other sizes, recompressed and mirrored images)." + _say_val(audits),
        )
    first, second = next((audit.examples[0] for audit in audits if audit.examples), ("?", "?"))
    where = " of each fold" if table.folds else ""
    images = f"test image{where} has" if near == 1 else f"test images{where} have"
    return Finding(
        "Split",
        "remark",
        f"No image is in two parts, but {count} {images} a near-duplicate in training or "
        f"validation, such as {shorten(first)} and {shorten(second)}. The table below gives the accuracy without them."
        + _say_val(audits),
    )


def _say_val(audits: Sequence[Audit]) -> str:
    near = max(audit.near_val for audit in audits)
    images = "image has" if near == 1 else "images have"
    return f" {near} validation {images} one in training." if near else ""


def _describe_test(audited: Sequence[tuple[CompleteRun, Audit]]) -> Finding:
    bad = [(run, audit) for run, audit in audited if not audit.test_holds]
    if bad:
        named = "; ".join(f"{shorten(run.name)} ({_describe_reads(audit)})" for run, audit in bad[:MAX_NAMED])
        more = f" and {len(bad) - MAX_NAMED} more" if len(bad) > MAX_NAMED else ""
        return Finding(
            "Test",
            "failed",
            f"In {len(bad)} of {_runs(len(audited))} the test images were not read exactly once, after training, so "
            f"they may have influenced it, or the test is not whole: {named}{more}.",
        )
    passed = (
        f"{_runs(len(audited))}. No test image was read before the weights were chosen, and the test read each once."
    )
    again = [audit.times_tested for _, audit in audited if audit.times_tested > 1]
    if not again:
        return Finding("Test", "passed", passed)
    return Finding(
        "Test",
        "remark",
        f"{passed} But {_runs(len(again))} began the test more than once (up to {max(again)} times). After a stop in "
        "the test that is done by itself, with the same weights; done on purpose it would be choosing by the test.",
    )


def _describe_reads(audit: Audit) -> str:
    if audit.read_early:
        return "read before the test"
    if len(audit.reads) != 2:
        return "it does not say how often"
    least, most = audit.reads
    return f"read {least} times" if least == most else f"read {least} to {most} times"


def list_without_twins(table: Table) -> list[tuple[str, str, str, int]]:
    """Return model, accuracy, accuracy without test images that have a near-duplicate, and how many these are.

    Empty where there are none; of several seeds or folds the accuracies are means. Each image is counted once,
    however many seeds were tested on it.
    """
    rows = []
    for model in table.models:
        audits = [run.metrics.audit for run in model.runs if run.metrics.audit]
        known = [audit.accuracy_without for audit in audits if audit.accuracy_without is not None]
        if audits and len(known) == len(model.runs) and any(audit.near_test for audit in audits):
            left_out = sum(audit.near_test for audit in audits) // len(model.answers)
            rows.append(
                (model.label, format_percent(model.accuracy), format_percent(sum(known) / len(known)), left_out)
            )
    return rows


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"
