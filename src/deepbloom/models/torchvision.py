"""torchvision's networks, with its ImageNet weights from torch's hub cache."""

from functools import partial

from torch import nn
from torchvision import models
from torchvision.models import WeightsEnum

from deepbloom.data.preprocessing import Preprocessing
from deepbloom.models.registry import Decorator, architecture
from deepbloom.models.weights import fetch_weights


def _published(name: str, weights: WeightsEnum, head: str, target_layer: str, description: str) -> Decorator:
    """Register a network with its published weights, and the preprocessing that they were trained with."""
    data = weights.transforms()
    return architecture(
        name,
        head=head,
        target_layer=target_layer,
        description=description,
        preprocessing=Preprocessing(data.crop_size[0], tuple(data.mean), tuple(data.std), data.interpolation.value),
        imagenet=partial(fetch_weights, weights.url),
    )


_efficientnet = partial(
    _published,
    head="classifier",
    target_layer="features.8",
    description="inverted residual blocks with squeeze-and-excitation, in seven stages",
)


@_published(
    "resnet18",
    models.ResNet18_Weights.IMAGENET1K_V1,
    head="fc",
    target_layer="layer4",
    description="eight residual blocks in four stages",
)
def resnet18(num_classes: int) -> nn.Module:
    """Return ResNet18 (He et al. 2016, https://arxiv.org/abs/1512.03385)."""
    return models.resnet18(num_classes=num_classes)


@_efficientnet("efficientnet_b0", models.EfficientNet_B0_Weights.IMAGENET1K_V1)
def efficientnet_b0(num_classes: int) -> nn.Module:
    """Return EfficientNet-B0 (Tan and Le 2019, https://arxiv.org/abs/1905.11946), for images of 224 pixels."""
    return models.efficientnet_b0(num_classes=num_classes)


@_efficientnet("efficientnet_b2", models.EfficientNet_B2_Weights.IMAGENET1K_V1)
def efficientnet_b2(num_classes: int) -> nn.Module:
    """Return EfficientNet-B2, for images of 288 pixels."""
    return models.efficientnet_b2(num_classes=num_classes)


@_efficientnet("efficientnet_b4", models.EfficientNet_B4_Weights.IMAGENET1K_V1)
def efficientnet_b4(num_classes: int) -> nn.Module:
    """Return EfficientNet-B4, for images of 380 pixels."""
    return models.efficientnet_b4(num_classes=num_classes)
