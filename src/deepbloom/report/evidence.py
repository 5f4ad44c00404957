"""What the page shows beside a test image: heatmaps, the most similar training images, near-duplicates."""

import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from deepbloom.errors import DeepBloomError
from deepbloom.report.groups import Group
from deepbloom.runs import files
from deepbloom.runs import folder as run_dir
from deepbloom.runs.reading import CompleteRun

NEAREST = 3
"""Training images that are named."""
MAX_EXPLAINED = 100
"""Test images that get them, the hardest first."""
HEATMAP_SIZE, HEATMAP_QUALITY = (400, 200), 70
MAX_HEATMAP_BYTES = 2_000_000
"""Larger files are no heatmaps of ``deepbloom explain``."""
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Evidence:
    """What is known besides the predictions, by test image.

    Attributes
    ----------
    source : str
        The model that found the similar images.
    nearest : mapping of str to sequence of (str, int, float)
        The most similar training images, their classes, and cosine similarities.
    doubles : mapping of str to str
        A near-duplicate in training or validation.
    heatmaps : mapping of str to mapping of str to bytes
        The image and its heatmap side by side, as WebP, by the seed of a model that they are of.
    """

    source: str = ""
    nearest: Mapping[str, Sequence[tuple[str, int, float]]] = field(default_factory=dict)
    doubles: Mapping[str, str] = field(default_factory=dict)
    heatmaps: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)

    @property
    def others(self) -> list[str]:
        """The images that it names."""
        near = (image_id for found in self.nearest.values() for image_id, _, _ in found)
        return list(dict.fromkeys([*self.doubles.values(), *near]))


def find_evidence(group: Group, chosen: Sequence[str], budget: int) -> Evidence:
    """Return the evidence for a group's test images; ``chosen`` ones get similar training images.

    ``budget`` is the number of bytes of all heatmaps.
    """
    source, nearest = "", dict[str, list[tuple[str, int, float]]]()
    for model in group.models:
        for run in model.runs:
            if not nearest and (nearest := find_nearest(run, chosen[:MAX_EXPLAINED])):
                source = model.name_of(run)
    return Evidence(source, nearest, dict(_named_pairs(group)), find_heatmaps(group, budget))


def near_duplicates(group: Group) -> list[tuple[str, str]]:
    """Return the near-duplicates in two splits that the runs name, a test image first; each pair once."""
    return list({frozenset(pair): pair for pair in _named_pairs(group)}.values())


def _named_pairs(group: Group) -> list[tuple[str, str]]:
    return [pair for run in group.runs for pair in (run.metrics.audit.examples if run.metrics.audit else ())]


def find_nearest(run: CompleteRun, chosen: Iterable[str]) -> dict[str, list[tuple[str, int, float]]]:
    """Return the `NEAREST` training images of test images with their classes and similarities; none where unknown."""
    from deepbloom.engine.training_images import read_training_images

    embeddings = (files.read_arrays(run.path / run_dir.PROBABILITIES) or {}).get("embeddings")
    header = {"run_id": run_dir.read_provenance(run.path).get("run_id"), "classes": run.metrics.class_names}
    try:
        training = read_training_images(run.path, header)
    except DeepBloomError:
        return {}
    rows = dict(zip(run.predictions.image_ids, run.predictions.rows.tolist(), strict=True))
    wanted = [image_id for image_id in chosen if image_id in rows]
    if training is None or embeddings is None or not wanted or embeddings.shape[1:] != training.embeddings.shape[1:]:
        return {}
    similarities, places = training.nearest(embeddings[[rows[image_id] for image_id in wanted]], NEAREST)
    return {
        image_id: [
            (training.image_ids[place], int(training.targets[place]), float(similarity))
            for place, similarity in zip(found, scores, strict=True)
        ]
        for image_id, found, scores in zip(wanted, places.tolist(), similarities.tolist(), strict=True)
    }


def find_heatmaps(group: Group, budget: int) -> dict[str, dict[str, bytes]]:
    """Return heatmaps by image and seed of a model, up to ``budget`` bytes, those of the most accurate models first."""
    found: dict[str, dict[str, bytes]] = defaultdict(dict)
    for model in group.models:
        for run in model.runs:
            for image_id, path in list_heatmaps(run).items():
                heatmap = read_heatmap(path, HEATMAP_SIZE)
                budget -= len(heatmap)
                if budget < 0:
                    return dict(found)
                if heatmap:
                    found[image_id][model.seed_name_of(run)] = heatmap
    return dict(found)


def list_heatmaps(run: CompleteRun) -> dict[str, Path]:
    """Return the heatmaps that ``deepbloom explain`` wrote into a run directory, by image."""
    found, folder = {}, run.path / run_dir.EXPLAIN / run_dir.HEATMAPS
    for path in sorted(filter(Path.is_file, folder.rglob("*.png"))):
        with open(path, "rb") as file:
            usable = file.read(len(PNG)) == PNG and path.stat().st_size <= MAX_HEATMAP_BYTES
        if usable:
            found[path.relative_to(folder).as_posix().removesuffix(".png")] = path
    return found


def read_heatmap(path: Path, size: tuple[int, int]) -> bytes:
    """Return a heatmap as WebP, shrunk to fit into ``size``; nothing if the file is damaged."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return to_webp(image.convert("RGB"), size, HEATMAP_QUALITY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return b""


def to_webp(image: Image.Image, size: tuple[int, int], quality: int) -> bytes:
    """Return an image as WebP, shrunk to fit into ``size``."""
    small = image.copy()
    small.thumbnail(size)
    content = io.BytesIO()
    small.save(content, "webp", quality=quality)
    return content.getvalue()
