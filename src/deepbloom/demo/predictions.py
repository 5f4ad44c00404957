"""Predictions and heatmaps for one uploaded image, as plain values that the page shows."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from deepbloom.data.images import decode
from deepbloom.data.preprocessing import place_map, resize, to_inputs
from deepbloom.engine.checkpoint import Trained
from deepbloom.engine.predictor import Predictor
from deepbloom.errors import ConfigError, unknown
from deepbloom.explain.cam import class_activation_maps
from deepbloom.explain.figures import color_map
from deepbloom.explain.methods import METHODS
from deepbloom.export.opening import find_file, open_predictor
from deepbloom.metrics import best_guesses, softmax
from deepbloom.models.registry import get_architecture

PREDICTED = "predicted"
MAX_SHOWN_SIDE = 1024
"""Longer side of the image that the page shows, in pixels."""
JPEG_QUALITY = 88


@dataclass(frozen=True)
class Network:
    """A trained network and its name on the page."""

    name: str
    trained: Predictor


def load_networks(checkpoints: Sequence[str], device: str) -> list[Network]:
    """Load the networks of run directories, model files or exported files and name them after model and run.

    Raises
    ------
    CheckpointError
        A checkpoint cannot be read.
    """
    networks = []
    for checkpoint in checkpoints:
        trained = open_predictor(checkpoint, device)
        run = trained.header.get("name") or find_file(checkpoint).resolve().parent.name
        model = trained.label
        networks.append(Network(run if run.startswith(model) else f"{model} · {run}", trained))
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
        ``image`` (a ``data:`` URL), ``width``, ``height``, and ``networks``, one dict each: ``name``; ``top5`` as in
        predictions.json; ``target`` and ``target_confidence``, the explained class and its probability; ``heatmap``
        (a ``data:`` URL). Confidence and heatmap are None where the network does not know the class; an exported
        file has no heatmap.

    Raises
    ------
    DataError
        The bytes are not an image.
    ConfigError
        No network knows the class, or the method is unknown.
    """
    known = class_names(networks)
    if target not in (PREDICTED, *known):
        raise ConfigError(unknown("class", target, known))
    if method not in METHODS:
        raise ConfigError(unknown("method", method, METHODS))
    image = decode(content)
    predictions = [_predict(network, image, method, target) for network in networks]
    width, height = image.size
    image.thumbnail((MAX_SHOWN_SIDE, MAX_SHOWN_SIDE))
    return {"image": _data_url(image, "jpeg"), "width": width, "height": height, "networks": predictions}


def _predict(network: Network, image: Image.Image, method: str, target: str) -> dict[str, Any]:
    trained = network.trained
    pixels = resize(image, trained.preprocessing)[None]  # (1, S, S, 3)
    logits = trained.logits(pixels)[0]  # the same computation as in `deepbloom predict`, so that confidences agree
    top5 = best_guesses(logits, trained.temperature, trained.classes)
    prediction = {"name": network.name, "top5": top5, "target": target, "target_confidence": None, "heatmap": None}
    if target != PREDICTED and target not in trained.classes:
        return prediction
    explained = top5[0]["index"] if target == PREDICTED else trained.classes.index(target)
    confidence = round(float(softmax(logits[None], trained.temperature)[0, explained]), 6)
    found = {"target": trained.classes[explained], "target_confidence": confidence}
    if not isinstance(trained, Trained):
        return prediction | found
    layer = get_architecture(trained.header["arch"]).target_layer
    inputs = to_inputs(pixels, trained.preprocessing, next(trained.network.parameters()).device)
    maps = class_activation_maps(trained.network, inputs, [layer], explained, method).maps
    heatmap, fit = maps[0].cpu().numpy(), trained.preprocessing.fit
    if fit != "squash":  # the page stretches a map over the whole image
        width, height = image.size
        scale = min(1, MAX_SHOWN_SIDE / max(image.size))
        heatmap = place_map(heatmap, (max(1, round(width * scale)), max(1, round(height * scale))), fit)
    return prediction | found | {"heatmap": _data_url(color_map(heatmap), "png")}


def _data_url(image: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    image.save(file, kind, quality=JPEG_QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
