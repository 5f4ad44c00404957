"""The networks by name: what each is made of, which of its parts train, and how an image has to be prepared for it."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from deepbloom.config.settings import check_range
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.errors import ConfigError, unknown
from deepbloom.models import scratch as from_scratch
from deepbloom.models import weights as pretrained
from deepbloom.models.freezing import freeze

log = logging.getLogger(__name__)

IMAGENET_PREPROCESSING = Preprocessing()
HEAD_STD = 1e-3
"""Standard deviation of a new classifier's weights: almost zero, but enough for class activation maps to exist."""


@dataclass(frozen=True)
class ModelSpec:
    """A network of the registry."""

    name: str
    training_type: str
    """``from scratch``, ``frozen`` (only the classifier trains) or ``partial`` (the last stages train too)."""
    trainable: tuple[str, ...]
    """Paths of the modules that train; the empty path is the whole network. All others keep weights and statistics."""
    head: str
    """Path of the last linear layer."""
    target_layer: str
    """Path of the module that class activation maps look at by default: the last convolutional stage."""
    remarks: str
    """One line for the report's table."""
    build: Callable[[int], nn.Module]
    """Makes the network with random weights for a number of classes."""
    stages: Callable[[nn.Module], list[tuple[str, nn.Module]]]
    """Cuts the network into stages that, applied in turn, are the network; named by module path where there is one."""
    preprocessing: Preprocessing = IMAGENET_PREPROCESSING
    imagenet: Callable[[], dict[str, Tensor]] | None = None
    """Finds the ImageNet weights, where there are any."""

    @property
    def weights(self) -> tuple[str, ...]:
        """Keywords that ``model.weights`` takes besides the path of a file."""
        return ("imagenet", "none") if self.imagenet else ("none",)

    @property
    def default_weights(self) -> str:
        """What ``model.weights`` is where it is not given."""
        return self.weights[0]


SCRATCH_CNN = ModelSpec(
    name="scratch_cnn",
    training_type="from scratch",
    trainable=("",),
    head="fc",
    target_layer="block3",
    remarks="three convolutions with pooling, two fully connected layers",
    build=from_scratch.scratch_cnn,
    stages=from_scratch.child_stages,
)
MINI_RESNET = ModelSpec(
    name="mini_resnet",
    training_type="from scratch",
    trainable=("",),
    head="fc",
    target_layer="layer4",
    remarks="five residual blocks y = F(x) + x",
    build=from_scratch.mini_resnet,
    stages=from_scratch.child_stages,
)
RESNET18_FROZEN = ModelSpec(
    name="resnet18_frozen",
    training_type="frozen",
    trainable=("fc",),
    head="fc",
    target_layer="layer4",
    remarks="a linear classifier on fixed ImageNet features",
    build=pretrained.resnet18,
    stages=pretrained.resnet18_stages,
    imagenet=pretrained.resnet18_imagenet,
)
RESNET18_PARTIAL = replace(
    RESNET18_FROZEN,
    name="resnet18_partial",
    training_type="partial",
    trainable=("layer3", "layer4", "fc"),
    remarks="the last two of four stages and the classifier train",
)
EFFICIENTNET_B0_PARTIAL = ModelSpec(
    name="efficientnet_b0_partial",
    training_type="partial",
    trainable=("features.6", "features.7", "classifier"),
    head="classifier.1",
    target_layer="features.8",
    remarks="the last two of seven stages and the classifier train; the 1x1 convolution before it stays fixed",
    build=pretrained.efficientnet_b0,
    stages=pretrained.efficientnet_b0_stages,
    preprocessing=Preprocessing(interpolation="bicubic"),
    imagenet=pretrained.efficientnet_b0_imagenet,
)
EFFICIENTNET_LITE0_FROZEN = ModelSpec(
    name="efficientnet_lite0_frozen",
    training_type="frozen",
    trainable=("classifier",),
    head="classifier.1",
    target_layer="bn2",
    remarks="a linear classifier on fixed ImageNet features",
    build=pretrained.efficientnet_lite0,
    stages=pretrained.efficientnet_lite0_stages,
    preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    imagenet=pretrained.efficientnet_lite0_imagenet,
)
EFFICIENTNET_LITE0_PARTIAL = replace(
    EFFICIENTNET_LITE0_FROZEN,
    name="efficientnet_lite0_partial",
    training_type="partial",
    trainable=("blocks.5", "blocks.6", "conv_head", "bn2", "classifier"),
    remarks="the last two of seven stages, the 1x1 convolution and the classifier train",
)
SPECS = {
    spec.name: spec
    for spec in (
        SCRATCH_CNN,
        MINI_RESNET,
        RESNET18_FROZEN,
        RESNET18_PARTIAL,
        EFFICIENTNET_B0_PARTIAL,
        EFFICIENTNET_LITE0_FROZEN,
        EFFICIENTNET_LITE0_PARTIAL,
    )
}


def model_names() -> tuple[str, ...]:
    """Return the names that `create_model` knows, from the simplest network to the strongest."""
    return tuple(SPECS)


def get_spec(name: str) -> ModelSpec:
    """Return what is known of a network.

    Raises
    ------
    ConfigError
        There is none of that name.
    """
    if name not in SPECS:
        raise ConfigError(unknown("model", name, SPECS))
    return SPECS[name]


def initialize_head(head: nn.Module) -> None:
    """Start a new linear classifier near zero, so that the first loss is ln C and no feature is preferred by chance.

    timm and torchvision draw EfficientNet's classifier uniformly from ±1/sqrt(C), which is ten times too wide for 1,280
    features: the first loss is then up to twice ln C, and runs on few images never recover.
    """
    assert isinstance(head, nn.Linear)
    nn.init.normal_(head.weight, std=HEAD_STD)
    nn.init.zeros_(head.bias)


def create_model(name: str, num_classes: int, weights: str = "none") -> nn.Module:
    """Make a network, in eval mode, in which only the parameters of ``get_spec(name).trainable`` take gradients.

    Random weights follow from torch's global seed.

    Parameters
    ----------
    name : str
        One of `model_names`.
    num_classes : int
    weights : str
        ``none`` (random), ``imagenet``, or the path of a ``.safetensors``, ``.pth`` or ``.pt`` state dict. Where that
        has a head of another size, the new head stays random.

    Returns
    -------
    nn.Module
        Maps float32 (B, 3, H, W) to logits (B, num_classes).

    Raises
    ------
    ConfigError
        The name, the number of classes or the keyword is not valid.
    WeightsError
        The weights cannot be found or read, or they belong to another network.
    """
    spec = get_spec(name)
    check_range("num_classes", num_classes, 1)
    if weights not in spec.weights and weights.isidentifier():
        raise ConfigError(f"{unknown('model.weights', weights, spec.weights)} Or give the path of a weights file.")
    model = spec.build(num_classes)
    initialize_head(model.get_submodule(spec.head))
    if weights == "imagenet" and spec.imagenet:
        pretrained.load_weights(model, spec.imagenet(), spec.head, "The file of ImageNet weights")
    elif weights != "none":
        path = Path(os.path.expanduser(weights))
        if not pretrained.load_weights(model, pretrained.read_state_dict(path), spec.head, str(path)):
            log.warning("%s has no head for %d classes: the new head starts from random weights.", path, num_classes)
    freeze(model, spec.trainable)
    return model.eval()
