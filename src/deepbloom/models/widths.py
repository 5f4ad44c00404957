"""Pruned networks: how many channels each layer has, and how to rebuild them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Widths = Mapping[str, Any]
"""By module path, the number of channels that a layer takes and gives: ``[in, out]``."""


def widths_of(model: nn.Module) -> dict[str, list[int]]:
    """Return the widths of a network's convolutions, linear layers and batch normalizations."""
    layers = (nn.Conv2d, nn.Linear, _BatchNorm)
    return {path: _width(module) for path, module in model.named_modules() if isinstance(module, layers)}


def _width(layer: nn.Module) -> list[int]:
    if isinstance(layer, nn.Conv2d):
        return [layer.in_channels, layer.out_channels]
    if isinstance(layer, nn.Linear):
        return [layer.in_features, layer.out_features]
    if isinstance(layer, _BatchNorm):
        return [layer.num_features, layer.num_features]
    raise TypeError(f"{type(layer).__name__} has no width")


def shrink(model: nn.Module, widths: Widths) -> None:
    """Cut the layers of a network down to these widths; the first channels of each stay.

    Parameters
    ----------
    model : nn.Module
    widths : mapping of str to (int, int)
        From `widths_of`, or from a file.

    Raises
    ------
    ValueError
        The network has no such layer, or it is narrower already.
    """
    whole = widths_of(model)
    for path, given in widths.items():
        taken, gives = given
        if path not in whole or type(taken) is not int or type(gives) is not int:
            raise ValueError(f"there is no layer {path!r} of width {given!r}")
        if not (1 <= taken <= whole[path][0] and 1 <= gives <= whole[path][1]):
            raise ValueError(f"the layer {path!r} cannot have the width {given!r}: it has {whole[path]}")
        if [taken, gives] != whole[path]:
            keep_channels(model.get_submodule(path), torch.arange(taken), torch.arange(gives))


def keep_channels(layer: nn.Module, taken: Tensor | None, given: Tensor | None) -> None:
    """Keep some of the channels of a convolution, linear layer or batch normalization.

    Parameters
    ----------
    layer : nn.Module
        Changed in place.
    taken : Tensor of int64, optional
        The input channels, or input features, that stay; by default all.
    given : Tensor of int64, optional
        The output channels that stay; by default all. For a depthwise convolution or a batch normalization the same.

    Raises
    ------
    ValueError
        The groups of a convolution do not divide them.
    """
    own_taken, own_given = _width(layer)
    taken = torch.arange(own_taken) if taken is None else taken
    given = torch.arange(own_given) if given is None else given
    columns = taken
    if isinstance(layer, nn.Conv2d):
        if 1 < layer.groups == layer.in_channels:
            layer.groups = len(taken)
        if len(taken) % layer.groups or len(given) % layer.groups:
            raise ValueError(f"{layer.groups} groups of channels do not divide {len(taken)} and {len(given)}")
        layer.in_channels, layer.out_channels = len(taken), len(given)
        if layer.groups > 1:
            columns = torch.arange(len(taken) // layer.groups)
    elif isinstance(layer, nn.Linear):
        layer.in_features, layer.out_features = len(taken), len(given)
    elif isinstance(layer, _BatchNorm):
        layer.num_features = len(given)
    for name, tensor in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
        if tensor.ndim:
            kept = tensor.detach()[given]
            kept = kept[:, columns] if tensor.ndim > 1 else kept
            learned = isinstance(tensor, nn.Parameter)
            setattr(layer, name, nn.Parameter(kept, tensor.requires_grad) if learned else kept)
