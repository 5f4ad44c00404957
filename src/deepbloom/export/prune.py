"""Channel pruning: the least important channels of a network are removed."""

import copy
import logging
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from deepbloom.cost import count_macs
from deepbloom.data.preprocessing import to_inputs
from deepbloom.engine.checkpoint import Trained
from deepbloom.engine.evaluate import last_layer
from deepbloom.errors import RunError
from deepbloom.models.registry import create_model, get_architecture
from deepbloom.models.widths import widths_of

log = logging.getLogger("deepbloom")

STEPS = 25
"""Pruning steps; the first that reaches the target is the last."""
MOST_PRUNED = 0.9
"""Share of the channels of a layer that may go."""
MULTIPLE = 4
"""Layers keep a multiple of this number of channels, which suits vectorized code."""


def prune(trained: Trained, pixels: np.ndarray, targets: np.ndarray, target_macs: float) -> dict[str, list[int]]:
    """Remove channels from a network, and return the widths of what is left.

    The importance of a channel is the estimated change of the loss without it: Molchanov et al. 2019,
    https://arxiv.org/abs/1906.10771, eq. 8; channels that depend on each other go together: Fang et al. 2023,
    https://arxiv.org/abs/2301.12900, by torch-pruning.

    Parameters
    ----------
    trained : Trained
        On the CPU; its network is changed.
    pixels : ndarray of uint8, shape (N, S, S, 3)
        Training images.
    targets : ndarray of int64, shape (N,)
    target_macs : float
        Share of the multiply-accumulates that may be left, in (0, 1).

    Raises
    ------
    RunError
        The network has layers that cannot be cut, or too few channels.
    """
    import torch_pruning

    network, size = trained.network.requires_grad_(True), trained.preprocessing.size
    arch = str(trained.header["arch"])
    _accumulate_gradients(trained, pixels, targets)
    most = target_macs * count_macs(network, size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruner: Any = torch_pruning.pruner.BasePruner(
                network,
                torch.zeros(1, 3, size, size),
                torch_pruning.importance.GroupTaylorImportance(),
                global_pruning=True,
                isomorphic=True,
                pruning_ratio=1.0,
                max_pruning_ratio=MOST_PRUNED,
                iterative_steps=STEPS,
                round_to=MULTIPLE,
                ignored_layers=[last_layer(network.get_submodule(path)) for path in get_architecture(arch).head],
            )
            left = count_macs(network, size)
            for _ in range(STEPS):
                if left <= most:
                    break
                pruner.step()
                left = count_macs(network, size)
        network.zero_grad(set_to_none=True)
        widths = widths_of(network)
        _check_rebuilt(network, arch, len(trained.classes), size, widths)
    except Exception as error:  # torch-pruning does not support every layer
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise RunError(f"The network {arch} cannot be pruned: {reason}") from error
    if left > most:
        raise RunError(f"{arch} keeps {left / most * target_macs:.2f} of its multiply-accumulates: raise target_macs.")
    return widths


def _accumulate_gradients(trained: Trained, pixels: np.ndarray, targets: np.ndarray) -> None:
    device = torch.device("cpu")
    trained.network.eval().zero_grad()
    for start in range(0, len(pixels), 32):
        inputs = to_inputs(pixels[start : start + 32], trained.preprocessing, device)
        wanted = torch.from_numpy(targets[start : start + 32])
        (F.cross_entropy(trained.network(inputs), wanted, reduction="sum") / len(pixels)).backward()


def _check_rebuilt(network: nn.Module, arch: str, num_classes: int, size: int, widths: dict[str, list[int]]) -> None:
    """Raise `ValueError` unless a new network with these widths and weights computes the same."""
    rebuilt = create_model(arch, num_classes, widths=widths)
    rebuilt.load_state_dict(copy.deepcopy(network.state_dict()))
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if not torch.allclose(network.eval()(image), rebuilt.eval()(image), rtol=1e-3, atol=1e-4):
            raise ValueError("the rebuilt network computes something else")
