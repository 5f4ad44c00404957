"""What ``deepbloom robustness`` wrote in or beside the runs: columns, and accuracy under each corruption."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepbloom.errors import RunError
from deepbloom.report.columns import Column
from deepbloom.report.corrupted_plots import plot_severities
from deepbloom.report.formatting import format_p_value, format_percent, format_points, shorten
from deepbloom.report.groups import Group
from deepbloom.report.models import SIGNIFICANCE, Model
from deepbloom.report.pages import Badge, Illustration, PageTable, Section
from deepbloom.report.statistics import compare_values, correct_for_number
from deepbloom.runs import folder as run_dir
from deepbloom.runs.parsing import FRACTION, load_json, read_columns, to_numbers
from deepbloom.runs.reading import CompleteRun

MAX_SHOWN = 8
"""Networks with a curve, the most accurate first."""
MEANING = (
    "Mean accuracy on test images under each corruption and severity, from deepbloom robustness; in brackets the 95 % "
    "interval over images. Compare only values of the same suite."
)
LOSS = (
    "Share of the clean accuracy that is lost: 1 - accuracy under corruption / accuracy on the same images as they are."
)
ROW = ("top1_accuracy", "low", "high")
Measured = Mapping[Path, "Corrupted"]


@dataclass(frozen=True)
class Corrupted:
    """A run under corruption.

    Attributes
    ----------
    mean, low, high, relative_loss, calibration_error : float
    rows : sequence of mappings
        ``corruption``, ``severity``, ``top1_accuracy``, ``low`` and ``high``, the clean images first.
    suite : tuple
        What makes two runs comparable: corruptions and severities, and seed.
    words : str
        The suite in words.
    shares : mapping of str to float
        The share of conditions under which each image is classified correctly; empty if unknown.
    """

    mean: float
    low: float
    high: float
    relative_loss: float | None
    calibration_error: float | None
    rows: Sequence[Mapping[str, Any]]
    suite: tuple[Any, ...]
    words: str
    shares: Mapping[str, float]


def find_corrupted(folder: Path, runs: Sequence[CompleteRun]) -> Measured:
    """Return what was measured of each run, from files anywhere in the folder; of several, the one with most rows."""
    own = {run.path.resolve(): run.path for run in runs}
    found: dict[Path, Corrupted] = {}
    for path in sorted(folder.rglob(run_dir.ROBUSTNESS)):
        networks = _read(path)
        holder = own.get(path.parent.resolve().parent) if path.parent.name == run_dir.ROBUST else None
        for checkpoint, one in networks:
            run = holder if holder and len(networks) == 1 else own.get(Path(checkpoint).resolve().parent)
            if run and (run not in found or len(one.rows) > len(found[run].rows)):
                found[run] = one
    return found


def _read(path: Path) -> list[tuple[str, Corrupted]]:
    """Return checkpoint and measurements of each network of a file."""
    try:
        content = load_json(path)
        return [
            (str(network["checkpoint"]), _make(network, content, _read_shares(path, network)))
            for network in content["networks"]
        ]
    except (RunError, KeyError, TypeError, ValueError):
        return []


def _make(network: Mapping[str, Any], content: Mapping[str, Any], shares: Mapping[str, float]) -> Corrupted:
    rows = [
        {"corruption": str(row["corruption"]), "severity": int(row["severity"])}
        | {key: _share(row[key]) for key in ROW}
        for row in (network["clean"], *network["conditions"])
    ]
    found = network["mean_corruption_accuracy"]
    loss, error = network.get("relative_loss"), network.get("mean_calibration_error")
    suite = "quick" if content["suite"] == "quick" else "full"
    return Corrupted(
        _share(found["value"]),
        _share(found["low"]),
        _share(found["high"]),
        None if loss is None else float(loss),
        None if error is None else _share(error),
        rows,
        (*((row["corruption"], row["severity"]) for row in rows), content["seed"]),
        f"{suite} suite, {len(content['corruptions'])} kinds",
        shares,
    )


def _share(value: Any) -> float:
    """Return a number in [0, 1]. Raises `ValueError`."""
    if not FRACTION.fits(value):
        raise ValueError(f"{value!r} is not a fraction")
    return float(value)


def _read_shares(path: Path, network: Mapping[str, Any]) -> Mapping[str, float]:
    try:
        table = read_columns(path.with_name(run_dir.ROBUST_IMAGES), ("model", "image_id", "corrupted"))
        shares = to_numbers(path, "corrupted", table["corrupted"], np.float64).tolist()
    except RunError:
        return {}
    rows = zip(table["model"], table["image_id"], shares, strict=True)
    return {image_id: share for model, image_id, share in rows if model == network["model"]}


def robustness_columns(known: Measured) -> list[Column]:
    """Return the columns if at least one run was measured, else none."""

    def detail(model: Model) -> str:
        found = known.get(model.runs[0].path)
        if not found or len(model.runs) > 1:
            return ""
        return f"[{100 * found.low:.1f}, {100 * found.high:.1f}]\n{found.words}"

    columns = [
        Column(
            "mean_corruption_accuracy",
            FRACTION,
            run=lambda run: known[run.path].mean if run.path in known else None,
            heading="Corrupted",
            meaning=MEANING,
            format=format_percent,
            detail=detail,
            optional=4,
        ),
        Column(
            "relative_corruption_loss",
            FRACTION,
            run=lambda run: known[run.path].relative_loss if run.path in known else None,
            heading="Relative loss",
            meaning=LOSS,
            format=format_percent,
            optional=2,
        ),
    ]
    return columns if known else []


def describe_corrupted(group: Group, known: Measured, path: Path | None) -> list[Section]:
    """Return the section of a group's runs under corruption, with curves drawn to ``path``; none if there are none."""
    shown = _name_runs(group, known)
    if not shown:
        return []
    figures = []
    if path:
        curves = {label: list(one.rows) for label, one in list(shown.items())[:MAX_SHOWN]}
        plot_severities(curves, path)
        figures.append(
            Illustration(
                path,
                f"Accuracy by severity of each corruption, of {len(curves)} networks.",
                "Severity 0 is the image as it is. Bands are 95 % intervals over images (Wilson).",
            )
        )
    headings = ("Network", "Clean", "Corrupted", "Relative loss", "ECE", "Worst kind", "Measured")
    table = PageTable(headings, [_row(label, one) for label, one in shown.items()], words=frozenset({5, 6}))
    pairs = _compare(shown)
    return [
        Section(
            "Accuracy under corruption",
            tables=[table, *pairs],
            notes=[] if pairs or len(shown) == 1 else [
                "The networks were not measured on the same images with the same suite, so they are not compared. "
                "Measure them together: deepbloom robustness ckpt=[A,B]."
            ],
            figures=figures,
        )
    ]  # fmt: skip


