"""Heatmaps of test images: a small fixed sample, errors, and the most confident predictions of each class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from deepbloom.data.dataset import PreparedData, choose_images
from deepbloom.errors import RunError
from deepbloom.explain.cam import class_activation_maps
from deepbloom.explain.evaluate import read_inputs
from deepbloom.explain.figures import Tile, draw_gallery, encode, overlay
from deepbloom.explain.methods import METHODS
from deepbloom.explain.targets import Network
from deepbloom.metrics import softmax
from deepbloom.report.pages import Illustration
from deepbloom.runs import files as atomic_files
from deepbloom.runs import folder as run_dir
from deepbloom.runs.parsing import load_json

SAMPLE = 8
ERRORS = 24
"""Wrong predictions that get a heatmap, the most confident first."""
SAMPLE_SIDE = 320
"""Longer side in pixels of a heatmap of the sample."""
SHOWN = 2
"""Correct and wrong predictions per class."""
CLASSES_PER_FIGURE = 4


def quick_method(methods: Sequence[str]) -> str:
    """Return the first of the methods that is not slow, or Grad-CAM: galleries hold images of all classes."""
    return next((name for name in methods if not METHODS[name].is_slow), "gradcam")


def remove_old(folder: Path) -> None:
    """Remove the galleries of an earlier explanation in ``folder``, and the heatmaps that its explain.json names."""
    for path in (folder / "figures").glob("gallery_*.png"):
        path.unlink()
    heatmaps = folder / run_dir.HEATMAPS
    try:
        names = [str(entry["file"]) for entry in load_json(folder / run_dir.EXPLANATION)["heatmaps"]]
    except (RunError, KeyError, TypeError):
        return
    for path in (heatmaps / name for name in names):
        if path.suffix == ".png" and path.resolve().is_relative_to(heatmaps.resolve()):
            path.unlink(missing_ok=True)


def write_heatmaps(
    folder: Path, network: Network, data: PreparedData, logits: np.ndarray, method: str
) -> list[dict[str, object]]:
    """Write ``IMAGE_ID.png``, an image alone and under its heatmap, for some test images, and return an entry each.

    The first `SAMPLE` depend on the split alone, so that a report can show those of several runs side by side. The
    others are the network's most confident errors.
    """
    sample = choose_images(data, data.split.test, SAMPLE, data.split_fingerprint)
    probabilities = softmax(logits, network.temperature)
    errors = data.split.test[choose_errors(probabilities, data.source.targets[data.split.test])]
    chosen = np.concatenate([sample, errors[~np.isin(errors, sample)]])
    maps = _explain(network, data, chosen, method)
    probabilities = probabilities[np.searchsorted(data.split.test, chosen)]
    entries: list[dict[str, object]] = []
    for index, heatmap, scores in zip(chosen, maps, probabilities, strict=True):
        name = f"{data.source.image_ids[index]}.png"
        atomic_files.make_folder((folder / name).parent)
        image = _shrink(data.source.read(int(index)))
        drawn = _stand_beside(image, overlay(image, heatmap, fit=network.preprocessing.fit))
        atomic_files.write_bytes(folder / name, encode(drawn))
        entries.append(
            {
                "image_id": data.source.image_ids[index],
                "file": name,
                "class_name": network.classes[data.source.targets[index]],
                "prediction": network.classes[scores.argmax()],
                "confidence": round(float(scores.max()), 6),
            }
        )
    return entries


def write_galleries(
    folder: Path, network: Network, data: PreparedData, logits: np.ndarray, method: str
) -> list[Illustration]:
    """Write ``gallery_N.png``: the most confident correct and wrong predictions of each class."""
    probabilities = softmax(logits, network.temperature)
    targets = data.source.targets[data.split.test]
    present = np.unique(targets).tolist()
    figures = []
    for number, start in enumerate(range(0, len(present), CLASSES_PER_FIGURE), 1):
        shown = present[start : start + CLASSES_PER_FIGURE]
        rows = [row for target in shown for row in choose_predictions(probabilities, targets, target)]
        title = f"{network.label} · {METHODS[method].title}"
        tiles = _draw_tiles(network, data, probabilities, rows, method)
        figure = draw_gallery(tiles, title, columns=2 * SHOWN)
        path = folder / f"gallery_{number}.png"
        atomic_files.write_bytes(path, encode(figure))
        names = f"{network.classes[shown[0]]} to {network.classes[shown[-1]]}"
        figures.append(
            Illustration(
                path,
                f"Heatmaps of the most confident correct and wrong predictions, classes {names}.",
                f"{names}, two rows each: images, and their heatmaps by {METHODS[method].title}. Left, the most "
                "confident correct predictions; right and framed, the most confident wrong ones. Each "
                "shows the prediction with its probability, a wrong one the true class as well.",
                is_photo=True,
            )
        )
    return figures


def choose_errors(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return positions in the test split of up to `ERRORS` wrong predictions, by decreasing confidence.

    ``probabilities`` has shape (N, C), ``targets`` shape (N,).
    """
    wrong = np.flatnonzero(probabilities.argmax(1) != targets)
    return wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:ERRORS]


def choose_predictions(probabilities: np.ndarray, targets: np.ndarray, target: int) -> list[int | None]:
    """Return positions in the test split of a class's most confident predictions.

    First `SHOWN` correct ones, then as many wrong ones, by decreasing confidence; None stands for a missing one.

    ``probabilities`` has shape (N, C), ``targets`` shape (N,).
    """
    own = np.flatnonzero(targets == target)
    predictions, confidences = probabilities[own].argmax(1), probabilities[own].max(1)
    row: list[int | None] = []
    for wanted in (predictions == target, predictions != target):
        best = [int(place) for place in own[wanted][np.argsort(-confidences[wanted], kind="stable")][:SHOWN]]
        row += [*best, *[None] * (SHOWN - len(best))]
    return row


def _draw_tiles(
    network: Network, data: PreparedData, probabilities: np.ndarray, places: Sequence[int | None], method: str
) -> list[Tile | None]:
    known = [place for place in places if place is not None]
    indices = data.split.test[known]
    maps = _explain(network, data, indices, method)
    images, heatmaps = dict[int, Tile](), dict[int, Tile]()
    for place, index, heatmap in zip(known, indices, maps, strict=True):
        prediction, target = int(probabilities[place].argmax()), int(data.source.targets[index])
        image, wrong = _shrink(data.source.read(int(index))), prediction != target
        title = f"{network.classes[prediction]} · {100 * probabilities[place, prediction]:.0f} %"
        truth = f"is {network.classes[target]} · " if wrong else ""
        images[place] = Tile(image, None, title, f"{truth}{data.source.image_ids[index]}", wrong)
        heatmaps[place] = Tile(image, heatmap, wrong=wrong, fit=network.preprocessing.fit)
    tiles: list[Tile | None] = []
    for start in range(0, len(places), 2 * SHOWN):
        row = places[start : start + 2 * SHOWN]
        tiles += [None if place is None else shown[place] for shown in (images, heatmaps) for place in row]
    return tiles


def _explain(network: Network, data: PreparedData, indices: np.ndarray, method: str) -> np.ndarray:
    inputs = read_inputs(network, data, indices)
    return class_activation_maps(network.model, inputs, network.layers, None, method).maps.cpu().numpy()


def _stand_beside(left: Image.Image, right: Image.Image) -> Image.Image:
    pair = Image.new("RGB", (left.width + right.width, right.height))
    pair.paste(left)
    pair.paste(right, (left.width, 0))
    return pair


def _shrink(image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail((SAMPLE_SIDE, SAMPLE_SIDE))
    return small
