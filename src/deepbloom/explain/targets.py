"""What to explain: networks with their layers, methods, and classes, as named on the command line."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepbloom.config.schema import as_list, check_choice
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.engine.checkpoint import Trained, find_model_file, read_model
from deepbloom.errors import ConfigError, unknown
from deepbloom.explain.cam import Maps, Targets, class_activation_maps
from deepbloom.explain.figures import Panel
from deepbloom.explain.methods import METHODS
from deepbloom.models.registry import get_architecture

DEFAULT_LAYER = "default"
PREDICTED = "predicted"
MOST_DIGITS = 18
"""Of an index; Python refuses to read numbers of thousands."""


@dataclass(frozen=True)
class Network:
    """A trained network, in eval mode on its device."""

    label: str
    """The name of its run directory or file; its path where another one has the same name."""
    model: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    layers: tuple[str, ...]
    """Module paths of the layers that its maps explain."""
    temperature: float = 1.0


@dataclass(frozen=True)
class Target:
    """The class to explain, and the class to compare it with."""

    index: int | None = None
    """A class; None is the one at ``rank``."""
    rank: int = 0
    """Place among the classes by probability, from 0, the prediction."""
    against: int | None = None
    """The class it is compared with, if any."""


def read_methods(method: Any) -> list[str]:
    """Return the named methods: one, a list, or ``all``.

    Raises
    ------
    ConfigError
        One of them is unknown.
    """
    names = list(METHODS) if method == "all" else list(dict.fromkeys(map(str, as_list(method))))
    for name in names:
        check_choice("method", name, (*METHODS, "all"))
    return names


def read_networks(ckpt: Any, layer: Any, device: torch.device) -> list[Network]:
    """Return the networks of one or several run directories or model files.

    Raises
    ------
    CheckpointError
        One cannot be used.
    """
    files = [find_model_file(str(path)) for path in as_list(ckpt)]
    names = [file.resolve().parent.name if file.name == "model.safetensors" else file.stem for file in files]
    repeated = Counter(names)
    return [
        place_network(read_model(file), str(file.parent) if repeated[name] > 1 else name, layer, device)
        for file, name in zip(files, names, strict=True)
    ]


def place_network(trained: Trained, label: str, layer: Any, device: torch.device) -> Network:
    """Return a trained network on a device; the layer ``default`` is its architecture's target layer."""
    default = get_architecture(trained.header["arch"]).target_layer
    layers = tuple(default if name == DEFAULT_LAYER else str(name) for name in as_list(layer))
    model = trained.network.to(device).to(memory_format=torch.channels_last)
    return Network(label, model, trained.classes, trained.preprocessing, layers, trained.temperature)


def read_targets(target: str, contrast: str | None, classes: tuple[str, ...]) -> list[Target]:
    """Return what ``target=predicted|topK|NAME|INDEX`` and ``contrast=NAME|INDEX`` ask for.

    Raises
    ------
    ConfigError
        The network has no such class, a number may be a name or an index, or a class is compared with itself.
    """
    against = None if contrast is None else _find_class("contrast", contrast, classes, ())
    ranks = re.fullmatch(r"top([1-9]\d{0,8})", target)
    if target not in classes and (target == PREDICTED or ranks):
        count = min(int(ranks[1]), len(classes)) if ranks else 1
        return [Target(rank=rank, against=against) for rank in range(count)]
    index = _find_class("target", target, classes, (PREDICTED, "top3"))
    if index == against:
        raise ConfigError(f"target={target} contrast={contrast}: a class cannot be compared with itself.")
    return [Target(index, against=against)]


def explain(network: Network, inputs: Tensor, method: str, targets: Sequence[Target]) -> list[Maps]:
    """Return the maps of a batch, shape (B, 3, S, S), for each target."""
    explained: list[Maps] = []
    for target in targets:
        wanted: int | Tensor | None = target.index
        if target.rank:
            wanted = explained[0].logits.argsort(dim=1, descending=True, stable=True)[:, target.rank]
        pair: Targets = wanted if target.against is None else (wanted, target.against)
        explained.append(class_activation_maps(network.model, inputs, network.layers, pair, method))
    return explained


def explain_images(
    networks: Sequence[Network],
    inputs: Sequence[Tensor],
    methods: Sequence[str],
    targets: Sequence[Sequence[Target]],
) -> list[list[Panel]]:
    """Return each image's panels, ordered by method, network and target; classes are not compared with themselves.

    ``inputs`` holds the same images, shape (B, 3, S, S), for each network, and ``targets`` its targets.
    """
    panels: list[list[Panel]] = [[] for _ in inputs[0]]
    for method in methods:
        for network, batch, wanted in zip(networks, inputs, targets, strict=True):
            for target, maps in zip(wanted, explain(network, batch, method, wanted), strict=True):
                fit = network.preprocessing.fit
                probabilities = (maps.logits.cpu().double() / network.temperature).softmax(1)
                predicted = probabilities.argmax(1).tolist()
                for number, (index, heatmap) in enumerate(zip(maps.targets.tolist(), maps.maps.cpu(), strict=True)):
                    if index == target.against:
                        continue
                    explained = network.classes[index]
                    if target.against is not None:
                        explained += f" rather than {network.classes[target.against]}"
                    confidence = float(probabilities[number, index])
                    prediction = network.classes[predicted[number]]
                    names = (network.label, method, explained)
                    panels[number].append(Panel(heatmap.numpy(), *names, confidence, fit, prediction))
    return panels


def _find_class(key: str, name: str, classes: tuple[str, ...], words: tuple[str, ...]) -> int:
    if name in classes:
        return classes.index(name)
    if name.isdecimal() and len(name) < MOST_DIGITS:
        if alike := [known for known in classes if _is_number(known, int(name))]:
            raise ConfigError(
                f"{key}={name} is ambiguous: it may stand for the class {alike[0]!r} or for an index. Give the exact "
                f"name of a class, such as {key}={alike[0]}."
            )
        if int(name) < len(classes):
            return int(name)
        raise ConfigError(f"{key}={name}: the network has classes 0 to {len(classes) - 1}.")
    raise ConfigError(unknown(key, name, [*classes, *words]))


def _is_number(name: str, value: int) -> bool:
    try:
        return float(name) == value
    except ValueError:
        return False