def _name_runs(group: Group, known: Measured) -> dict[str, Corrupted]:
    return {model.name_of(run): known[run.path] for model in group.models for run in model.runs if run.path in known}


def _row(label: str, one: Corrupted) -> tuple[str, ...]:
    kinds: dict[str, list[float]] = {}
    for row in one.rows[1:]:
        kinds.setdefault(row["corruption"], []).append(row["top1_accuracy"])
    worst = min(kinds, key=lambda name: float(np.mean(kinds[name])))
    return (
        label,
        format_percent(one.rows[0]["top1_accuracy"]),
        f"{format_percent(one.mean)}\n[{100 * one.low:.1f}, {100 * one.high:.1f}]",
        "–" if one.relative_loss is None else format_percent(one.relative_loss),
        "–" if one.calibration_error is None else format_percent(one.calibration_error),
        f"{shorten(worst.replace('_', ' '))}\n{format_percent(float(np.mean(kinds[worst])))}",
        one.words,
    )


def _compare(shown: Mapping[str, Corrupted]) -> list[PageTable]:
    """Return the paired differences of the mean corruption accuracies, of networks with the same suite and images."""
    first = next(iter(shown.values()))
    alike = {
        label: _in_order(one)
        for label, one in list(shown.items())[:MAX_SHOWN]
        if one.shares and one.suite == first.suite and one.shares.keys() == first.shares.keys()
    }
    pairs = list(combinations(alike, 2))
    if not pairs:
        return []
    found = correct_for_number([partial(compare_values, alike[a], alike[b], 1.0) for a, b in pairs])
    rows = [
        (
            *pair,
            Badge("tie", "neutral") if p >= SIGNIFICANCE else Badge("different", "good"),
            format_points(difference.estimate),
            f"[{format_points(difference.low)}, {format_points(difference.high)}]",
            format_p_value(p),
        )
        for pair, (difference, p) in zip(pairs, found, strict=True)
    ]
    headings = ("First", "Second", "Finding", "Difference", "Interval, Holm", "p, Holm")
    caption = (
        "Differences of the accuracy under corruption, first minus second, in percentage points: paired over the same "
        "images (Student's t), for these trained networks."
    )
    return [PageTable(headings, rows, caption, words=frozenset({1, 2}))]


def _in_order(one: Corrupted) -> NDArray[np.float64]:
    return np.array([one.shares[image_id] for image_id in sorted(one.shares)])
