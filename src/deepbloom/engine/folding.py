"""BatchNorm folded into the convolution in front of it: the same logits but for rounding, in less time."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CLOSE = 1e-4
"""Largest difference of a logit, relative to the largest logit, that counts as rounding."""


@torch.no_grad()
def fold_batch_norms(network: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy of a network in which a convolution and the BatchNorm that takes its output are one convolution.

    In eval mode both are linear: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3.2.

    Parameters
    ----------
    network : nn.Module
        In eval mode; not changed.
    example : Tensor, shape (B, 3, S, S)
        Images that show which layer takes which output, and that the copy gives the same logits.

    Returns
    -------
    nn.Module
        The network itself if the logits of the copy differ by more than rounding: an output went elsewhere as well.
    """
    folded = copy.deepcopy(network)
    for convolution, norm in _find_pairs(folded, example):
        layer, batch_norm = folded.get_submodule(convolution), folded.get_submodule(norm)
        assert isinstance(layer, nn.Conv2d)
        assert isinstance(batch_norm, nn.BatchNorm2d)
        folded.set_submodule(convolution, fuse_conv_bn_eval(layer, batch_norm))
        folded.set_submodule(norm, nn.Sequential(*batch_norm.children()))  # timm's has its activation inside
    expected = network(example)
    return folded if (folded(example) - expected).abs().max() <= CLOSE * expected.abs().max() else network


def _find_pairs(network: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Return the paths of convolutions, each with that of the BatchNorm that takes its output."""
    outputs: list[tuple[str, Tensor]] = []
    pairs: list[tuple[str, str]] = []
    handles = []
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(lambda _m, _i, out, path=path: outputs.append((path, out))))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:

            def look(_module: nn.Module, inputs: tuple[Tensor, ...], path: str = path) -> None:
                pairs.extend((made, path) for made, output in outputs if output is inputs[0])

            handles.append(module.register_forward_pre_hook(look))
    try:
        network(example)
    finally:
        for handle in handles:
            handle.remove()
    return pairs
