"""Class activation maps: where in an image a network finds the evidence for a class.

The backbone runs without gradient; only what lies behind the target layer is differentiated. What distinguishes one
method from another is in `deepbloom.explain.methods`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepbloom.errors import ConfigError, unknown
from deepbloom.explain.methods import METHODS

__all__ = ["METHODS", "Maps", "Targets", "class_activation_maps", "last_convolutional"]

CPU_BATCH = 8  # images at a time: activations of more fall out of the processor's cache
GPU_BATCH = 64
PREDICTED = -1
NAMES_SHOWN = 12

Targets = int | Tensor | tuple[int | Tensor | None, int | Tensor | None] | None


@dataclass(frozen=True)
class Maps:
    """Maps of a batch, and what they explain.

    Attributes
    ----------
    maps : Tensor of float32, shape (B, H, W)
        Evidence at the size of the input, in [0, 1]: 0 where an image's evidence is least, 1 where it is strongest.
        All zero where it is the same everywhere.
    logits : Tensor of float32, shape (B, C)
        What the network answered.
    targets : Tensor of int64, shape (B,)
        The class that is explained.
    against : Tensor of int64, shape (B,), or None
        The class that it is compared with, if any.
    grid : tuple of int
        Height and width of the map before it was enlarged; of several layers, of the finest.
    """

    maps: Tensor
    logits: Tensor
    targets: Tensor
    against: Tensor | None
    grid: tuple[int, int]


def class_activation_maps(
    model: nn.Module,
    inputs: Tensor,
    target_layers: str | Sequence[str] | None = None,
    targets: Targets = None,
    method: str = "gradcam",
) -> Maps:
    """Return where ``model`` finds the evidence for a class in every image.

    The model is run in eval mode and fp32 and left as found: modes, hooks, ``requires_grad``, gradients and the
    random state. Frozen models work. One call at a time per model: meanwhile it carries hooks.

    Parameters
    ----------
    model : nn.Module
        Maps (B, 3, H, W) to logits (B, C).
    inputs : Tensor of float, shape (B, 3, H, W)
        Normalized images, on the model's device.
    target_layers : str, sequence of str, or None
        Module paths, as in ``model.named_modules()``, whose output has shape (B, K, h, w). Of several layers the mean
        of the maps is taken, each scaled to [0, 1] first. None is `last_convolutional`.
    targets : int, Tensor of int64 of shape (B,), a pair of these, or None
        The class to explain; None is the predicted one, in a pair too. A pair (a, b) explains the difference of the
        logits of a and b: why this and not that.
    method : str
        A name in `METHODS`.

    Returns
    -------
    Maps
        Scaled per image after the ReLU: the least value is subtracted, the largest divides. Enlarged bilinearly.

    Raises
    ------
    ConfigError
        The method, a layer or a class is unknown, a layer yields no map, or the inputs are not images.
    """
    if method not in METHODS:
        raise ConfigError(unknown("method", method, METHODS))
    if inputs.ndim != 4 or not inputs.is_floating_point() or not len(inputs):
        raise ConfigError(f"inputs must be float of shape (B, 3, H, W), not {inputs.dtype} of {tuple(inputs.shape)}.")
    if target_layers is None:
        target_layers = last_convolutional(model, inputs[:1])
    layers = _find_layers(model, (target_layers,) if isinstance(target_layers, str) else target_layers)
    step = CPU_BATCH if inputs.device.type == "cpu" else GPU_BATCH
    with left_as_found(model, inputs.device):
        classes = _read_targets(targets, inputs)
        parts = [
            _map_batch(model, layers, some.clone(memory_format=torch.channels_last), wanted, method)
            for some, wanted in zip(inputs.split(step), classes.split(step), strict=True)
        ]
    *columns, grids = zip(*parts, strict=True)
    maps, logits, classes = map(torch.cat, columns)
    return Maps(maps, logits, classes[:, 0], classes[:, 1] if isinstance(targets, tuple) else None, grids[0])


def last_convolutional(model: nn.Module, example: Tensor | None = None) -> str:
    """Return the path of the module that yields the last map.

    That is the outermost module, not a pooling, that ends last among those whose output has shape (B, K, h, w) with
    more than one position: ``layer4`` of a ResNet, ``features`` of a VGG.

    Parameters
    ----------
    model : nn.Module
    example : Tensor, shape (1, 3, H, W), or None
        An image to find out with; None is a black one of 224 x 224.

    Raises
    ------
    ConfigError
        No module yields a map.
    """
    finished: list[str] = []

    def note(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if _is_map(output) and output.shape[2:].numel() > 1:
                finished.append(path)

        return hook

    example = next(model.parameters()).new_zeros(1, 3, 224, 224) if example is None else example
    watched = [
        (module, note(path))
        for path, module in model.named_modules()
        if path and "pool" not in type(module).__name__.lower()
    ]
    with left_as_found(model, example.device), torch.no_grad(), _hooked(watched):
        model(example)
    if not finished:
        raise ConfigError("No module of this network gives an output of shape (B, K, h, w): it has no map to show.")
    return finished[-1]


def scale_maps(maps: Tensor) -> Tensor:
    """Return maps, shape (B, h, w), each moved and stretched to [0, 1]; one without contrast becomes zero."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1)


