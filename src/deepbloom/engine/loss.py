"""The losses that training and the linear probe minimize."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepbloom.data.augment import mix_batch
from deepbloom.engine.precision import forward
from deepbloom.rng import generator

if TYPE_CHECKING:
    from deepbloom.engine.plan import Plan


def training_loss(
    plan: "Plan", network: nn.Module, inputs: Tensor, targets: Tensor, epoch: int, step: int
) -> tuple[Tensor, Tensor]:
    """Return the loss of one batch (scalar) and its logits, float32 of shape (B, C).

    A teacher sees the inputs as they are, the network sees them at the train resolution of the epoch, and the teacher's
    probabilities take the place of targets.

    Parameters
    ----------
    plan : Plan
    network : nn.Module
    inputs : float32 Tensor of shape (B, 3, S, S)
        Or cached features.
    targets : int64 Tensor of shape (B,)
    epoch, step : int
        From 1, and from 0: which images are mixed depends on them.
    """
    config, stream = plan.config, generator(plan.config.seed, "mix", epoch, step)
    inputs, targets = mix_batch(inputs, targets, len(plan.source.class_names), config.augment, stream)
    if plan.teacher:
        wanted = plan.teacher.probabilities(inputs, plan.precision)
        logits = forward(network, resized(inputs, plan.schedule.copy(epoch).resolution), plan.precision)
        return distillation(logits, wanted, plan.teacher.temperature), logits
    logits = forward(network, inputs, plan.precision)
    return cross_entropy(logits, targets, config.train.label_smoothing, plan.class_weights), logits


def resized(inputs: Tensor, resolution: int) -> Tensor:
    """Return inputs, (B, 3, S, S), as (B, 3, T, T) for a smaller resolution T (bilinear, antialiased)."""
    if inputs.shape[-1] == resolution:
        return inputs
    smaller = F.interpolate(inputs, (resolution, resolution), mode="bilinear", antialias=True)
    return smaller.contiguous(memory_format=torch.channels_last)


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float, weights: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy with label smoothing, a scalar.

    Parameters
    ----------
    logits : float32 Tensor of shape (B, C)
    targets : Tensor
        Classes, int64 of shape (B,), or probabilities, float32 of shape (B, C).
    smoothing : float
    weights : float32 Tensor of shape (C,), optional
        Multiply the losses of images by their classes; those of mixed images by their mixture.
    """
    if weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)
    of_images = targets @ weights if targets.is_floating_point() else weights[targets]
    return (F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing) * of_images).mean()


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² KL(teacher || softmax(logits / T)), the mean over images, a scalar.

    Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2, without the term for labels, as Beyer et al. 2022,
    https://arxiv.org/abs/2106.05237, section 3.

    Parameters
    ----------
    logits : float32 Tensor of shape (B, C)
    teacher : float32 Tensor of shape (B, C)
        Probabilities at the same temperature.
    temperature : float
    """
    return temperature**2 * F.kl_div(F.log_softmax(logits / temperature, 1), teacher, reduction="batchmean")
