"""Evaluation: one pass without augmentation that draws no random numbers and changes nothing."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from deepbloom.engine.precision import forward

EVALUATION_BATCH = 64
"""Images per forward pass; results do not depend on it beyond rounding."""


@torch.inference_mode()
def predict_logits(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device, precision: str = "fp32"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits and targets of every image, in order.

    Parameters
    ----------
    network : nn.Module
        Run in eval mode; the mode of every module is left as found.
    batches : iterable of (inputs, targets)
        Inputs float, shape (B, ...); targets int64, shape (B,).
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
