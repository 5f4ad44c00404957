"""The loss that training and the linear probe minimize."""

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
