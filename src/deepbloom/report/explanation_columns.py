"""The columns that ``deepbloom explain`` adds to the report's benchmark table."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from deepbloom.explain.measures import MEASURES
from deepbloom.explain.summary import read_means
from deepbloom.report.benchmark import Column
from deepbloom.report.model import Model

SHOWN = ("insertion_area", "deletion_area", "road_score", "energy_inside")
"""The others are in explain.json."""


def explanation_columns(models: Sequence[Model]) -> tuple[Column, ...]:
    """Return the columns of the benchmark table for those measures that at least one model's runs know."""
    known = {run.path: found for model in models for run in model.runs if (found := read_means(run))}
    return tuple(
        Column(
            MEASURES[name].title[0].upper() + MEASURES[name].title[1:],
            f"{MEASURES[name].meaning} Of the default heatmaps, by deepbloom explain; in brackets the 95 % interval "
            "over images.",
            lambda model, name=name: _write_mean(model, known, name),  # type: ignore[misc]
            lambda model, name=name: _write_interval(model, known, name),  # type: ignore[misc]
        )
        for name in SHOWN
        if any(name in means for means in known.values())
    )


def _write_mean(model: Model, known: Mapping[Path, dict], name: str) -> str:
    value = model.mean(lambda run: known.get(run.path, {}).get(name, {}).get("mean"))
    return "–" if value is None else f"{value:.2f}"


def _write_interval(model: Model, known: Mapping[Path, dict], name: str) -> str:
    found = known.get(model.runs[0].path, {}).get(name)
    return f"[{found['low']:.2f}, {found['high']:.2f}]" if found and len(model.runs) == 1 else ""
