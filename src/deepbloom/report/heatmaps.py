"""Heatmaps of the same images by several models, from what ``deepbloom explain`` left in run directories."""

from dataclasses import dataclass
from pathlib import Path

from deepbloom.report.compare import Table
from deepbloom.report.model import Model
from deepbloom.runs import folder as run_dir
from deepbloom.runs.reading import CompleteRun

FOLDER = Path(run_dir.EXPLAIN, run_dir.HEATMAPS)
MAX_IMAGES = 6
MAX_MODELS = 6
MAX_BYTES = 2_000_000
"""Larger files are left out: each is embedded in the page."""
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Heatmap:
    """One image seen by one model.

    Attributes
    ----------
    path : Path or None
        The PNG; None where the model's run has none of this image.
    model : str
        With seed and fold, where there are several runs.
    image_id : str
    verdict : str
        That run's answer: ``right``, ``wrong: taken for CLASS``, or empty where it did not test the image.
    """

    path: Path | None
    model: str
    image_id: str
    verdict: str

    @property
    def alt(self) -> str:
        """What it shows, for those who cannot see it."""
        return f"Where {self.model} looks in {self.image_id}" + (f" ({self.verdict})" if self.verdict else "")


@dataclass(frozen=True)
class HeatmapRow:
    """One image, a heatmap per model."""

    image_id: str
    class_name: str
    heatmaps: tuple[Heatmap, ...]


def find_heatmaps(table: Table) -> list[HeatmapRow]:
    """Return up to `MAX_IMAGES` images by up to `MAX_MODELS` models, those shown by most models first."""
    shown = [view for model in table.models if (view := _find_view(model))][:MAX_MODELS]
    ids = {image_id for view in shown for image_id in view.files}
    chosen = sorted(ids, key=lambda image_id: (-sum(image_id in view.files for view in shown), image_id))
    return [_make_row(table, image_id, shown) for image_id in chosen[:MAX_IMAGES]]


@dataclass(frozen=True)
class _View:
    """The first run of a model that has heatmaps, and these by image."""

    name: str
    run: CompleteRun
    files: dict[str, Path]


def _find_view(model: Model) -> _View | None:
    for run in model.runs:
        if files := _list_images(run.path / FOLDER):
            fold = f", fold {run.metrics.fold}" if run.metrics.folds else ""
            which = f", seed {run.metrics.seed}{fold}" if len(model.runs) > 1 else ""
            return _View(f"{model.label}{which}", run, files)
    return None


def _list_images(folder: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(folder.rglob("*.png")):
        with open(path, "rb") as file:
            whole = file.read(len(PNG)) == PNG and path.stat().st_size <= MAX_BYTES
        if whole:
            found[path.relative_to(folder).as_posix().removesuffix(".png")] = path
    return found


def _make_row(table: Table, image_id: str, shown: list[_View]) -> HeatmapRow:
    target, heatmaps = "", []
    for view in shown:
        predictions = view.run.predictions
        verdict = ""
        if image_id in predictions.image_ids:
            place = predictions.image_ids.index(image_id)
            target = table.class_names[predictions.targets[place]]
            answer = table.class_names[predictions.answers[place]]
            verdict = "right" if answer == target else f"wrong: taken for {answer}"
        heatmaps.append(Heatmap(view.files.get(image_id), view.name, image_id, verdict))
    return HeatmapRow(image_id, target, tuple(heatmaps))
