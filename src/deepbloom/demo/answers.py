"""What networks say about one image, as plain values that the page shows."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image

from deepbloom.data.images import decode
from deepbloom.data.preprocessing import preprocess
from deepbloom.engine.checkpoint import Trained, find_model_file, read_model
from deepbloom.errors import ConfigError
from deepbloom.explain.cam import METHODS, class_activation_maps
from deepbloom.explain.figures import COLORMAP
from deepbloom.metrics import softmax, top_classes
from deepbloom.models.registry import get_spec

PREDICTED = "predicted"
SHOWN_SIDE = 1024
"""Longer side of the image that the page shows, in pixels."""
JPEG_QUALITY = 88


@dataclass(frozen=True)
class Network:
    """A trained network, and what the page calls it."""

    name: str
    trained: Trained
    device: torch.device


def load_networks(checkpoints: Sequence[str], device: torch.device) -> list[Network]:
    """Return the networks of run directories or model files, named by model and run.

    Raises
    ------
    CheckpointError
        One of them cannot be read.
    """
    networks = []
    for checkpoint in checkpoints:
        trained = read_model(checkpoint)
        trained.network.to(device).to(memory_format=torch.channels_last)
        run = find_model_file(checkpoint).resolve().parent.name
        model = trained.header["model"]
        networks.append(Network(run if run.startswith(model) else f"{model} · {run}", trained, device))
    return networks


def class_names(networks: Sequence[Network]) -> list[str]:
    """Return the classes that at least one network knows, sorted."""
    return sorted({name for network in networks for name in network.trained.classes})


def answer(content: bytes, networks: Sequence[Network], method: str, target: str = PREDICTED) -> dict:
    """Return the upright image and each network's best five classes and heatmap.

    Parameters
    ----------
    content : bytes
        A JPEG, PNG or WebP file.
    networks : sequence of Network
    method : str
        A name in `METHODS`.
    target : str
        The class that the heatmap explains, or ``predicted``.

    Returns
    -------
    dict
        ``image``, ``width`` and ``height``, and ``networks``: of each its ``name``, ``top5`` (``index``,
        ``class_name``, ``confidence``, as in predictions.json), ``shown`` and ``shown_confidence`` (the class of the
        heatmap) and ``heatmap``, or None where the network does not know the class. Images are ``data:`` addresses.

    Raises
    ------
    DataError
        The bytes are no image.
    ConfigError
        No network knows the class, or the method is unknown.
    """
    if target != PREDICTED and not any(target in network.trained.classes for network in networks):
        raise ConfigError("No network here knows this class. Choose one from the list.")
    if method not in METHODS:
        raise ConfigError("There is no such method. Choose one from the list.")
    image = decode(content)
    answers = [_ask(network, image, method, target) for network in networks]
    width, height = image.size
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return {"image": _address(image, "jpeg"), "width": width, "height": height, "networks": answers}


def _ask(network: Network, image: Image.Image, method: str, target: str) -> dict:
    trained = network.trained
    inputs = preprocess(image, trained.preprocessing)[None].to(network.device)
    inputs = inputs.contiguous(memory_format=torch.channels_last)  # (1, 3, S, S)
    with torch.inference_mode():  # as `deepbloom predict` does, so that the figures are the same
        probabilities = softmax(trained.network(inputs).cpu().numpy())
    best = top_classes(probabilities)[0]
    top5 = [
        {"index": int(i), "class_name": trained.classes[i], "confidence": round(float(probabilities[0, i]), 6)}
        for i in best
    ]
    said: dict[str, Any] = {
        "name": network.name,
        "top5": top5,
        "shown": target,
        "shown_confidence": None,
        "heatmap": None,
    }
    if target != PREDICTED and target not in trained.classes:
        return said
    wanted = int(best[0]) if target == PREDICTED else trained.classes.index(target)
    layer = get_spec(trained.header["model"]).target_layer
    maps = class_activation_maps(trained.network, inputs, [layer], wanted, method)
    colors = matplotlib.colormaps[COLORMAP](maps.maps[0].cpu().numpy(), bytes=True)[..., :3]
    said["shown"] = trained.classes[wanted]
    said["shown_confidence"] = round(float(probabilities[0, wanted]), 6)
    said["heatmap"] = _address(Image.fromarray(np.ascontiguousarray(colors)), "png")
    return said


def _address(image: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    image.save(file, kind, quality=JPEG_QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
