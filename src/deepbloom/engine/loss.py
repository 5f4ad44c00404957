"""The losses that training and the linear probe minimize."""

from torch import Tensor
from torch.nn import functional as F


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
