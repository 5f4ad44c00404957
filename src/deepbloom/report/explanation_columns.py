"""The columns that ``deepbloom explain`` adds to the report, read from the explain.json of each run."""

from collections.abc import Mapping, Sequence
from typing import Any

from deepbloom.errors import RunError
from deepbloom.report.benchmark import Column
from deepbloom.report.model import Model
from deepbloom.runs import folder as run_dir
from deepbloom.runs.parsing import load_json
from deepbloom.runs.reading import CompleteRun

SHOWN = ("insertion_area", "deletion_area", "road_score", "energy_inside")
"""The others are in explain.json."""


def read_explanation(run: CompleteRun) -> dict[str, Any]:
    """Return what ``deepbloom explain`` wrote into a run directory; empty where it did not, or the file is damaged."""
    try:
        return load_json(run.path / run_dir.EXPLAIN / run_dir.EXPLANATION)
    except RunError:
        return {}


def read_means(content: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return ``mean``, ``low`` and ``high`` of each measure of the first method of an explain.json."""
    try:
        means: dict[str, dict[str, float]] = content["measures"][content["methods"][0]]
    except (KeyError, IndexError, TypeError):
        return {}
    return means


def raw_explanation(run: CompleteRun) -> dict[str, object]:
    """Return the columns of report.csv that ``deepbloom explain`` adds to a run's row."""
    return {f"explain_{name}": found["mean"] for name, found in read_means(read_explanation(run)).items()}


def explanation_columns(models: Sequence[Model]) -> tuple[Column, ...]:
    """Return the columns of the benchmark table for those measures that at least one model's runs have."""
    contents = {run.path: content for model in models for run in model.runs if (content := read_explanation(run))}
    known = {path: read_means(content) for path, content in contents.items()}
    described = {name: words for content in contents.values() for name, words in content.get("described", {}).items()}
    return tuple(
        Column(
            described[name]["title"][0].upper() + described[name]["title"][1:],
            f"{described[name]['meaning']} Of the default heatmaps, by deepbloom explain; in brackets the 95 % "
            "interval over images.",
            lambda model, name=name: _write_mean(model, known, name),  # type: ignore[misc]
            lambda model, name=name: _write_interval(model, known, name),  # type: ignore[misc]
        )
        for name in SHOWN
        if name in described and any(name in means for means in known.values())
    )


def _write_mean(model: Model, known: Mapping[Any, Any], name: str) -> str:
    value = model.mean(lambda run: known.get(run.path, {}).get(name, {}).get("mean"))
    return "–" if value is None else f"{value:.2f}"


def _write_interval(model: Model, known: Mapping[Any, Any], name: str) -> str:
    found = known.get(model.runs[0].path, {}).get(name)
    return f"[{found['low']:.2f}, {found['high']:.2f}]" if found and len(model.runs) == 1 else ""
