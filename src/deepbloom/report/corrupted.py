"""What ``deepbloom robustness`` left in run directories: a column with the mean corruption accuracy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepbloom.errors import RunError
from deepbloom.report.columns import Column
from deepbloom.report.formatting import format_percent
from deepbloom.report.models import Model
from deepbloom.runs import folder as run_dir
from deepbloom.runs.parsing import FRACTION, load_json
from deepbloom.runs.reading import CompleteRun

MEANING = (
    "Mean accuracy on test images under each corruption and severity, from deepbloom robustness; in brackets the 95 % "
    "interval over images. Compare only values of the same suite."
)


def robustness_columns(runs: Sequence[CompleteRun]) -> list[Column]:
    """Return the column if at least one run was measured, else none."""
    known = {run.path: found for run in runs if (found := _read(run.path))}

    def mean(run: CompleteRun) -> float | None:
        return known[run.path]["value"] if run.path in known else None

    def detail(model: Model) -> str:
        found = known.get(model.runs[0].path)
        if not found or len(model.runs) > 1:
            return ""
        return f"[{100 * found['low']:.1f}, {100 * found['high']:.1f}]\n{found['suite']} suite, {found['kinds']} kinds"

    column = Column(
        "mean_corruption_accuracy",
        FRACTION,
        run=mean,
        heading="Corrupted",
        meaning=MEANING,
        format=format_percent,
        detail=detail,
    )
    return [column] if known else []


def _read(run: Path) -> Mapping[str, Any] | None:
    """Return the mean with its interval, the suite and the number of corruptions; None if they cannot be read."""
    try:
        content = load_json(run / run_dir.ROBUST / run_dir.ROBUSTNESS)
        (network,) = content["networks"]
        found = network["mean_corruption_accuracy"]
        numbers = {name: float(found[name]) for name in ("value", "low", "high")}
        if not all(0 <= value <= 1 for value in numbers.values()):
            return None
        suite = "quick" if content["suite"] == "quick" else "full"
        return numbers | {"suite": suite, "kinds": len(content["corruptions"])}
    except (RunError, KeyError, TypeError, ValueError):
        return None
