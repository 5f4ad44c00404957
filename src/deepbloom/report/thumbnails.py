"""The test images of a group, found again through the settings of its runs: thumbnails, and what can be measured.

Nothing is downloaded. Images are shown only if their fingerprint is that of the data that the runs were tested on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from deepbloom.config.data_settings import DataConfig
from deepbloom.config.schema import from_dict
from deepbloom.data.label_check import LabelCheck
from deepbloom.errors import DeepBloomError, RunError
from deepbloom.report.evidence import Evidence, find_evidence, find_heatmaps, to_webp
from deepbloom.report.formatting import shorten
from deepbloom.report.groups import Group
from deepbloom.report.pages import Cell, Photo
from deepbloom.runs import folder as run_dir
from deepbloom.runs.parsing import read_text
from deepbloom.runs.reading import CompleteRun

if TYPE_CHECKING:
    from deepbloom.data.sources import ImageSource

SIDE, QUALITY = 96, 55
"""Longer side in pixels, and WebP quality, of a thumbnail: about 2 kB."""
SMALL_SIDE = 64
"""The same of an image that is named beside a test image."""
MAX_BYTES = 4_500_000
"""All thumbnails and heatmaps of a page, before base64. If this is not enough, the hardest images are shown."""
MEASURED_SIDE = 256
"""Longer side on which brightness and sharpness are measured, so that large images do not count as blurred."""

Facts = Mapping[str, float | str]


@dataclass(frozen=True)
class TestImages:
    """What is known of the images of a group, by image id."""

    thumbnails: Mapping[str, bytes] = field(default_factory=dict)
    """WebP."""
    facts: Mapping[str, Facts] = field(default_factory=dict)
    """Columns for slices: see `measure`."""
    class_names: Mapping[str, str] = field(default_factory=dict)
    """Of images that `evidence` names, where they are known."""
    labels: LabelCheck | None = None
    """Of the images of the group in their order, where its folds test all of them."""
    evidence: Evidence = field(default_factory=Evidence)
    """Thumbnails are of the images that it names, too."""
    problem: str = ""
    """Why there are no thumbnails."""
    are_wanted: bool = True
    """Whether the page may show images at all."""

    def show(self, image_id: str, place: int | None) -> Cell:
        """Return an image's cell, with its thumbnail if there is one; ``place`` is that of a test image."""
        name, thumbnail = shorten(image_id, 60), self.thumbnails.get(image_id, b"")
        if not thumbnail and place is None:
            return name
        return Photo(thumbnail, f"Image {name}" if thumbnail else "", name, place)


def load_test_images(group: Group, budget: int = MAX_BYTES, wanted: Sequence[str] = ()) -> TestImages:
    """Return thumbnails and facts of a group's test images; none with the reason where they cannot be read.

    Parameters
    ----------
    group : Group
    budget : int
        Bytes of all thumbnails and heatmaps.
    wanted : sequence of str
        Images that have a thumbnail in any case, a small one if there is no room.
    """
    from deepbloom.data.images import map_ahead
    from deepbloom.device import available_cores

    try:
        source = _find_source(group.runs)
        place_of = {image_id: place for place, image_id in enumerate(source.image_ids)}
        chosen = [image_id for image_id in _hardest_first(group) if image_id in place_of]
        sizes = np.bincount(source.targets, minlength=len(source.class_names))
        facts, thumbnails, used = dict[str, Facts](), dict[str, bytes](), 0

        def look(image_id: str) -> tuple[bytes, Facts]:
            place = place_of[image_id]
            image = source.read(place)
            class_size = {"images of the class": float(sizes[source.targets[place]])}
            return to_webp(image, (SIDE, SIDE), QUALITY), class_size | measure(image)

        for image_id, (thumbnail, found) in zip(chosen, map_ahead(look, chosen, available_cores()), strict=True):
            facts[image_id] = found
            used += len(thumbnail)
            if used <= budget:
                thumbnails[image_id] = thumbnail
        evidence = find_evidence(group, chosen, budget - sum(map(len, thumbnails.values())))
        others = [*wanted, *evidence.doubles, *evidence.others]
        named = [image_id for image_id in dict.fromkeys(others) if image_id in place_of and image_id not in thumbnails]
        small = map_ahead(
            lambda image_id: to_webp(source.read(place_of[image_id]), (SMALL_SIDE, SMALL_SIDE), QUALITY),
            named,
            available_cores(),
        )
        thumbnails |= dict(zip(named, small, strict=True))
        names = {name: source.class_names[source.targets[place_of[name]]] for name in others if name in place_of}
    except (DeepBloomError, OSError, ValueError) as error:
        return TestImages(evidence=Evidence(heatmaps=find_heatmaps(group, budget)), problem=str(error))
    return TestImages(thumbnails, facts, names, evidence=evidence)


def measure(image: Image.Image) -> dict[str, float]:
    """Return shorter side (pixels), aspect (width / height), brightness (mean luma, 0 to 255) and sharpness.

    Sharpness is the variance of the Laplacian (Pech-Pacheco et al. 2000, https://doi.org/10.1109/ICPR.2000.903548) at
    `MEASURED_SIDE` pixels.
    """
    from deepbloom.data.quality import laplacian

    gray = image.convert("L")
    gray.thumbnail((MEASURED_SIDE, MEASURED_SIDE))
    luma = np.asarray(gray, np.float64)
    edges = laplacian(luma)
    return {
        "shorter side": float(min(image.size)),
        "width / height": image.width / image.height,
        "brightness": float(luma.mean()),
        "sharpness": float(edges.var()) if edges.size else 0.0,
    }


def _hardest_first(group: Group) -> list[str]:
    errors = np.mean([1 - model.correct.mean(axis=0) for model in group.models], axis=0)
    image_ids = group.models[0].predictions[0].image_ids
    return [image_ids[place] for place in np.argsort(-errors, kind="stable")]


def _find_source(runs: Iterable[CompleteRun]) -> "ImageSource":
    """Return the images that the first run with readable settings was tested on."""
    from deepbloom.data.sources import find_source

    problem = "No run has a config.yaml that says where its images are."
    tried = list[DataConfig]()
    for run in runs:
        path = run.path / run_dir.CONFIG
        if not path.exists() or not isinstance(content := run_dir.load_settings(read_text(path)).get("data"), dict):
            continue
        config = from_dict(DataConfig, content, "data.")
        if config in tried:
            continue
        tried.append(config)
        source = find_source(config)
        if source is None:
            problem = f"Flowers102 is not in {config.root!r}."
            continue
        if source.fingerprint == run.metrics.dataset_fingerprint:
            return source
        problem = f"The images in {config.root!r} are not those that {run.name} was tested on."
    raise RunError(problem)
