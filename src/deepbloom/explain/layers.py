"""Layers of a network: the one to explain, their outputs as maps, and running a network with hooks on them."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from deepbloom.errors import ConfigError

NAMES_SHOWN = 12


def find_target_layer(model: nn.Module, example: Tensor | None = None) -> str:
    """Return the path of the last module whose output is a map that the prediction depends on at several positions.

    It is the outermost of the modules that end there: ``layer4`` of a ResNet, ``features`` of a VGG. In a vision
    transformer the prediction depends on one token alone after the last attention, so it is the norm before that.
    Pooling, linear layers and identities do not count.

    ``example``, shape (1, 3, H, W), is an image to try; None is noise of 224 x 224.

    Raises
    ------
    ConfigError
        No module yields such a map.
    """
    if example is None:
        example = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        example = example.to(next(model.parameters()))
    size = example.shape[2:]
    outputs: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[..., Tensor | None]:
        def hook(module: nn.Module, args: Any, output: Any) -> Tensor | None:
            if not is_map(output, size):
                return None
            kept: Tensor = output if output.requires_grad else output.detach().requires_grad_()
            outputs.pop(path, None)
            outputs[path] = kept
            return kept.clone()  # the next module may work in place

        return hook

    watched = [
        (module, keep(path))
        for path, module in model.named_modules()
        if path and not isinstance(module, nn.Linear | nn.Identity) and "pool" not in type(module).__name__.lower()
    ]
    with left_as_found(model, example.device), torch.enable_grad(), hooked(watched):
        score = model(example.clone()).square().sum()
        gradients: Sequence[Tensor | None] = ()
        if outputs and score.requires_grad:
            gradients = torch.autograd.grad(score, list(outputs.values()), allow_unused=True)
    for path, gradient in reversed(list(zip(outputs, gradients, strict=False))):
        if gradient is not None and int(to_map(gradient, size).abs().sum(1).count_nonzero()) > 1:
            return path
    raise ConfigError("No module of this network gives an output of shape (B, K, h, w): it has no map to show.")


def to_map(output: Tensor, size: Sequence[int]) -> Tensor:
    """Return a layer's output, shape (B, K, h, w), (B, h, w, K) or (B, N, K), as a map, shape (B, K, h, w).

    Channels come last if the sizes before them have the proportions of the image, whose height and width are ``size``,
    and the last two do not. N tokens are some prefix tokens and then as many rows as fit, in the image's proportions.
    """
    if output.ndim == 4:
        return torch.movedim(output, 3, 1) if _is_channels_last(output, size) else output
    rows, columns = _token_grid(output, size)
    return output[:, -rows * columns :].transpose(1, 2).reshape(len(output), -1, rows, columns)


def from_map(maps: Tensor, output: Tensor, size: Sequence[int]) -> Tensor:
    """Return maps, shape (N, K, h, w), in the layout of a layer's ``output`` for one image: the inverse of `to_map`."""
    if output.ndim == 4:
        return maps.movedim(1, 3) if _is_channels_last(output, size) else maps
    tokens = maps.flatten(2).transpose(1, 2)
    prefix = output[:, : output.shape[1] - tokens.shape[1]]
    return torch.cat([prefix.expand(len(tokens), -1, -1), tokens], 1)


def find_layers(model: nn.Module, paths: Sequence[str]) -> dict[str, nn.Module]:
    """Return the modules at ``paths``.

    Raises
    ------
    ConfigError
        There is no such module, or no path.
    """
    modules = dict(model.named_modules())
    if not paths:
        raise ConfigError(f"No target layer is given. Choose for example {name_layers(model)}.")
    for path in paths:
        if path not in modules:
            close = get_close_matches(path, modules, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"Unknown layer {path!r}.{hint} Choose for example {name_layers(model)}.")
    return {path: modules[path] for path in paths}


def name_layers(model: nn.Module) -> str:
    """Return the paths of some modules with convolutions, outer ones first."""
    paths = [
        path
        for path, module in model.named_modules()
        if path and any(isinstance(part, nn.Conv2d) for part in module.modules())
    ]
    return ", ".join(sorted(paths, key=lambda path: path.count("."))[:NAMES_SHOWN])


@contextmanager
def left_as_found(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Run a network in eval mode and fp32; restore the mode of each module and the random state."""
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


@contextmanager
def hooked(hooks: Sequence[tuple[nn.Module, Callable[..., Tensor | None]]]) -> Iterator[None]:
    """Run with forward hooks, which are removed whatever happens."""
    handles = []
    try:
        for module, hook in hooks:
            handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def is_map(output: Any, size: Sequence[int]) -> bool:
    """Return whether `to_map` can read a layer's output."""
    if not isinstance(output, Tensor) or output.ndim not in (3, 4):
        return False
    return output.ndim == 4 or bool(output.shape[1] >= math.prod(_token_grid(output, size)))


def _is_channels_last(output: Tensor, size: Sequence[int]) -> bool:
    _, first, second, third = output.shape
    return first * size[1] == second * size[0] and second * size[1] != third * size[0]


def _token_grid(output: Tensor, size: Sequence[int]) -> tuple[int, int]:
    """Return rows and columns of the largest grid in the image's proportions that ``output``, (B, N, K), can fill."""
    common = math.gcd(size[0], size[1])
    height, width = size[0] // common, size[1] // common
    scale = max(math.isqrt(output.shape[1] // (height * width)), 1)
    return height * scale, width * scale
