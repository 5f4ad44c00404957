"""The report shows files that were exported from its runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepbloom.report.exported import find_exported
from deepbloom.report.report import write_report
from deepbloom.runs.reading import CompleteRun, find_runs

FOUND = {
    "format": "onnx",
    "precision": "int8",
    "verified": True,
    "size_bytes": 4_000_000,
    "checkpoint_bytes": 14_000_000,
    "latency_ms": 9.0,
    "torch_latency_ms": 8.0,
    "accuracy": 0.75,
    "low": 0.7,
    "high": 0.8,
    "difference": -0.01,
    "difference_low": -0.02,
    "difference_high": 0.0,
    "changed": 3,
    "count": 40,
}


def write(run: Path, name: str = "export.json", **changes: Any) -> None:
    folder = run / "export-onnx-int8"
    folder.mkdir(exist_ok=True)
    content = FOUND | {"checkpoint": str(run / "model.safetensors")} | changes
    (folder / name).write_text(json.dumps(content), "utf-8")


def rows(folder: Path) -> list[tuple[Any, ...]]:
    runs = [run for run in find_runs(folder) if isinstance(run, CompleteRun)]
    return [row for found in find_exported(folder, runs).values() for row in found]


def test_a_file_is_a_row_that_says_what_it_gains(make_run: Callable[..., Path]) -> None:
    run = make_run("scratch_cnn")
    write(run)
    write(run, "compress.json", method="prune", verified=False, size_bytes=20_000_000)
    second, first = rows(run.parent)  # sorted by path
    assert (first[0], first[1].text, first[-1]) == ("onnx int8", "agrees", "smaller")
    assert (second[0], second[1].text, second[-1]) == ("prune", "disagrees", "neither")
    write_report(run.parent, run.parent / "report")
    page = (run.parent / "report" / "report.html").read_text("utf-8")
    assert "Exported and compressed files" in page


@pytest.mark.parametrize(
    "changes", [{"checkpoint": "elsewhere/model.safetensors"}, {"accuracy": "high"}, {"size_bytes": None}], ids=str
)
def test_files_of_other_runs_and_damaged_ones_are_left_out(changes: dict[str, Any], make_run: Callable[..., Path]):
    run = make_run("scratch_cnn")
    write(run, **changes)
    assert rows(run.parent) == []
