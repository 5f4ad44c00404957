"""Layers of networks with tokens and with channels last: as maps, and the one that is explained by default."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from deepbloom.explain.cam import class_activation_maps
from deepbloom.explain.layers import find_target_layer, from_map, is_map, to_map
from deepbloom.explain.methods import METHODS

VIT: dict[str, Any] = {"depth": 2, "embed_dim": 24, "num_heads": 2, "patch_size": 8, "img_size": 32}
NETWORKS: dict[str, tuple[dict[str, Any], str, tuple[int, int]]] = {
    "vit_tiny_patch16_224": (VIT, "blocks.1.norm1", (4, 4)),
    "deit_tiny_distilled_patch16_224": (VIT, "blocks.1.norm1", (4, 4)),
    "swin_tiny_patch4_window7_224": (
        {"depths": (1, 2), "embed_dim": 12, "num_heads": (1, 2), "img_size": 32, "window_size": 4},
        "norm",
        (4, 4),
    ),
    "convnext_tiny": ({"depths": (1, 1, 1, 1), "dims": (4, 4, 8, 8)}, "stages", (1, 1)),
    "resnet18": ({"layers": (1, 1, 1, 1), "channels": (4, 4, 8, 8)}, "layer4", (1, 1)),
}
"""Settings that make a timm network tiny, its default layer, and the grid there for images of 32 x 32."""
CONVOLUTIONAL = ("convnext_tiny", "resnet18")


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=3, **NETWORKS[name][0]).eval()


def draw_inputs(count: int = 2, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((2, 5, 7, 7), (224, 224), (2, 5, 7, 7)),
        ((2, 7, 7, 5), (224, 224), (2, 5, 7, 7)),
        ((2, 7, 7, 7), (224, 224), (2, 7, 7, 7)),  # ambiguous: channels first
        ((2, 3, 6, 5), (64, 128), (2, 5, 3, 6)),
        ((2, 1 + 14 * 14, 5), (224, 224), (2, 5, 14, 14)),
        ((2, 2 + 14 * 14, 5), (224, 224), (2, 5, 14, 14)),
        ((2, 3 * 6, 5), (64, 128), (2, 5, 3, 6)),
    ],
)
def test_outputs_become_maps_and_maps_outputs(
    shape: tuple[int, ...], size: tuple[int, int], expected: tuple[int, ...]
) -> None:
    output = torch.randn(shape)
    maps = to_map(output, size)
    assert is_map(output, size)
    assert maps.shape == expected
    assert torch.equal(from_map(maps[:1], output[:1], size), output[:1])


def test_tokens_are_read_row_by_row_after_the_prefix() -> None:
    tokens = torch.arange(1.0 + 6 * 6)[None, :, None]
    maps = to_map(tokens, (60, 60))
    assert maps[0, 0, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert maps[0, 0, 5, 5] == 36


@pytest.mark.parametrize("output", [torch.zeros(2, 5), torch.zeros(2, 5, 3), [torch.zeros(2, 5, 7, 7)]])
def test_other_outputs_are_no_maps(output: Any) -> None:
    assert not is_map(output, (30, 60 * 5))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_default_layer_of_a_timm_network_is_the_last_on_which_the_prediction_depends(name: str) -> None:
    size = 64 if name in CONVOLUTIONAL else 32
    assert find_target_layer(make(name), draw_inputs(1, size)) == NETWORKS[name][1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_every_layout_are_explained_by_every_method(name: str, method: str) -> None:
    model = make(name)
    result = class_activation_maps(model, draw_inputs(), NETWORKS[name][1], 1, method)
    assert result.grid == NETWORKS[name][2]
    assert result.maps.shape == (2, 32, 32)
    assert result.maps.isfinite().all()
    assert torch.allclose(result.logits, model(draw_inputs()), atol=1e-5)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_gradcam_of_tokens_follows_the_definition(name: str) -> None:
    """The oracle weighs tokens by their mean gradient without any reshaping, and scales the 16 values."""
    model, layer = make(name), NETWORKS[name][1]
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: kept.append(output))
    logits = model(draw_inputs())
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), kept)
    tokens, gradients = (value.reshape(2, -1, value.shape[-1])[:, -16:] for value in (kept[0], gradient))
    expected = (tokens * gradients.mean(1, keepdim=True)).sum(2).relu().detach()
    low, high = expected.amin(1, keepdim=True), expected.amax(1, keepdim=True)
    expected = ((expected - low) / (high - low)).reshape(2, 1, 4, 4)
    expected = nn.functional.interpolate(expected, (32, 32), mode="bilinear")[:, 0]
    low, high = expected.amin((1, 2), keepdim=True), expected.amax((1, 2), keepdim=True)
    maps = class_activation_maps(model, draw_inputs(), layer, 1).maps
    assert torch.allclose(maps, (expected - low) / (high - low), atol=1e-5)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_ablation_of_tokens_equals_one_run_per_channel(name: str) -> None:
    model, layer, inputs = make(name), NETWORKS[name][1], draw_inputs(1)
    result = class_activation_maps(model, inputs, layer, 1, "ablationcam")
    outputs: list[Tensor] = []

    def silence(channel: int) -> float:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            outputs.append(output)
            patches = output.clone().reshape(1, -1, output.shape[-1])
            patches[:, -16:, channel] = 0  # the class token stays as it is
            return patches.reshape(output.shape)

        handle = model.get_submodule(layer).register_forward_hook(hook)
        score = float(model(inputs)[0, 1])
        handle.remove()
        return float(result.logits[0, 1]) - score

    with torch.no_grad():
        channels = 24
        drops = torch.tensor([silence(channel) for channel in range(channels)])
    small = (outputs[0].reshape(-1, channels)[-16:] * drops).sum(1).relu().reshape(1, 4, 4)
    small = (small - small.min()) / (small.max() - small.min())
    expected = nn.functional.interpolate(small[None], (32, 32), mode="bilinear")[0]
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    assert torch.allclose(result.maps, expected, atol=1e-3)
