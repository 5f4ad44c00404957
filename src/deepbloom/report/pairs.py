"""The section of a report that compares two models at a time on the same test images."""

import math
from collections.abc import Sequence
from dataclasses import replace

from deepbloom.report.findings import describe_methods
from deepbloom.report.formatting import format_p_value, format_points, shorten
from deepbloom.report.groups import Group
from deepbloom.report.models import Comparison
from deepbloom.report.pages import Badge, Cell, PageTable, Section

MAX_ENSEMBLE_PAIRS = 6
"""Pairs with ensembles whose list is unfolded at first."""
ENSEMBLES = (
    "Ensembles average the probabilities of the seeds of a model. They are compared image by image (McNemar's exact "
    "test), with the mean over the seeds of a model that has several (Student's t), and corrected for the pairs of "
    "this table. The finding holds for these trained networks; other seeds may change it."
)


def describe_pairs(group: Group) -> Section:
    """Return the section that compares every two of the most accurate models, and each ensemble with them."""
    compared = {pair.first for pair in group.comparisons} | {pair.second for pair in group.comparisons}
    left_out = len(group.models) - len(compared)
    note = (
        f"The {len(compared)} most accurate models are compared; {left_out} more are in the benchmark only. The best "
        "of many models was also lucky: expect slightly less of it on new images."
    )
    pairs = math.comb(len(group.models), 2)
    sampled = " and other ".join(
        sorted({"images"} | {pair.difference.basis for pair in group.comparisons} - {"nothing"})
    )
    return Section(
        "Pairs of models on the same images",
        paragraphs=[note] if left_out else [],
        tables=[
            *([_pair_table(group.comparisons)] if group.comparisons else []),
            *([_ensemble_table(group.ensemble_comparisons)] if group.ensembles else []),
        ],
        meanings=[
            ("Finding", "A tie has p, Holm of 0.05 or more: these data cannot tell the two apart. It does not prove "
             "that they are equal."),
            ("Difference", "Accuracy of the first model minus that of the second, in percentage points."),
            ("Interval, Holm", f"Range of the difference with other {sampled}: at least 95 %, widened by the same "
             "correction as p. It leaves out zero exactly if the finding is not a tie."),
            ("p", "Probability that two equally accurate models differ at least this much by chance."),
            ("p, Holm", f"p corrected for {pairs} {'pair' if pairs == 1 else 'pairs'}: with enough pairs, one always "
             "looks different. All pairs count, also those of models that are not in this table. The finding is based "
             "on it."),
        ],
        details=describe_methods(group),
        is_help=True,
    )  # fmt: skip


def _pair_table(pairs: Sequence[Comparison]) -> PageTable:
    headings = ("First", "Second", "Finding", "Difference", "Interval, Holm", "p", "p, Holm")
    return PageTable(headings, [_pair_row(pair) for pair in pairs], words=frozenset({1, 2}))


def _ensemble_table(pairs: Sequence[Comparison]) -> PageTable:
    title, is_open = f"{len(pairs)} pairs with ensembles", len(pairs) <= MAX_ENSEMBLE_PAIRS
    return replace(_pair_table(pairs), caption=ENSEMBLES, title=title, is_open=is_open)


def _pair_row(pair: Comparison) -> list[Cell]:
    found = pair.difference
    return [
        shorten(pair.first.label, 120),
        shorten(pair.second.label, 120),
        Badge(pair.verdict, "neutral" if pair.is_tie else "good"),
        format_points(found.estimate),
        *(
            ("–", "–", "–")
            if found.basis == "nothing"
            else (
                f"[{format_points(found.low)}, {format_points(found.high)}]",
                format_p_value(found.p_value),
                format_p_value(pair.adjusted_p),
            )
        ),
    ]
