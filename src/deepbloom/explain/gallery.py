"""Heatmaps of test images for people: a fixed small sample, and the most confident answers of every class."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from deepbloom.commands.outputs import softmax
from deepbloom.data.dataset import PreparedData
from deepbloom.errors import RunError
from deepbloom.explain.cam import METHODS, class_activation_maps
from deepbloom.explain.figures import Tile, draw_gallery, overlay
from deepbloom.explain.networks import Network
from deepbloom.explain.summary import RESULTS
from deepbloom.report.illustrations import Illustration
from deepbloom.runs import files as atomic_files
from deepbloom.runs.parsing import load_json
from deepbloom.sweeps.study import choose_images, read_inputs

SAMPLE = 8
SAMPLE_SIDE = 320
"""Longest side in pixels of a heatmap of the sample."""
ANSWERS = 2
"""Right and wrong answers of each class, the most confident ones."""
CLASSES_PER_FIGURE = 8


def quick_method(methods: Sequence[str]) -> str:
    """Return the first of the methods that needs few passes, or Grad-CAM: galleries hold images of every class."""
    return next((name for name in methods if METHODS[name].needs != "probe"), "gradcam")


def remove_old(folder: Path) -> None:
    """Remove the galleries of an earlier explanation in ``folder``, and the heatmaps that its explain.json names."""
    for path in (folder / "figures").glob("gallery_*.png"):
        path.unlink()
    heatmaps = folder / "heatmaps"
    try:
        names = [str(entry["file"]) for entry in load_json(folder / RESULTS)["heatmaps"]]
    except (RunError, KeyError, TypeError):
        return
    for path in (heatmaps / name for name in names):
        if path.suffix == ".png" and path.resolve().is_relative_to(heatmaps.resolve()):
            path.unlink(missing_ok=True)


def write_heatmaps(
    folder: Path, network: Network, data: PreparedData, logits: np.ndarray, method: str
) -> list[dict[str, object]]:
    """Write ``IMAGE_ID.png``, an image under its heatmap, for test images that the split alone chooses.

    Runs of one split therefore have the same images, and can be shown side by side.

    Returns
    -------
    list of dict
        ``image_id``, ``file`` (below ``folder``), ``class_name``, ``prediction`` and ``confidence`` of each.
    """
    chosen = choose_images(data, data.split.test, SAMPLE, data.split_fingerprint)
    maps = class_activation_maps(network.model, read_inputs(network, data, chosen), network.layers, None, method).maps
    places = np.searchsorted(data.split.test, chosen)
    probabilities = softmax(logits)[places]
    entries: list[dict[str, object]] = []
    for index, heatmap, scores in zip(chosen, maps.cpu().numpy(), probabilities, strict=True):
        name = f"{data.source.image_ids[index]}.png"
        atomic_files.make_folder((folder / name).parent)
        atomic_files.write_bytes(folder / name, _encode(overlay(_shrink(data.source.read(int(index))), heatmap)))
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
    """Write ``gallery_N.png``: for every class the most confident right answers, and the most confident wrong ones."""
    probabilities = softmax(logits)
    targets = data.source.targets[data.split.test]
    present = [number for number in range(len(network.classes)) if (targets == number).any()]
    figures = []
    for number, start in enumerate(range(0, len(present), CLASSES_PER_FIGURE), 1):
        shown = present[start : start + CLASSES_PER_FIGURE]
        rows = [row for target in shown for row in choose_answers(probabilities, targets, target)]
        tiles = _draw_tiles(network, data, probabilities, rows, method)
        figure = draw_gallery(tiles, columns=2 * ANSWERS)
        path = folder / f"gallery_{number}.png"
        atomic_files.write_bytes(path, _encode(figure))
        names = f"{network.classes[shown[0]]} to {network.classes[shown[-1]]}"
        figures.append(
            Illustration(
                path,
                f"Heatmaps of the most confident right and wrong answers, classes {names}.",
                f"{names}, a row each, by {METHODS[method].title}. Left, the right answers that the network is surest "
                "of; right, framed, the wrong ones. Above each: the answer and its probability, and where it is wrong "
                "the true class.",
            )
        )
    return figures


def choose_answers(probabilities: np.ndarray, targets: np.ndarray, target: int) -> list[int | None]:
    """Return places in the test part of the surest answers to a class's images.

    First the right ones, then the wrong ones, the surest first, each side filled up with None to `ANSWERS`.

    Parameters
    ----------
    probabilities : ndarray of float, shape (N, C)
    targets : ndarray of int64, shape (N,)
    target : int
    """
    own = np.flatnonzero(targets == target)
    answers, confidences = probabilities[own].argmax(1), probabilities[own].max(1)
    row: list[int | None] = []
    for wanted in (answers == target, answers != target):
        best = [int(place) for place in own[wanted][np.argsort(-confidences[wanted], kind="stable")][:ANSWERS]]
        row += [*best, *[None] * (ANSWERS - len(best))]
    return row


def _draw_tiles(
    network: Network, data: PreparedData, probabilities: np.ndarray, places: Sequence[int | None], method: str
) -> list[Tile | None]:
    known = [place for place in places if place is not None]
    indices = data.split.test[known]
    maps = class_activation_maps(network.model, read_inputs(network, data, indices), network.layers, None, method).maps
    drawn = {}
    for place, index, heatmap in zip(known, indices, maps.cpu().numpy(), strict=True):
        answer, target = int(probabilities[place].argmax()), int(data.source.targets[index])
        drawn[place] = Tile(
            _shrink(data.source.read(int(index))),
            heatmap,
            f"{network.classes[answer]} · {100 * probabilities[place, answer]:.0f} %",
            "" if answer == target else f"is {network.classes[target]}",
            wrong=answer != target,
        )
    return [None if place is None else drawn[place] for place in places]


def _shrink(image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail((SAMPLE_SIDE, SAMPLE_SIDE))
    return small


def _encode(drawing: Figure | Image.Image) -> bytes:
    content = io.BytesIO()
    if isinstance(drawing, Figure):
        drawing.savefig(content, format="png")
    else:
        drawing.save(content, "PNG")
    return content.getvalue()
