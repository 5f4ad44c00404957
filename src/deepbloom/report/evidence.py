"""What the page shows beside a test image: heatmaps, the most similar training images, near-duplicates."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from deepbloom.errors import DeepBloomError
from deepbloom.report.explanations import list_heatmaps
from deepbloom.report.groups import Group
from deepbloom.runs import files
from deepbloom.runs import folder as run_dir
from deepbloom.runs.reading import CompleteRun

NEAREST = 3
"""Training images that are named."""
MAX_EXPLAINED = 100
"""Test images that get them, the hardest first."""
HEATMAP_SIZE, HEATMAP_QUALITY = (400, 200), 70


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
    heatmaps : mapping of str to (str, bytes)
        The model, and its heatmap as WebP.
    """

    source: str = ""
    nearest: Mapping[str, Sequence[tuple[str, int, float]]] = field(default_factory=dict)
    doubles: Mapping[str, str] = field(default_factory=dict)
    heatmaps: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)

    @property
    def others(self) -> list[str]:
        """The images that it names."""
        near = (image_id for found in self.nearest.values() for image_id, _, _ in found)
        return list(dict.fromkeys([*self.doubles.values(), *near]))


def find_evidence(group: Group, chosen: Sequence[str]) -> Evidence:
    """Return the evidence for a group's test images; ``chosen`` ones get similar training images."""
    doubles: dict[str, str] = {}
    for run in group.runs:
        doubles |= dict(run.metrics.audit.examples if run.metrics.audit else ())
    source, nearest = "", dict[str, list[tuple[str, int, float]]]()
    for model in group.models:
        for run in model.runs:
            if not nearest and (nearest := find_nearest(run, chosen[:MAX_EXPLAINED])):
                source = model.name_of(run)
    return Evidence(source, nearest, doubles, _find_heatmaps(group))


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


def _find_heatmaps(group: Group) -> dict[str, tuple[str, bytes]]:
    found: dict[str, tuple[str, bytes]] = {}
    for model in group.models:
        for run in model.runs:
            for image_id, path in list_heatmaps(run.path / run_dir.EXPLAIN / run_dir.HEATMAPS).items():
                if image_id not in found:
                    found[image_id] = (model.name_of(run), _shrink(path))
    return found


def _shrink(path: Path) -> bytes:
    with Image.open(path) as image:
        return to_webp(image.convert("RGB"), HEATMAP_SIZE, HEATMAP_QUALITY)


def to_webp(image: Image.Image, size: tuple[int, int], quality: int) -> bytes:
    """Return an image as WebP, shrunk to fit into ``size``."""
    small = image.copy()
    small.thumbnail(size)
    content = io.BytesIO()
    small.save(content, "webp", quality=quality)
    return content.getvalue()
