"""Measurements by ``deepbloom export`` and ``deepbloom compress`` of files made from the runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepbloom.errors import RunError
from deepbloom.report.formatting import format_bytes, format_milliseconds, format_percent, format_points
from deepbloom.report.groups import Group
from deepbloom.report.pages import Badge, PageTable, Section
from deepbloom.runs import folder as run_dir
from deepbloom.runs.parsing import load_json
from deepbloom.runs.reading import CompleteRun

Exported = Mapping[Path, Sequence[tuple[Any, ...]]]
"""Rows of the table by run."""
HEADINGS = ("Network", "File", "", "Accuracy", "Difference", "Changed", "Size", "Latency", "Smaller or faster")
CAPTION = (
    "Files made from these networks, compared with their checkpoint on the whole test split. Differences are in "
    "percentage points, paired over the same images. In brackets the size and the latency (median, one image, same "
    "process) of the checkpoint under torch."
)


def find_exported(folder: Path, runs: Sequence[CompleteRun]) -> Exported:
    """Return a row for each export.json and compress.json in the folder whose checkpoint is one of the runs."""
    own = {run.path.resolve(): run.path for run in runs}
    found: dict[Path, list[tuple[Any, ...]]] = {}
    for path in sorted([*folder.rglob(run_dir.EXPORTED), *folder.rglob(run_dir.COMPRESSED)]):
        try:
            content = load_json(path)
            run = own.get(Path(str(content["checkpoint"])).resolve().parent)
            if run:
                found.setdefault(run, []).append(_row(content))
        except (RunError, KeyError, TypeError, ValueError):
            continue
    return found


def _row(found: Mapping[str, Any]) -> tuple[Any, ...]:
    smaller = float(found["size_bytes"]) < float(found["checkpoint_bytes"])
    faster = float(found["latency_ms"]) < float(found["torch_latency_ms"])
    gains = " and ".join(["smaller"] * smaller + ["faster"] * faster)
    interval = f"[{100 * float(found['low']):.1f}, {100 * float(found['high']):.1f}]"
    span = f"[{format_points(float(found['difference_low']))}, {format_points(float(found['difference_high']))}]"
    return (
        str(found["method"]) if "method" in found else f"{found['format']} {found['precision']}",
        Badge("agrees", "good") if found["verified"] is True else Badge("disagrees", "bad"),
        f"{format_percent(float(found['accuracy']))}\n{interval}",
        f"{format_points(float(found['difference']))}\n{span}",
        f"{int(found['changed'])} of {int(found['count'])}",
        f"{format_bytes(float(found['size_bytes']))}\n[{format_bytes(float(found['checkpoint_bytes']))}]",
        f"{format_milliseconds(float(found['latency_ms']))}\n[{format_milliseconds(float(found['torch_latency_ms']))}]",
        gains or "neither",
    )


def describe_exported(group: Group, known: Exported) -> list[Section]:
    """Return the section of a group's exported and compressed files; none if there are none."""
    rows = [
        (model.name_of(run), *row) for model in group.models for run in model.runs for row in known.get(run.path, [])
    ]
    if not rows:
        return []
    table = PageTable(HEADINGS, rows, CAPTION, words=frozenset({1, 2, 8}))
    return [Section("Exported and compressed files", tables=[table])]
