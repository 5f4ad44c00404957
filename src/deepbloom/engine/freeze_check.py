"""Proof that training changed what it declared and nothing else."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from deepbloom.models.freezing import covers

MAX_NAMED = 10


def hash_frozen(model: nn.Module, trainable: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of every frozen weight and buffer, by name.

    Parameters
    ----------
    model : nn.Module
    trainable : iterable of str
        Paths of the modules that train; the empty path is the whole network.
    """
    return {
        name: hashlib.sha256(_bytes(tensor)).hexdigest()
        for name, tensor in model.state_dict().items()
        if not covers(trainable, name)
    }


def check_freeze(
    before: Mapping[str, str], model: nn.Module, optimizer: torch.optim.Optimizer, trainable: Iterable[str]
) -> dict[str, Any]:
    """Compare a trained network with what was declared.

    Parameters
    ----------
    before : dict
        `hash_frozen` of the network as training found it.
    model : nn.Module
    optimizer : torch.optim.Optimizer
        The one that trained it.
    trainable : iterable of str

    Returns
    -------
    dict
        ``frozen``: weights and buffers that had to stay. ``changed``: those that did not, bit for bit.
        ``declared`` and ``in_optimizer``: numbers that may train, and that the optimizer holds. ``undeclared`` and
        ``missing``: parameters that it holds and should not, and the reverse. Names stop after ten.
    """
    after = hash_frozen(model, trainable)
    parameters = dict(model.named_parameters())
    declared = {name for name in parameters if covers(trainable, name)}
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    in_optimizer = {name for name, parameter in parameters.items() if id(parameter) in held}
    return {
        "frozen": len(before),
        "changed": sorted(name for name in before if after.get(name) != before[name])[:MAX_NAMED],
        "declared": sum(parameters[name].numel() for name in declared),
        "in_optimizer": sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"]),
        "undeclared": sorted(in_optimizer - declared)[:MAX_NAMED],
        "missing": sorted(declared - in_optimizer)[:MAX_NAMED],
    }


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