@contextmanager
def left_as_found(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Run a network in eval mode and fp32; put back the mode of every module and the random state."""
    modes = [(module, module.training) for module in model.modules()]
    devices = [device] if device.type == "cuda" else []
    model.eval()
    try:
        with (
            torch.random.fork_rng(devices),
            torch.inference_mode(False),
            torch.autocast(device.type, enabled=False),
        ):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _map_batch(
    model: nn.Module, layers: dict[str, nn.Module], inputs: Tensor, classes: Tensor, method: str
) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    """Return maps, logits, classes, shape (B, 1), or (B, 2) where two are compared, and the finest layer's grid."""
    chosen = METHODS[method]
    logits, activations = _run(model, layers, inputs, with_gradient=chosen.needs == "gradients")
    classes = torch.where(classes == PREDICTED, logits.argmax(1, keepdim=True), classes)
    if classes.max() >= logits.shape[1]:
        raise ConfigError(f"Class {int(classes.max())}: the network has classes 0 to {logits.shape[1] - 1}.")
    arguments: dict[str, tuple] = dict.fromkeys(layers, ())
    if chosen.needs == "gradients":
        arguments = _differentiate(logits, classes, activations)
    elif chosen.needs == "probe":
        arguments = {path: (_Probe(model, layer, inputs, logits, classes),) for path, layer in layers.items()}
    per_layer = []
    with torch.no_grad():
        for path in layers:
            drawn = chosen.draw(activations[path].float(), *arguments[path])
            small = scale_maps(drawn.relu())
            per_layer.append(F.interpolate(small[:, None], inputs.shape[2:], mode="bilinear", align_corners=False))
    maps = scale_maps(torch.stack(per_layer).mean(0)[:, 0])
    height, width = max((activation.shape[2:] for activation in activations.values()), key=math.prod)
    return maps, logits.detach().float(), classes, (height, width)


def _run(
    model: nn.Module, layers: dict[str, nn.Module], inputs: Tensor, with_gradient: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the logits and what the layers gave; with gradient, recorded from the first of the layers on."""
    activations: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: Any, output: Any) -> Tensor:
            if not _is_map(output):
                raise ConfigError(
                    f"Layer {path!r} gives {_describe(output)}, not a map of shape (B, K, h, w). "
                    f"Choose for example {_name_layers(model)}."
                )
            if with_gradient and not output.requires_grad:
                output = output.detach().clone().requires_grad_()
                torch.set_grad_enabled(True)  # until no_grad below ends
            activations[path] = output
            return output.clone()  # what follows may work in place

        return hook

    with torch.no_grad(), _hooked([(layer, keep(path)) for path, layer in layers.items()]):
        logits = model(inputs)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(inputs):
        raise ConfigError(f"The network answers {len(inputs)} images with {_describe(logits)}, not logits (B, C).")
    for path in layers:
        if path not in activations:
            raise ConfigError(f"Layer {path!r} takes no part in the answer. Choose for example {_name_layers(model)}.")
    return logits, activations


def _differentiate(logits: Tensor, classes: Tensor, activations: dict[str, Tensor]) -> dict[str, tuple[Tensor]]:
    with torch.enable_grad():
        score = _score(logits, classes).sum()
    gradients: Sequence[Tensor | None] = [None] * len(activations)
    if score.requires_grad:
        gradients = torch.autograd.grad(score, list(activations.values()), allow_unused=True)
    differentiated: dict[str, tuple[Tensor]] = {}
    for path, gradient in zip(activations, gradients, strict=True):
        if gradient is None:
            raise ConfigError(f"No gradient of the answer reaches layer {path!r}; method=eigencam needs none.")
        differentiated[path] = (gradient.float(),)
    return differentiated


def _score(logits: Tensor, classes: Tensor) -> Tensor:
    """Return what is explained, shape (B,): a logit, or the difference of two."""
    chosen = logits.gather(1, classes.expand(len(logits), -1))
    return chosen[:, 0] if chosen.shape[1] == 1 else chosen[:, 0] - chosen[:, 1]


@dataclass(frozen=True)
class _Probe:
    """What `deepbloom.explain.methods.Probe` asks for, of one layer and one batch."""

    model: nn.Module
    layer: nn.Module
    inputs: Tensor
    logits: Tensor
    classes: Tensor

    @property
    def scores(self) -> Tensor:
        return _score(self.logits, self.classes)

    def score_inputs(self, image: int, inputs: Tensor) -> Tensor:
        return _score(self.model(inputs.contiguous(memory_format=torch.channels_last)), self.classes[image, None])

    def score_activations(self, image: int, activations: Tensor) -> Tensor:
        # The backbone sees the image once; from the layer on, the batch is that of the activations.
        with _hooked([(self.layer, lambda module, args, output: activations.to(output.dtype).clone())]):
            logits = self.model(self.inputs[image, None])
        if len(logits) != len(activations):
            raise ConfigError("This network fixes the size of its batch before the target layer; choose a later one.")
        return _score(logits, self.classes[image, None])


@contextmanager
def _hooked(hooks: Sequence[tuple[nn.Module, Callable]]) -> Iterator[None]:
    handles = []
    try:
        for module, hook in hooks:
            handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _read_targets(targets: Targets, inputs: Tensor) -> Tensor:
    """Return the wanted classes, shape (B, 1) or (B, 2), int64; `PREDICTED` where the network shall say."""
    columns = []
    for target in targets if isinstance(targets, tuple) else (targets,):
        column = torch.as_tensor(PREDICTED if target is None else target, device=inputs.device)
        if column.is_floating_point() or column.dtype == torch.bool or column.shape not in ((), inputs.shape[:1]):
            raise ConfigError(f"A target is one class index, or one for each of {len(inputs)} images, not {target}.")
        if target is not None and column.min() < 0:
            raise ConfigError(f"Class {int(column.min())}: classes count from 0.")
        columns.append(column.long().expand(len(inputs)))
    if len(columns) > 2:
        raise ConfigError(f"A target is one class or a pair of classes to compare, not {len(columns)}.")
    return torch.stack(columns, 1)


def _find_layers(model: nn.Module, paths: Sequence[str]) -> dict[str, nn.Module]:
    modules = dict(model.named_modules())
    if not paths:
        raise ConfigError(f"No target layer is given. Choose for example {_name_layers(model)}.")
    for path in paths:
        if path not in modules:
            close = get_close_matches(path, modules, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"Unknown layer {path!r}.{hint} Choose for example {_name_layers(model)}.")
    return {path: modules[path] for path in paths}


def _name_layers(model: nn.Module) -> str:
    """Return the paths of some modules with convolutions, outer ones first."""
    paths = [
        path
        for path, module in model.named_modules()
        if path and any(isinstance(part, nn.Conv2d) for part in module.modules())
    ]
    return ", ".join(sorted(paths, key=lambda path: path.count("."))[:NAMES_SHOWN])


def _is_map(output: Any) -> bool:
    return isinstance(output, Tensor) and output.ndim == 4


def _describe(output: Any) -> str:
    return f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
