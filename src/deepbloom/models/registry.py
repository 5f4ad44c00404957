"""The registry of architectures, and networks made from it.

A function with `@architecture` adds a network. Names that are not registered are looked up in the sources that
`@architecture_source` adds: timm's.
"""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from deepbloom.config.schema import check_range
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.errors import ConfigError, unknown
from deepbloom.models.freezing import covers, freeze, resolve_trainable
from deepbloom.models.weights import Weights, load_weights, read_weights
from deepbloom.models.widths import Widths, shrink, widths_of

log = logging.getLogger(__name__)

PRETRAINED_HEAD_STD = 1e-3
"""Standard deviation of a new classifier's weights on pretrained features: almost zero, but enough for class
activation maps to exist."""
LOGIT_STD = 1 / 4
"""Standard deviation of a random network's first logits, for features of unit variance: wide enough that the layers
before the classifier learn from the first step on."""

Build = Callable[[int], nn.Module]
Decorator = Callable[[Build], Build]


@dataclass(frozen=True)
class Architecture:
    """A network as it is before anything is trained."""

    name: str
    build: Build
    """Makes the network with random weights for a number of classes."""
    head: tuple[str, ...]
    """Paths of the classifier's modules: one, or two for a network that averages two classifiers."""
    target_layer: str
    """Path of the module that class activation maps look at by default: the last with spatial features."""
    description: str
    """One line for the report's table."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    imagenet: Callable[[], Weights] | None = None
    """Reads the ImageNet weights, where there are any."""
    fixed_size: bool = False
    """Whether the network takes images of ``preprocessing.size`` only."""

    @property
    def weights(self) -> tuple[str, ...]:
        """Keywords that ``model.weights`` takes besides the path of a file."""
        return ("imagenet", "none") if self.imagenet else ("none",)


Find = Callable[[str], Architecture | None]


@dataclass(frozen=True)
class Source:
    """Architectures that need no registration."""

    find: Find
    names: Callable[[], list[str]]


_ARCHITECTURES: dict[str, Architecture] = {}
_SOURCES: list[Source] = []


def architecture(
    name: str,
    *,
    head: str,
    target_layer: str,
    description: str,
    preprocessing: Preprocessing | None = None,
    imagenet: Callable[[], Weights] | None = None,
) -> Decorator:
    """Register a function that builds a network for a number of classes; see `Architecture` for the parameters."""

    def register(build: Build) -> Build:
        if name in _ARCHITECTURES:
            raise ValueError(f"the architecture {name!r} is registered twice")
        _ARCHITECTURES[name] = Architecture(
            name, build, (head,), target_layer, description, preprocessing or Preprocessing(), imagenet
        )
        return build

    return register


def architecture_source(names: Callable[[], list[str]]) -> Callable[[Find], Find]:
    """Register a function that finds an architecture by name, or returns None; ``names`` lists what it knows."""

    def register(find: Find) -> Find:
        _SOURCES.append(Source(find, names))
        return find

    return register


def architecture_names() -> tuple[str, ...]:
    """Return the registered names."""
    return tuple(_ARCHITECTURES)


def get_architecture(name: str) -> Architecture:
    """Return a registered architecture, or one of timm's by its name.

    Raises
    ------
    ConfigError
        The name is unknown, or the network cannot be used for images of three channels.
    """
    if name in _ARCHITECTURES:
        return _ARCHITECTURES[name]
    for source in _SOURCES:
        if found := source.find(name):
            return found
    known = [*_ARCHITECTURES, *(known for source in _SOURCES for known in source.names())]
    raise ConfigError(unknown("model.arch", name, known))


def check_resolutions(arch: str, resolutions: Sequence[int]) -> None:
    """Raise `ConfigError` if a train resolution, in pixels, is a size of images that the network does not take."""
    found = get_architecture(arch)
    size = found.preprocessing.size
    for pixels in resolutions:
        if pixels != size and (found.fixed_size or (takes_size(arch, size) and not takes_size(arch, pixels))):
            raise ConfigError(
                f"model.arch={arch} takes images of {size} pixels, but not of {pixels}: add "
                "augment.train_resolution=1, and leave out augment.first_resolution."
            )


@lru_cache(maxsize=32)
def takes_size(arch: str, pixels: int) -> bool:
    """Return whether a network takes images of this size; it is tried without memory for tensors."""
    try:
        with torch.device("meta"), torch.no_grad():
            get_architecture(arch).build(2).eval()(torch.empty(1, 3, pixels, pixels))
    except Exception:  # whatever a network says to images that it does not take
        return False
    return True


def read_starting_weights(arch: str, weights: str) -> Weights | None:
    """Return the tensors that training starts from, with the digest of the file that they were read from.

    Parameters
    ----------
    arch : str
    weights : str
        ``none`` (random: returns None), ``imagenet``, or the path of a run directory or a ``.safetensors``, ``.pth`` or
        ``.pt`` file.

    Raises
    ------
    ConfigError
        The keyword is not valid for this architecture.
    WeightsError
        The weights cannot be found or read.
    """
    found = get_architecture(arch)
    if weights not in found.weights and weights.isidentifier() and not Path(weights).is_dir():
        raise ConfigError(f"{unknown('model.weights', weights, found.weights)} Or give the path of a weights file.")
    if weights == "none":
        return None
    if weights == "imagenet" and found.imagenet:
        return found.imagenet()
    return read_weights(Path(os.path.expanduser(weights)))


@lru_cache(maxsize=32)
def resolved_trainable(arch: str, trainable: tuple[str, ...]) -> tuple[str, ...]:
    """Return the module paths that ``model.trainable`` stands for in a network: see `resolve_trainable`."""
    found = get_architecture(arch)
    with torch.device("meta"):
        return resolve_trainable(found.build(2), found.head, trainable)


def training_type(arch: str, trainable: Sequence[str], weights: str) -> str:
    """Return how a network is trained, for the report.

    Parameters
    ----------
    arch : str
    trainable : sequence of str
        Resolved module paths.
    weights : str
        ``model.weights``.

    Returns
    -------
    str
        ``from scratch`` or ``fine-tuned`` (all modules train, from random or given weights), ``frozen`` (only the
        classifier trains) or ``partial``.
    """
    if "" in trainable:
        return "from scratch" if weights == "none" else "fine-tuned"
    head = get_architecture(arch).head
    return "frozen" if all(covers(head, path) for path in trainable) else "partial"


def create_model(
    arch: str,
    num_classes: int,
    trainable: Iterable[str] = ("all",),
    weights: str | Weights | None = "none",
    widths: Widths | None = None,
) -> nn.Module:
    """Make a network, in eval mode, in which only the parameters of the trainable modules take gradients.

    Random weights follow from torch's global seed.

    Parameters
    ----------
    arch : str
        A registered name, or one of timm's.
    num_classes : int
    trainable : iterable of str
        Module paths and keywords, as in ``model.trainable``.
    weights : str, Weights or None
        What `read_starting_weights` takes or returns. Where the weights have a head of another size, the new head
        stays random.
    widths : mapping, optional
        Those of a pruned network; by default those that the weights come with.

    Returns
    -------
    nn.Module
        Maps float32 (B, 3, H, W) to logits (B, num_classes).

    Raises
    ------
    ConfigError
        The name, the number of classes, a module path or the keyword is not valid.
    WeightsError
        The weights cannot be found or read, or they belong to another network.
    """
    found = get_architecture(arch)
    check_range("num_classes", num_classes, 1)
    given = read_starting_weights(arch, weights) if isinstance(weights, str) else weights
    model = found.build(num_classes)
    for path in found.head:
        initialize_head(model.get_submodule(path), pretrained=given is not None)
    if found_widths := widths or (given.widths if given else {}):
        shrink(model, _of_the_same_classes(model, found.head, found_widths))
    if given and not load_weights(model, given, found.head):
        log.info("%s has no classifier for %d classes: a new one is trained.", given.source, num_classes)
    freeze(model, resolve_trainable(model, found.head, trainable))
    return model.eval()


def _of_the_same_classes(model: nn.Module, head: Sequence[str], widths: Widths) -> Widths:
    """Return widths in which the classifier gives as many classes as the network does."""
    own = widths_of(model)
    last = [path for path in own if covers(head, path)][-1:]
    return dict(widths) | {path: [widths[path][0], own[path][1]] for path in last if path in widths}


def initialize_head(head: nn.Module, pretrained: bool) -> None:
    """Draw the last layer of a new classifier so that the first loss is about ln C: no class is preferred by chance.

    timm and torchvision initialize EfficientNet's classifier uniformly in ±1/sqrt(C), which is ten times too wide for
    1,280 features: the first loss is then up to twice ln C, and runs on few images never recover. On pretrained
    features the best start is near zero. A network from scratch learns much slower with it (docs/recipes.md).
    """
    last = [module for module in head.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    features = last.weight[0].numel()
    nn.init.normal_(last.weight, std=PRETRAINED_HEAD_STD if pretrained else LOGIT_STD / features**0.5)
    if last.bias is not None:
        nn.init.zeros_(last.bias)
