"""Pruned networks: how many channels each layer has, and how to rebuild them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Widths = Mapping[str, Any]
"""By module path, the number of channels that a layer takes and gives: ``[in, out]``."""


def widths_of(model: nn.Module) -> dict[str, list[int]]:
    """Return the widths of a network's convolutions, linear layers and batch normalizations."""
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            found[path] = [module.in_channels, module.out_channels]
        elif isinstance(module, nn.Linear):
            found[path] = [module.in_features, module.out_features]
        elif isinstance(module, _BatchNorm):
            found[path] = [module.num_features, module.num_features]
    return found


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
            _cut(model.get_submodule(path), taken, gives)


def _cut(layer: nn.Module, taken: int, gives: int) -> None:
    if isinstance(layer, nn.Conv2d):
        if 1 < layer.groups == layer.in_channels:
            layer.groups = taken
        if taken % layer.groups or gives % layer.groups:
            raise ValueError(f"{layer.groups} groups of channels do not divide {taken} and {gives}")
        layer.in_channels, layer.out_channels = taken, gives
        taken //= layer.groups
    elif isinstance(layer, nn.Linear):
        layer.in_features, layer.out_features = taken, gives
    elif isinstance(layer, _BatchNorm):
        layer.num_features = gives
    for name, tensor in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
        if tensor.ndim:
            kept = tensor[:gives, :taken] if tensor.ndim > 1 else tensor[:gives]
            kept = kept.detach().clone()
            learned = isinstance(tensor, nn.Parameter)
            setattr(layer, name, nn.Parameter(kept, tensor.requires_grad) if learned else torch.as_tensor(kept))
