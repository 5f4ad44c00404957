"""Predictions and heatmaps for one uploaded image, as plain values that the page shows."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from deepbloom.calibration.rejection import NONE
from deepbloom.data.images import decode
from deepbloom.data.preprocessing import place_map, resize, to_inputs
from deepbloom.data.sources import ImageSource
from deepbloom.engine.checkpoint import Trained
from deepbloom.engine.judge import Judge
from deepbloom.engine.predictor import Predictor
from deepbloom.engine.trained_data import find_trained_images
from deepbloom.errors import ConfigError, DataError, unknown
from deepbloom.explain.cam import class_activation_maps
from deepbloom.explain.figures import Tile, color_map, draw_gallery, encode
from deepbloom.explain.methods import METHODS
from deepbloom.export.opening import find_file, open_predictor
from deepbloom.metrics import best_guesses, softmax
from deepbloom.models.registry import get_architecture

PREDICTED = "predicted"
EVIDENCE = 4
"""Training images that stand beside a prediction."""
MAX_SHOWN_SIDE = 1024
"""Longer side of the image that the page shows, in pixels."""
EVIDENCE_SIDE = 160
JPEG_QUALITY = 88


@dataclass(frozen=True)
class Network:
    """A trained network and its name on the page."""

    name: str
    """Of its run."""
    trained: Predictor
    judge: Judge
    images: ImageSource | None
    """Those that it was trained on, where they are on this machine."""

    @property
    def has_heatmaps(self) -> bool:
        """Whether its gradients can be had: an exported file has none."""
        return isinstance(self.trained, Trained)


def load_networks(checkpoints: Sequence[str], device: str) -> list[Network]:
    """Load the networks of run directories, model files or exported files, named as their run or after its folder.

    Raises
    ------
    CheckpointError
        A checkpoint cannot be read.
    """
    networks = []
    for checkpoint in checkpoints:
        trained = open_predictor(checkpoint, device)
        judge = Judge.as_shown(checkpoint, trained, EVIDENCE)
        images = find_trained_images(trained.header) if judge.training else None
        name = trained.header.get("name") or find_file(checkpoint).resolve().parent.name
        networks.append(Network(name, trained, judge, images))
    return networks


def class_names(networks: Sequence[Network]) -> list[str]:
    """Return the classes that at least one network knows, sorted."""
    return sorted({name for network in networks for name in network.trained.classes})


def predict_image(content: bytes, networks: Sequence[Network], method: str, target: str = PREDICTED) -> dict[str, Any]:
    """Return the upright image with each network's five best classes and heatmap.

    Parameters
    ----------
    content : bytes
        An image file.
    networks : sequence of Network
    method : str
        A name in `METHODS`.
    target : str
        The class that the heatmap explains, or ``predicted``.

    Returns
    -------
    dict
        ``image`` (a ``data:`` URL), ``width``, ``height``, ``color`` (the mean color), and ``networks``, one dict each:
        ``name``, ``model``; ``top5`` as in predictions.json; ``reason``, why it is none of these, or empty; ``target``
        and ``target_confidence``, the explained class and its probability; ``heatmap`` (a ``data:`` URL);
        ``evidence``, the training images most like it, with ``image`` (a ``data:`` URL, or None where it is not here).
        Confidence and heatmap are None where the network does not know the class; an exported file has no heatmap.

    Raises
    ------
    DataError
        The bytes are not an image.
    ConfigError
        No network knows the class, or the method is unknown.
    """
    image = _read(content, networks, method, target)
    predictions = [_predict(network, image, method, target) for network in networks]
    size, color = image.size, image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    assert isinstance(color, tuple)
    shown = _shrink(image, MAX_SHOWN_SIDE)
    for network, prediction in zip(networks, predictions, strict=True):
        if prediction["heatmap"] is not None:
            placed = _fill(prediction["heatmap"], shown.size, network.trained.preprocessing.fit)
            prediction["heatmap"] = _data_url(color_map(placed), "png")
        for found in prediction["evidence"]:
            found["image"] = _show_training_image(network, found["image_id"])
    return {
        "image": _data_url(shown, "jpeg"),
        "width": size[0],
        "height": size[1],
        "color": "#{:02x}{:02x}{:02x}".format(*color),
        "networks": predictions,
    }


def draw_result(content: bytes, networks: Sequence[Network], method: str, target: str, name: str) -> bytes:
    """Return what `predict_image` tells as one PNG file; ``name`` is the image's.

    Raises
    ------
    DataError, ConfigError
        As `predict_image`.
    """
    image = _read(content, networks, method, target)
    tiles = [Tile(image, None, "image")]
    for network in networks:
        found = _predict(network, image, method, target)
        best = found["top5"][0]
        lines = [f"{best['class_name']} · {100 * best['confidence']:.1f} %"]
        if found["reason"]:
            lines = [f"{NONE} ({found['reason']})"]
        if found["heatmap"] is None:
            lines.append("no heatmap")
        elif found["reason"] or found["target"] != best["class_name"]:
            lines.append(f"heatmap for {found['target']}, {100 * found['target_confidence']:.1f} %")
        fit = network.trained.preprocessing.fit
        tiles.append(Tile(image, found["heatmap"], network.name, "; ".join(lines), fit=fit))
    title = METHODS[method].title if any(network.has_heatmaps for network in networks) else ""
    return encode(draw_gallery(tiles, " · ".join(filter(None, (name, title)))))


def _read(content: bytes, networks: Sequence[Network], method: str, target: str) -> Image.Image:
    known = class_names(networks)
    if target not in (PREDICTED, *known):
        raise ConfigError(unknown("class", target, known))
    if method not in METHODS:
        raise ConfigError(unknown("method", method, METHODS))
    return decode(content)


def _predict(network: Network, image: Image.Image, method: str, target: str) -> dict[str, Any]:
    """Return what a network says of an image; ``heatmap`` is float32 in [0, 1], of shape (S, S), or None."""
    trained = network.trained
    pixels = resize(image, trained.preprocessing)[None]  # (1, S, S, 3)
    ((logits, facts),) = network.judge.judge([pixels])  # as `deepbloom predict`, so that confidences agree
    top5 = best_guesses(logits, trained.temperature, trained.classes)
    found = {"name": network.name, "model": trained.label, "top5": top5, "reason": "", "evidence": []} | facts
    if target != PREDICTED and target not in trained.classes:
        return found | {"target": target, "target_confidence": None, "heatmap": None}
    explained = top5[0]["index"] if target == PREDICTED else trained.classes.index(target)
    confidence = round(float(softmax(logits[None], trained.temperature)[0, explained]), 6)
    found |= {"target": trained.classes[explained], "target_confidence": confidence, "heatmap": None}
    if not isinstance(trained, Trained):
        return found
    layer = get_architecture(trained.header["arch"]).target_layer
    inputs = to_inputs(pixels, trained.preprocessing, next(trained.network.parameters()).device)
    maps = class_activation_maps(trained.network, inputs, [layer], explained, method).maps
    return found | {"heatmap": maps[0].cpu().numpy()}


def _fill(heatmap: np.ndarray, size: tuple[int, int], fit: str) -> np.ndarray:
    """Return a map that covers the whole image when the page stretches it."""
    return heatmap if fit == "squash" else place_map(heatmap, size, fit)


def _show_training_image(network: Network, image_id: str) -> str | None:
    source = network.images
    if source is None or image_id not in source.image_ids:
        return None
    try:
        return _data_url(_shrink(source.read(source.image_ids.index(image_id)), EVIDENCE_SIDE), "jpeg")
    except (DataError, OSError):
        return None


def _shrink(image: Image.Image, side: int) -> Image.Image:
    small = image.copy()
    small.thumbnail((side, side))
    return small


def _data_url(image: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    image.save(file, kind, quality=JPEG_QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
