"""Evaluation: one pass without augmentation that draws no random numbers and changes nothing."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from deepbloom.engine.precision import forward
from deepbloom.errors import CheckpointError

Batches = Iterable[tuple[Tensor, Tensor]]
"""Inputs, float of shape (B, ...), with their targets, int64 of shape (B,)."""


@torch.inference_mode()
def predict_logits(
    network: nn.Module, batches: Batches, device: torch.device, precision: str = "fp32"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits and targets of every image, in order; nothing is random, and nothing changes.

    Parameters
    ----------
    network : nn.Module
        Run in eval mode; the mode of every module is left as found.
    batches : Batches
    device : torch.device
    precision : str
        ``fp32``; validation between epochs takes that of training.

    Returns
    -------
    logits : ndarray of float32, shape (N, C)
    targets : ndarray of int64, shape (N,)
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    logits, targets = [], []
    try:
        for inputs, batch_targets in batches:
            logits.append(forward(network, inputs.to(device, non_blocking=True), precision).cpu())
            targets.append(batch_targets.cpu())
    finally:
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(logits).numpy(), torch.cat(targets).numpy()


def check_finite(logits: np.ndarray, network: str | Path) -> None:
    """Raise `CheckpointError` if a logit is not finite: in float32 the weights are too large for these images."""
    broken = int((~np.isfinite(logits).all(1)).sum())
    if broken:
        raise CheckpointError(f"{network} gives logits that are not finite for {broken} of {len(logits)} images.")


@contextmanager
def record_inputs(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the inputs of a layer, (B, F) each on the CPU, as long as the context lasts."""
    found: list[Tensor] = []

    def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0].detach().flatten(1).float().cpu())

    hook = layer.register_forward_pre_hook(record)
    try:
        yield found
    finally:
        hook.remove()


def last_layer(module: nn.Module) -> nn.Module:
    """Return the last linear or convolutional layer of a classifier: the one that gives the logits."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
