"""What ``deepbloom explain`` left in run directories: columns with its measures, and heatmaps side by side."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from deepbloom.errors import RunError
from deepbloom.report.columns import Column
from deepbloom.report.evidence import list_heatmaps, read_heatmap
from deepbloom.report.formatting import shorten
from deepbloom.report.groups import Group
from deepbloom.report.models import Model
from deepbloom.report.pages import Cell, PageTable, Photo
from deepbloom.runs import folder as run_dir
from deepbloom.runs.parsing import FRACTION, load_json
from deepbloom.runs.reading import CompleteRun

SHOWN = ("insertion_area", "deletion_area", "road_score", "energy_inside")
"""Measures in the benchmark table; report.csv has all."""
MAX_IMAGES = 6
MAX_MODELS = 6
SIZE = (480, 240)
"""Pixels, twice as many as the page shows side by side."""
CAPTION = (
    "From deepbloom explain, for one run of each model, with the prediction of that run; report.html shows them. A "
    "model that is correct because of the background is correct by luck: look for maps that leave the object. At most "
    f"{MAX_IMAGES} images and {MAX_MODELS} models are shown."
)
Means = Mapping[str, Mapping[str, float]]


def explanation_columns(runs: Sequence[CompleteRun]) -> list[Column]:
    """Return a column for each measure that at least one run has."""
    known: dict[Path, Means] = {}
    described: dict[str, Mapping[str, str]] = {}
    for run in runs:
        try:
            content = load_json(run.path / run_dir.EXPLAIN / run_dir.EXPLANATION)
            means = _numbers(content["measures"][content["methods"][0]])
            described |= {
                str(name): {key: str(words[key]) for key in ("title", "meaning")}
                for name, words in content["described"].items()
            }
            known[run.path] = means
        except (RunError, AttributeError, KeyError, IndexError, TypeError, ValueError):
            continue
    names = dict.fromkeys(name for means in known.values() for name in means)
    return [_column(name, known, described[name]) for name in sorted(names, key=_place) if name in described]


def _numbers(measures: Mapping[str, Mapping[str, object]]) -> Means:
    """Return mean, low and high of each measure that has all three."""
    found = {name: {key: values[key] for key in ("mean", "low", "high")} for name, values in measures.items()}
    return {name: {k: float(str(v)) for k, v in of.items()} for name, of in found.items() if None not in of.values()}


def _place(name: str) -> int:
    return SHOWN.index(name) if name in SHOWN else len(SHOWN)


def _column(name: str, known: Mapping[Path, Means], words: Mapping[str, str]) -> Column:
    def detail(model: Model) -> str:
        found = known.get(model.runs[0].path, {}).get(name)
        return f"[{found['low']:.2f}, {found['high']:.2f}]" if found and len(model.runs) == 1 else ""

    def mean(run: CompleteRun) -> float | None:
        return known.get(run.path, {}).get(name, {}).get("mean")

    return Column(
        f"explain_{name}",
        FRACTION,
        run=mean,
        heading=words["title"][:1].upper() + words["title"][1:] if name in SHOWN else "",
        meaning=f"{words['meaning']} For the default heatmaps of deepbloom explain; in brackets the 95 % interval over "
        "images.",
        format="{:.2f}".format,
        detail=detail,
        optional=3,
    )


class _View(NamedTuple):
    """The first run of a model that has heatmaps, and these by image."""

    name: str
    run: CompleteRun
    files: Mapping[str, Path]


def heatmap_table(group: Group) -> PageTable | None:
    """Return up to `MAX_IMAGES` images by up to `MAX_MODELS` models, those that most models have first; None if none.

    Below each heatmap is the prediction of the run that it was made for.
    """
    views = [view for model in group.models if (view := _find_view(model))][:MAX_MODELS]
    counts = Counter(image_id for view in views for image_id in view.files)
    chosen = sorted(counts, key=lambda image_id: (-counts[image_id], image_id))[:MAX_IMAGES]
    if not chosen:
        return None
    headings = ["Image", *(shorten(view.name, 80) for view in views)]
    rows = [_row(group, image_id, views) for image_id in chosen]
    return PageTable(headings, rows, CAPTION, frozenset(range(len(headings))), look="heatmaps")


def _find_view(model: Model) -> _View | None:
    for run in model.runs:
        if files := list_heatmaps(run):
            return _View(model.name_of(run), run, files)
    return None


def _row(group: Group, image_id: str, views: Sequence[_View]) -> list[Cell]:
    target, cells = "", list[Cell]()
    for view in views:
        predictions, verdict = view.run.predictions, ""
        if image_id in predictions.image_ids:
            place = predictions.image_ids.index(image_id)
            target = group.class_names[predictions.targets[place]]
            predicted = group.class_names[predictions.predicted[place]]
            verdict = "correct" if predicted == target else f"confused with {shorten(predicted)}"
        alt = f"Where {view.name} looks in {image_id}" + (f" ({verdict})" if verdict else "")
        heatmap = read_heatmap(view.files[image_id], SIZE) if image_id in view.files else b""
        cells.append(Photo(heatmap, shorten(alt, 200), verdict))
    return ["\n".join([shorten(image_id, 60), *([shorten(target)] if target else [])]), *cells]
