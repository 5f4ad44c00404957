"""Heatmaps of the same pictures by several models, from what ``deepbloom explain`` left in run directories."""

from dataclasses import dataclass
from pathlib import Path

from deepbloom.analysis.compare import Model, Table

FOLDER = Path("explain", "heatmaps")
MAX_PICTURES = 6
MAX_MODELS = 6
MAX_BYTES = 2_000_000
"""Larger files are left out: each is embedded in the page."""
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Heatmap:
    """One picture seen by one model.

    Attributes
    ----------
    path : Path or None
        The PNG; None where the model's run has none of this picture.
    model, image_id : str
    verdict : str
        ``right``, ``wrong: taken for CLASS``, or empty where the picture was not tested.
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
    """One picture, a heatmap per model."""

    image_id: str
    class_name: str
    heatmaps: tuple[Heatmap, ...]


def find_heatmaps(table: Table) -> list[HeatmapRow]:
    """Return up to `MAX_PICTURES` pictures by up to `MAX_MODELS` models, those shown by most models first."""
    by_model: list[tuple[Model, dict[str, Path]]] = []
    for model in table.models:
        files = next((found for run in model.runs if (found := _list_pictures(run.path / FOLDER))), None)
        if files:
            by_model.append((model, files))
    by_model = by_model[:MAX_MODELS]
    ids = {image_id for _, files in by_model for image_id in files}
    chosen = sorted(ids, key=lambda image_id: (-sum(image_id in files for _, files in by_model), image_id))
    return [_make_row(table, image_id, by_model) for image_id in chosen[:MAX_PICTURES]]


def _list_pictures(folder: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(folder.rglob("*.png")):
        with open(path, "rb") as file:
            whole = file.read(len(PNG)) == PNG and path.stat().st_size <= MAX_BYTES
        if whole:
            found[path.relative_to(folder).as_posix().removesuffix(".png")] = path
    return found


def _make_row(table: Table, image_id: str, by_model: list[tuple[Model, dict[str, Path]]]) -> HeatmapRow:
    target, heatmaps = "", []
    for model, files in by_model:
        answers = model.answers[0]
        verdict = ""
        if image_id in answers.image_ids:
            place = answers.image_ids.index(image_id)
            target = table.class_names[answers.targets[place]]
            answer = table.class_names[answers.answers[place]]
            verdict = "right" if answer == target else f"wrong: taken for {answer}"
        heatmaps.append(Heatmap(files.get(image_id), model.label, image_id, verdict))
    return HeatmapRow(image_id, target, tuple(heatmaps))
