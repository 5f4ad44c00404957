"""The losses that training and the linear probe minimize."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepbloom.config.settings import RunConfig
from deepbloom.data.augment import mix_batch
from deepbloom.engine.precision import forward

if TYPE_CHECKING:
    from deepbloom.engine.teacher import Teacher


def training_loss(
    network: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    num_classes: int,
    config: RunConfig,
    stream: torch.Generator,
    precision: str,
    weights: Tensor | None = None,
    teacher: "Teacher | None" = None,
) -> tuple[Tensor, Tensor]:
    """Return the loss of one batch (scalar) and its logits, float32 of shape (B, C).

    For ``weights`` see `cross_entropy`. A ``teacher`` sees the same inputs, and takes the place of targets.
    """
    inputs, targets = mix_batch(inputs, targets, num_classes, config.augment, stream)
    logits = forward(network, inputs, precision)
    if teacher:
        return distillation(logits, teacher.probabilities(inputs, precision), teacher.temperature), logits
    return cross_entropy(logits, targets, config.train.label_smoothing, weights), logits


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
