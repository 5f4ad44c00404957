"""Operations that mix the images of a batch, and their targets."""

import numpy as np
import torch
from torch import Tensor

from deepbloom.data.augment.registry import BATCH, augmentation


@augmentation("mixup", kind=BATCH, random=True, changes_labels=True, alpha=(0.01, 100))
def mixup(inputs: Tensor, targets: Tensor, stream: torch.Generator, alpha: float) -> tuple[Tensor, Tensor]:
    """Blend every image and its target with another of the batch (Zhang et al. 2018, https://arxiv.org/abs/1710.09412).

    x' = lambda x_i + (1 - lambda) x_j with one lambda ~ Beta(alpha, alpha) for the batch, taken as at least 1/2, so
    that x_i has the larger share.
    """
    beta = np.random.default_rng(stream.initial_seed()).beta(alpha, alpha)
    share = max(beta, 1 - beta)
    partners = torch.randperm(len(inputs), generator=stream).to(inputs.device)
    return torch.lerp(inputs[partners], inputs, share), torch.lerp(targets[partners], targets, share)


@augmentation("cutmix", kind=BATCH, random=True, changes_labels=True, alpha=(0.01, 100))
def cutmix(inputs: Tensor, targets: Tensor, stream: torch.Generator, alpha: float) -> tuple[Tensor, Tensor]:
    """Paste a rectangle of another image of the batch into every image (Yun et al. 2019, https://arxiv.org/abs/1905.04899).

    The rectangle covers 1 - lambda of the area, with one lambda ~ Beta(alpha, alpha) for the batch, and has the aspect
    of the images. Its center is uniform; what lies outside of the images is cut off. Targets are mixed by the areas.
    """
    numbers = np.random.default_rng(stream.initial_seed())
    side, centers = np.sqrt(1 - numbers.beta(alpha, alpha)), numbers.random(2)
    partners = torch.randperm(len(inputs), generator=stream).to(inputs.device)
    rows, columns = (
        slice(max(0, round(pixels * (center - side / 2))), min(pixels, round(pixels * (center + side / 2))))
        for pixels, center in zip(inputs.shape[2:], centers.tolist(), strict=True)
    )
    mixed = inputs.clone()
    mixed[:, :, rows, columns] = inputs[partners][:, :, rows, columns]
    pasted = (rows.stop - rows.start) * (columns.stop - columns.start) / inputs[0, 0].numel()
    return mixed, torch.lerp(targets, targets[partners], pasted)
