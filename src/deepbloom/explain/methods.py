"""Eight ways to turn the activations of a layer into a map of evidence. Each is one function; `METHODS` names them.

A method returns the map before its ReLU and at the layer's own size, float32 of shape (B, h, w).
`deepbloom.explain.cam` does what all of them share: the ReLU, the scaling to [0, 1] and the enlargement.

Notation: A is the activation, shape (B, K, h, w); g = dy/dA its gradient for the score y that is explained.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGES_AT_A_TIME = 16
ACTIVATIONS_AT_A_TIME = 128


class Probe(Protocol):
    """Asks the network what the score would be if something else came in. ``image`` is an index into the batch."""

    inputs: Tensor
    """The images, shape (B, C, H, W)."""
    scores: Tensor
    """What is explained, shape (B,)."""

    def score_inputs(self, image: int, inputs: Tensor) -> Tensor:
        """Return the scores, shape (N,), if the images were ``inputs``, shape (N, C, H, W)."""

    def score_activations(self, image: int, activations: Tensor) -> Tensor:
        """Return the scores, shape (N,), if the layer gave ``activations``, shape (N, K, h, w)."""


@dataclass(frozen=True)
class Method:
    """A method and what it has to be given.

    Attributes
    ----------
    draw : callable
        Called with (activations, gradients), (activations, probe) or (activations), in this order of ``needs``.
    needs : str
        ``gradients``, ``probe`` (many forward passes per image) or ``activations`` (no class enters the map).
    title : str
        The name as its authors write it.
    """

    draw: Callable[..., Tensor]
    needs: str
    title: str


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return sum_k a_k A_k, where a_k is the mean of g_k over positions.

    Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, equations 1 (a_k) and 2.
    """
    return _weigh(activations, gradients.mean((2, 3)))


def gradcam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return sum_k w_k A_k, w_k = sum over positions of alpha relu(g), alpha = g^2 / (2 g^2 + g^3 sum A).

    Chattopadhay et al. 2018, https://arxiv.org/abs/1710.11063, equation 19 for alpha (the score is the exponential
    of the logit, a factor per image that scaling removes). Departure: 1e-6 is added to the denominator, as in the
    grad-cam package; where gradients are below 1e-3 it outweighs the rest.
    """
    squared = gradients**2
    alpha = squared / (2 * squared + activations.sum((2, 3), keepdim=True) * squared * gradients + 1e-6)
    return _weigh(activations, (alpha * gradients.relu()).sum((2, 3)))


def hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return sum_k g_k A_k, multiplied position by position.

    Draelos and Carin 2020, https://arxiv.org/abs/2011.08891. Behind the last convolution of a network that ends in
    one linear layer, its sum over positions is the logit without the bias.
    """
    return (activations * gradients).sum(1)


def layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return sum_k relu(g_k) A_k, multiplied position by position.

    Jiang et al. 2021, https://doi.org/10.1109/TIP.2021.3089943.
    """
    return (activations * gradients.relu()).sum(1)


def xgradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return sum_k w_k A_k, where w_k is the sum of g_k A_k over positions divided by the sum of A_k.

    Fu et al. 2020, https://arxiv.org/abs/2008.02312. Departure: 1e-7 is added to the divisor, as in the grad-cam
    package, so that a silent channel has weight zero.
    """
    weights = (activations * gradients).sum((2, 3)) / (activations.sum((2, 3)) + 1e-7)
    return _weigh(activations, weights)


def eigencam(activations: Tensor) -> Tensor:
    """Return the projection of every position's K activations on their first principal component.

    Muhammad and Yeasin 2020, https://arxiv.org/abs/2008.00299. No class enters it. Departures: positions are centerd
    before the decomposition, as in the grad-cam package; and the component's sign, which the decomposition leaves
    open, is the one with which the map grows where the layer is more active. The package keeps whichever sign its
    linear algebra happens to give, so that its map may be the opposite of this one.
    """
    positions = activations.flatten(2).transpose(1, 2)  # (B, hw, K)
    left, strengths, _ = torch.linalg.svd(positions - positions.mean(1, keepdim=True), full_matrices=False)
    projection = left[..., 0] * strengths[:, :1]  # (B, hw)
    activity = positions.abs().sum(2)
    agreement = (projection * (activity - activity.mean(1, keepdim=True))).sum(1, keepdim=True)
    projection = torch.where(agreement < 0, -projection, projection)
    return projection.view(len(activations), *activations.shape[2:])


def scorecam(activations: Tensor, probe: Probe) -> Tensor:
    """Return sum_k s_k A_k, where s is the softmax over k of the scores of the image masked by each A_k.

    Wang et al. 2020, https://arxiv.org/abs/1910.01279, algorithm 1 (the baseline's score drops out of the softmax).
    A mask is the channel enlarged to the image and scaled to [0, 1]; K forward passes per image.
    """
    size = probe.inputs.shape[2:]
    weights = []
    for image, channels in enumerate(activations):
        scores = []
        for some in channels.split(IMAGES_AT_A_TIME):
            masks = F.interpolate(some[:, None], size, mode="bilinear", align_corners=True)  # (N, 1, H, W)
            low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
            masks = (masks - low) / (high - low + 1e-8)
            scores.append(probe.score_inputs(image, probe.inputs[image] * masks))
        weights.append(torch.cat(scores).softmax(0))
    return _weigh(activations, torch.stack(weights))


def ablationcam(activations: Tensor, probe: Probe) -> Tensor:
    """Return sum_k (y - y_k) A_k, where y_k is the score with channel k set to zero.

    Desai and Ramaswamy 2020, https://doi.org/10.1109/WACV45572.2020.9093360. Departures: the paper divides the drop
    by y, which changes nothing after scaling unless y is negative, and then turns the map around; here it does not.
    The grad-cam package sets a channel of a layer with negative activations not to zero but far below all others.
    """
    weights = []
    for image, channels in enumerate(activations):
        scores = []
        for silenced in torch.arange(len(channels), device=channels.device).split(ACTIVATIONS_AT_A_TIME):
            copies = channels.repeat(len(silenced), 1, 1, 1)
            copies[torch.arange(len(silenced)), silenced] = 0
            scores.append(probe.score_activations(image, copies))
        weights.append(probe.scores[image] - torch.cat(scores))
    return _weigh(activations, torch.stack(weights))


def _weigh(activations: Tensor, weights: Tensor) -> Tensor:
    """Return the sum over channels of (B, K, h, w) weighted by (B, K)."""
    return torch.einsum("bkhw,bk->bhw", activations, weights)


METHODS = {
    "gradcam": Method(gradcam, "gradients", "Grad-CAM"),
    "gradcam++": Method(gradcam_plus_plus, "gradients", "Grad-CAM++"),
    "hirescam": Method(hirescam, "gradients", "HiResCAM"),
    "layercam": Method(layercam, "gradients", "LayerCAM"),
    "xgradcam": Method(xgradcam, "gradients", "XGrad-CAM"),
    "eigencam": Method(eigencam, "activations", "Eigen-CAM"),
    "scorecam": Method(scorecam, "probe", "Score-CAM"),
    "ablationcam": Method(ablationcam, "probe", "Ablation-CAM"),
}
