"""Optimizer and schedule. The learning rate is a pure function of the step: nothing to save, nothing to go wrong."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from deepbloom.config.settings import OptimizerConfig, SchedulerConfig
from deepbloom.models.freezing import trained_depths


def make_optimizer(model: nn.Module, config: OptimizerConfig, head: Sequence[str]) -> torch.optim.Optimizer:
    """Return an optimizer that holds exactly the parameters with ``requires_grad``.

    Biases and normalization (parameters of one dimension) are not decayed. The peak rate is ``lr`` in the classifier,
    at the paths ``head``, and ``layer_decay`` times that of the block behind it in each block that trains. Each group
    carries its peak rate as ``peak_lr``; the loop sets ``lr`` from it at every step.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    depths = trained_depths(model, head)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = config.lr * config.layer_decay ** depths[name]
            groups.setdefault((rate, parameter.ndim > 1), []).append(parameter)
    settings = [
        {"params": parameters, "lr": rate, "peak_lr": rate, "weight_decay": config.weight_decay if decayed else 0.0}
        for (rate, decayed), parameters in groups.items()
    ]
    if config.name == "adam":
        return torch.optim.Adam(settings, fused=True)
    if config.name == "adamw":
        return torch.optim.AdamW(settings, fused=True)
    return torch.optim.SGD(settings, momentum=0.9, nesterov=True)


def lr_factor(step: int, steps_per_epoch: int, epochs: int, config: SchedulerConfig) -> float:
    """Return the learning rate at ``step`` (0, 1, ... over the whole run) as a multiple of the peak, in [0, 1].

    ``step``: gamma ** (epoch // every_epochs). ``one_cycle``: linear warm-up to the peak, then half a cosine that is
    zero at the last step (Smith 2018, https://arxiv.org/abs/1803.09820, with the cosine of Loshchilov & Hutter 2017).
    ``cosine``: the same without warm-up. Both reach peak and zero in a run of any length; a single step is the peak.
    """
    if config.name == "constant":
        return 1.0
    if config.name == "step":
        return config.gamma ** (step // steps_per_epoch // config.every_epochs)
    total = steps_per_epoch * epochs
    peak = min(round(config.warmup_fraction * total), max(0, total - 2)) if config.name == "one_cycle" else 0
    if step < peak:
        return (step + 1) / (peak + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - peak) / max(1, total - 1 - peak)))


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to ``factor`` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[nn.Parameter, str]) -> dict[str, Tensor]:
    """Return the optimizer's state as flat named tensors, ``PARAMETER|KEY``."""
    return {
        f"{names[parameter]}|{key}": value
        for parameter, state in cast(dict[nn.Parameter, dict[str, Tensor]], optimizer.state).items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


@torch.no_grad()
def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], names: dict[nn.Parameter, str]
) -> None:
    """Put back what `optimizer_tensors` returned.

    Raises
    ------
    KeyError
        The optimizer holds no such parameter.
    """
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    by_name = {name: parameter for parameter, name in names.items() if parameter in held}
    for full_name, value in tensors.items():
        name, key = full_name.rsplit("|", 1)
        parameter = by_name[name]
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter).copy_(value)  # fused kernels need the parameter's memory layout
        optimizer.state[parameter][key] = value.to(parameter.device)
