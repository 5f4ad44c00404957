"""Class activation maps: where in an image a network finds the evidence for a class.

The part of the network before the target layer runs without gradient. What distinguishes one method from another is in
`deepbloom.explain.methods`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepbloom.errors import ConfigError, unknown
from deepbloom.explain.layers import find_layers, find_target_layer, hooked, is_map, left_as_found, name_layers, to_map
from deepbloom.explain.methods import METHODS, Probe, explained_scores

CPU_BATCH = 8  # images at a time: the activations of more do not fit the processor's cache
GPU_BATCH = 64
PREDICTED = -1

Targets = int | Tensor | tuple[int | Tensor | None, int | Tensor | None] | None


@dataclass(frozen=True)
class Maps:
    """Maps of a batch and what they explain."""

    maps: Tensor
    """Shape (B, H, W), float32: 0 where an image's evidence is least, 1 where it is strongest; 0 if it is constant."""
    logits: Tensor
    """Shape (B, C), float32."""
    targets: Tensor
    """The explained classes, shape (B,), int64."""
    against: Tensor | None
    """The classes they are compared with, if any."""
    grid: tuple[int, int]
    """Height and width of the map before upsampling; of several layers, of the finest."""


def class_activation_maps(
    model: nn.Module,
    inputs: Tensor,
    target_layers: str | Sequence[str] | None = None,
    targets: Targets = None,
    method: str = "gradcam",
) -> Maps:
    """Return where ``model`` finds the evidence for a class in each image.

    The model runs in eval mode and fp32. Modes, hooks, ``requires_grad``, gradients and the random state are left as
    found; frozen models work. The model carries hooks meanwhile, so make one call at a time.

    Parameters
    ----------
    model : nn.Module
        Maps (B, 3, H, W) to logits (B, C).
    inputs : Tensor of float, shape (B, 3, H, W)
        Normalized images, on the model's device.
    target_layers : str, sequence of str, or None
        Module paths, as in ``model.named_modules()``, whose output is a map: see `to_map`. Of several layers, the maps
        are scaled to [0, 1] and averaged. None is `find_target_layer`.
    targets : int, Tensor of int64 of shape (B,), a pair of these, or None
        The class to explain; None is the prediction, in a pair too. A pair (a, b) explains the difference of the
        logits of a and b: why this and not that.
    method : str
        A name in `METHODS`.

    Returns
    -------
    Maps
        After the ReLU, each map is upsampled bilinearly, its minimum subtracted, and divided by its maximum.

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
        target_layers = find_target_layer(model, inputs[:1])
    layers = find_layers(model, (target_layers,) if isinstance(target_layers, str) else target_layers)
    step = CPU_BATCH if inputs.device.type == "cpu" else GPU_BATCH
    with left_as_found(model, inputs.device):
        classes = _read_targets(targets, inputs)
        parts = [
            _map_batch(model, layers, some.clone(memory_format=torch.channels_last), wanted, method)
            for some, wanted in zip(torch.split(inputs, step), torch.split(classes, step), strict=True)
        ]
    *columns, grids = zip(*parts, strict=True)
    maps, logits, classes = map(torch.cat, columns)
    return Maps(maps, logits, classes[:, 0], classes[:, 1] if isinstance(targets, tuple) else None, grids[0])


def scale_maps(maps: Tensor) -> Tensor:
    """Return maps, shape (B, h, w), each shifted and scaled to [0, 1]; a constant map becomes zero."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1)


def _map_batch(
    model: nn.Module, layers: dict[str, nn.Module], inputs: Tensor, classes: Tensor, method: str
) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    """Return maps, logits, classes, shape (B, 1), or (B, 2) where two are compared, and the finest layer's grid."""
    chosen, size = METHODS[method], inputs.shape[2:]
    logits, outputs = _run(model, layers, inputs, with_gradient=chosen.needs == "gradients")
    if not logits.isfinite().all():
        raise ConfigError("The network gives logits that are not finite for some of these images.")
    classes = torch.where(classes == PREDICTED, logits.argmax(1, keepdim=True), classes)
    if classes.max() >= logits.shape[1]:
        raise ConfigError(f"Class {int(classes.max())}: the network has classes 0 to {logits.shape[1] - 1}.")
    arguments: dict[str, tuple[Any, ...]] = dict.fromkeys(layers, ())
    if chosen.needs == "gradients":
        gradients = _differentiate(logits, classes, outputs)
        arguments = {path: (to_map(gradient, size).float(),) for path, gradient in gradients.items()}
    elif chosen.needs == "forward_passes":
        arguments = {path: (Probe(model, layer, inputs, logits, classes),) for path, layer in layers.items()}
    with torch.no_grad():
        activations = {path: to_map(output, size).float() for path, output in outputs.items()}
        small = [scale_maps(chosen.draw(activations[path], *arguments[path]).relu()) for path in layers]
        maps = [F.interpolate(some[:, None], size, mode="bilinear", align_corners=False) for some in small]
    height, width = max((some.shape[1:] for some in small), key=math.prod)
    return scale_maps(torch.stack(maps).mean(0)[:, 0]), logits.detach().float(), classes, (height, width)


def _run(
    model: nn.Module, layers: dict[str, nn.Module], inputs: Tensor, with_gradient: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the logits and the layers' outputs; with gradient, recorded from the first of the layers on."""
    outputs: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: Any, output: Any) -> Tensor:
            if not is_map(output, inputs.shape[2:]):
                raise ConfigError(
                    f"Layer {path!r} gives {_describe(output)}, not a map of shape (B, K, h, w). "
                    f"Choose for example {name_layers(model)}."
                )
            kept: Tensor = output
            if with_gradient and not kept.requires_grad:
                kept = kept.detach().clone().requires_grad_()
                torch.set_grad_enabled(True)  # until no_grad below ends
            outputs[path] = kept
            return kept.clone()  # the next module may work in place

        return hook

    with torch.no_grad(), hooked([(layer, keep(path)) for path, layer in layers.items()]):
        logits = model(inputs)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(inputs):
        raise ConfigError(f"The network gives {_describe(logits)} for {len(inputs)} images, not logits (B, C).")
    for path in layers:
        if path not in outputs:
            raise ConfigError(f"Layer {path!r} does not run. Choose for example {name_layers(model)}.")
    return logits, outputs


def _differentiate(logits: Tensor, classes: Tensor, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.enable_grad():
        score = explained_scores(logits, classes).sum()
    gradients: Sequence[Tensor | None] = [None] * len(outputs)
    if score.requires_grad:
        gradients = torch.autograd.grad(score, list(outputs.values()), allow_unused=True)
    for path, gradient in zip(outputs, gradients, strict=True):
        if gradient is None:
            raise ConfigError(f"No gradient of the logits reaches layer {path!r}; method=eigencam needs none.")
    return {path: gradient for path, gradient in zip(outputs, gradients, strict=True) if gradient is not None}


def _read_targets(targets: Targets, inputs: Tensor) -> Tensor:
    """Return the explained classes, shape (B, 1) or (B, 2), int64; `PREDICTED` stands for the prediction."""
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


def _describe(output: Any) -> str:
    return f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
