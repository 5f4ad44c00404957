"""Class activation mapping methods. Each is one function; its decorator registers it in `METHODS`.

A method returns the map before the ReLU at the layer's own size, float32 of shape (B, h, w). The shared steps (ReLU,
scaling to [0, 1], upsampling) are in `deepbloom.explain.cam`.

Notation: A is the activation, shape (B, K, h, w); g = dy/dA is the gradient of the score y that the map explains.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepbloom.errors import ConfigError
from deepbloom.explain.layers import from_map, hooked

INPUTS_PER_PASS = 16
ACTIVATIONS_PER_PASS = 128


def explained_scores(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the explained score, shape (B,): the logit of classes (B, 1), or the difference of two, (B, 2)."""
    chosen = logits.gather(1, classes.expand(len(logits), -1))
    return chosen[:, 0] if chosen.shape[1] == 1 else chosen[:, 0] - chosen[:, 1]


@dataclass(frozen=True)
class Probe:
    """Scores changed inputs, or changed activations of a layer; ``image`` is an index into the batch."""

    model: nn.Module
    layer: nn.Module
    inputs: Tensor
    """The images, shape (B, C, H, W)."""
    logits: Tensor
    classes: Tensor

    @property
    def scores(self) -> Tensor:
        """The scores of the unchanged images, shape (B,)."""
        return explained_scores(self.logits, self.classes)

    def score_inputs(self, image: int, inputs: Tensor) -> Tensor:
        """Return the scores, shape (N,), of ``inputs``, shape (N, C, H, W), which replace the image."""
        logits = self.model(inputs.contiguous(memory_format=torch.channels_last))
        return explained_scores(logits, self.classes[image, None])

    def score_activations(self, image: int, activations: Tensor) -> Tensor:
        """Return the scores, shape (N,), if the layer's output were ``activations``, shape (N, K, h, w)."""

        def replace(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            return from_map(activations.to(output.dtype), output, self.inputs.shape[2:]).clone()

        # The part before the layer sees the image once; from the layer on, the batch is that of the activations.
        with hooked([(self.layer, replace)]):
            logits = self.model(self.inputs[image, None])
        if len(logits) != len(activations):
            raise ConfigError("This network fixes the size of its batch before the target layer; choose a later one.")
        return explained_scores(logits, self.classes[image, None])


Needs = Literal["activations", "gradients", "forward_passes"]
Draw = TypeVar("Draw", bound=Callable[..., Tensor])


@dataclass(frozen=True)
class Method:
    """A registered method."""

    draw: Callable[..., Tensor]
    """Called with (activations), (activations, gradients) or (activations, `Probe`), in this order of ``needs``."""
    needs: Needs
    """``activations`` (the map is the same for all classes), ``gradients``, or ``forward_passes`` (many per image)."""
    title: str
    """The name as its authors write it."""

    @property
    def is_slow(self) -> bool:
        """Whether a map costs many forward passes."""
        return self.needs == "forward_passes"


METHODS: dict[str, Method] = {}


def cam_method(name: str, *, title: str, needs: Needs = "gradients") -> Callable[[Draw], Draw]:
    """Register a function as the method ``name``; the parameters are those of `Method`.

    Raises
    ------
    ValueError
        The name is taken.
    """

    def register(draw: Draw) -> Draw:
        if name in METHODS:
            raise ValueError(f"There is a CAM method {name!r} already.")
        METHODS[name] = Method(draw, needs, title)
        return draw

    return register


@cam_method("gradcam", title="Grad-CAM")
def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return sum_k a_k A_k, where a_k is the mean of g_k over positions.

    Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, equations 1 (a_k) and 2.
    """
    return _weigh(activations, gradients.mean((2, 3)))


@cam_method("gradcam++", title="Grad-CAM++")
def gradcam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return sum_k w_k A_k, w_k = sum over positions of alpha relu(g), alpha = g^2 / (2 g^2 + g^3 sum A).

    Chattopadhay et al. 2018, https://arxiv.org/abs/1710.11063, equation 19 for alpha (the score is the exponential
    of the logit; this factor per image cancels in the scaling). Departure: the denominator has 1e-6 added, as in the
    grad-cam package; it outweighs the rest where gradients are below 1e-3.
    """
    squared = gradients**2
    alpha = squared / (2 * squared + activations.sum((2, 3), keepdim=True) * squared * gradients + 1e-6)
    return _weigh(activations, (alpha * gradients.relu()).sum((2, 3)))


@cam_method("hirescam", title="HiResCAM")
def hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return sum_k g_k A_k, multiplied position by position.

    Draelos and Carin 2020, https://arxiv.org/abs/2011.08891. At the last convolution of a network that ends in one
    linear layer, the map sums to the logit without the bias.
    """
    return (activations * gradients).sum(1)


@cam_method("layercam", title="LayerCAM")
def layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return sum_k relu(g_k) A_k, multiplied position by position.

    Jiang et al. 2021, https://doi.org/10.1109/TIP.2021.3089943.
    """
    return (activations * gradients.relu()).sum(1)


@cam_method("xgradcam", title="XGrad-CAM")
def xgradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return sum_k w_k A_k, where w_k is the sum of g_k A_k over positions divided by the sum of A_k.

    Fu et al. 2020, https://arxiv.org/abs/2008.02312. Departure: the divisor has 1e-7 added, as in the grad-cam
    package, so that a silent channel has weight zero.
    """
    weights = (activations * gradients).sum((2, 3)) / (activations.sum((2, 3)) + 1e-7)
    return _weigh(activations, weights)


@cam_method("eigencam", title="Eigen-CAM", needs="activations")
def eigencam(activations: Tensor) -> Tensor:
    """Return the projection of each position's K activations on their first principal component.

    Muhammad and Yeasin 2020, https://arxiv.org/abs/2008.00299. Departures: positions are centered before the
    decomposition, as in the grad-cam package. The decomposition leaves the component's sign open; here the map grows
    with the layer's activity. The package keeps the sign its linear algebra returns, so its map may be the opposite.
    """
    positions = activations.flatten(2).transpose(1, 2)  # (B, hw, K)
    left, strengths, _ = torch.linalg.svd(positions - positions.mean(1, keepdim=True), full_matrices=False)
    projection = left[..., 0] * strengths[:, :1]  # (B, hw)
    activity = positions.abs().sum(2)
    agreement = (projection * (activity - activity.mean(1, keepdim=True))).sum(1, keepdim=True)
    projection = torch.where(agreement < 0, -projection, projection)
    return projection.view(len(activations), *activations.shape[2:])


@cam_method("scorecam", title="Score-CAM", needs="forward_passes")
def scorecam(activations: Tensor, probe: Probe) -> Tensor:
    """Return sum_k s_k A_k, where s is the softmax over k of the scores of the image masked by each A_k.

    Wang et al. 2020, https://arxiv.org/abs/1910.01279, algorithm 1 (the baseline's score cancels in the softmax).
    A mask is the channel upsampled to the image and scaled to [0, 1]; K forward passes per image.
    """
    size = probe.inputs.shape[2:]
    weights = []
    for image, channels in enumerate(activations):
        scores = []
        for some in torch.split(channels, INPUTS_PER_PASS):
            masks = F.interpolate(some[:, None], size, mode="bilinear", align_corners=True)  # (N, 1, H, W)
            low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
            masks = (masks - low) / (high - low + 1e-8)
            scores.append(probe.score_inputs(image, probe.inputs[image] * masks))
        weights.append(torch.cat(scores).softmax(0))
    return _weigh(activations, torch.stack(weights))


@cam_method("ablationcam", title="Ablation-CAM", needs="forward_passes")
def ablationcam(activations: Tensor, probe: Probe) -> Tensor:
    """Return sum_k (y - y_k) A_k, where y_k is the score with channel k set to zero.

    Desai and Ramaswamy 2020, https://doi.org/10.1109/WACV45572.2020.9093360. Departures: the paper divides the drop
    by y; that cancels in the scaling, except that a negative y inverts the map, which it does not do here. The
    grad-cam package sets a channel of a layer with negative activations far below all others instead of to zero.
    """
    weights = []
    for image, channels in enumerate(activations):
        scores = []
        for silenced in torch.split(torch.arange(len(channels), device=channels.device), ACTIVATIONS_PER_PASS):
            copies = channels.repeat(len(silenced), 1, 1, 1)
            copies[torch.arange(len(silenced)), silenced] = 0
            scores.append(probe.score_activations(image, copies))
        weights.append(probe.scores[image] - torch.cat(scores))
    return _weigh(activations, torch.stack(weights))


def _weigh(activations: Tensor, weights: Tensor) -> Tensor:
    """Return the sum over channels of (B, K, h, w) weighted by (B, K)."""
    return torch.einsum("bkhw,bk->bhw", activations, weights)
