"""Maps equal values computed by hand, and the network is left as found."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepbloom.errors import ConfigError
from deepbloom.explain.cam import class_activation_maps
from deepbloom.explain.layers import find_target_layer
from deepbloom.explain.methods import METHODS
from deepbloom.models.registry import create_model, get_architecture

ARCHITECTURES = ("scratch_cnn", "mini_resnet", "resnet18", "efficientnet_b0", "efficientnet_lite0")

RED_GREEN = torch.tensor([[2.0, -1.0], [-1.0, 3.0], [0.5, 0.5]])


class Pooled(nn.Module):
    """Two 1x1 filters that pick red and green, an in-place ReLU, the mean over positions, three classes."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 2, 1, bias=False)
        self.act = act or nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(2, 3)
        with torch.no_grad():
            self.features.weight.copy_(torch.eye(3)[:2, :, None, None])
            self.head.weight.copy_(RED_GREEN)
            self.head.bias.copy_(torch.tensor([0.3, -0.2, 0.1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.act(self.features(x)).mean((2, 3))))


class Deep(nn.Module):
    """Convolutions, BatchNorm, a skip connection and a stride, so that maps are smaller than images."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.hidden = nn.Linear(8 * 16, 12)
        self.head = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out = self.block(x)
        out += x
        return self.head(torch.tanh(self.hidden(F.adaptive_avg_pool2d(F.relu_(out), 4).flatten(1))))


def make_deep(seed: int = 0) -> Deep:
    torch.manual_seed(seed)
    model = Deep()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def draw_inputs(count: int = 3, size: int = 16, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def scale(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


def count_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules())


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "xgradcam"])
def test_gradcam_equals_the_value_computed_by_hand(method: str) -> None:
    inputs = draw_inputs().abs()  # all positive: the ReLU changes nothing
    maps = class_activation_maps(Pooled(), inputs, "features", 1, method).maps
    red, green = inputs[:, 0], inputs[:, 1]
    assert torch.allclose(maps, scale((-1 * red + 3 * green).relu()), atol=1e-5)


def test_weights_follow_the_gradient_through_the_relu() -> None:
    """Where the ReLU is off no gradient comes back, so that a channel weighs by its share of active positions."""
    inputs = draw_inputs()
    maps = class_activation_maps(Pooled(), inputs, "features", 0).maps
    shares = (inputs[:, :2] > 0).float().mean((2, 3), keepdim=True)
    expected = (shares * inputs[:, :2] * torch.tensor([2.0, -1.0])[:, None, None]).sum(1).relu()
    assert torch.allclose(maps, scale(expected), atol=1e-5)


def test_layercam_keeps_positive_gradients_only() -> None:
    inputs = draw_inputs().abs()
    maps = class_activation_maps(Pooled(), inputs, "features", 1, "layercam").maps
    assert torch.allclose(maps, scale(inputs[:, 1]), atol=1e-5)


def test_ablationcam_weighs_a_channel_by_what_its_absence_costs() -> None:
    inputs = draw_inputs().abs()
    maps = class_activation_maps(Pooled(), inputs, "features", 1, "ablationcam").maps
    cost = torch.tensor([-1.0, 3.0]) * inputs[:, :2].mean((2, 3))
    assert torch.allclose(maps, scale((cost[:, :, None, None] * inputs[:, :2]).sum(1).relu()), atol=1e-5)


def test_ablation_behind_a_skip_connection_equals_one_run_per_channel() -> None:
    model, inputs = make_deep(), draw_inputs(2)
    result = class_activation_maps(model, inputs, "block", 2, "ablationcam")
    with torch.no_grad():
        activations = model.block(model.stem(inputs))
        drops = []
        for channel in range(8):

            def silence(module: nn.Module, args: Any, output: Tensor, channel: int = channel) -> Tensor:
                output = output.clone()
                output[:, channel] = 0
                return output

            handle = model.block.register_forward_hook(silence)
            drops.append(result.logits[:, 2] - model(inputs)[:, 2])
            handle.remove()
        small = (torch.stack(drops, 1)[:, :, None, None] * activations).sum(1).relu()
    expected = F.interpolate(scale(small)[:, None], (16, 16), mode="bilinear")[:, 0]
    assert torch.allclose(result.maps, scale(expected), atol=1e-4)


def test_scorecam_weighs_a_channel_by_the_score_of_the_masked_image() -> None:
    model, inputs = make_deep(), draw_inputs(2)
    result = class_activation_maps(model, inputs, "stem", 3, "scorecam")
    with torch.no_grad():
        activations = model.stem(inputs)
        scores = torch.empty(2, 8)
        for image in range(2):
            for channel in range(8):
                mask = F.interpolate(
                    activations[image, channel][None, None], (16, 16), mode="bilinear", align_corners=True
                )
                mask = (mask - mask.min()) / (mask.max() - mask.min() + 1e-8)
                scores[image, channel] = model(inputs[image, None] * mask)[0, 3]
        small = (scores.softmax(1)[:, :, None, None] * activations).sum(1).relu()
    expected = F.interpolate(scale(small)[:, None], (16, 16), mode="bilinear")[:, 0]
    assert torch.allclose(result.maps, scale(expected), atol=1e-4)


def test_logits_are_the_networks_and_the_prediction_is_explained() -> None:
    model, inputs = make_deep(), draw_inputs(11)
    result = class_activation_maps(model, inputs, "block")
    with torch.no_grad():
        logits = model(inputs)
    assert torch.allclose(result.logits, logits, atol=1e-5)
    assert torch.equal(result.targets, logits.argmax(1))
    assert result.against is None
    named = class_activation_maps(model, inputs, "block", result.targets)
    assert torch.allclose(named.maps, result.maps, atol=1e-6)


def test_maps_have_the_size_of_the_image_and_reach_from_0_to_1() -> None:
    maps = class_activation_maps(make_deep(), draw_inputs(4), "block").maps
    assert maps.shape == (4, 16, 16)
    assert maps.dtype == torch.float32
    assert torch.equal(maps.amin((1, 2)), torch.zeros(4))
    assert torch.allclose(maps.amax((1, 2)), torch.ones(4))


def test_a_pair_explains_the_difference_of_two_logits() -> None:
    inputs = draw_inputs().abs()
    result = class_activation_maps(Pooled(), inputs, "features", (1, 0))
    weights = (RED_GREEN[1] - RED_GREEN[0])[:, None, None]
    assert torch.allclose(result.maps, scale((weights * inputs[:, :2]).sum(1).relu()), atol=1e-5)
    assert result.against is not None
    assert result.against.tolist() == [0, 0, 0]
    per_image = class_activation_maps(Pooled(), inputs, "features", (torch.tensor([1, 1, 1]), 0))
    assert torch.equal(per_image.maps, result.maps)
    assert not class_activation_maps(Pooled(), inputs, "features", (1, 1)).maps.any()


def test_maps_of_several_layers_are_scaled_and_averaged() -> None:
    model, inputs = make_deep(), draw_inputs()
    stem = model.stem(inputs)
    block = model.block(stem)
    hidden = F.adaptive_avg_pool2d((block + stem).relu(), 4).flatten(1)
    logits = model.head(torch.tanh(model.hidden(hidden)))
    maps = []
    for layer, gradient in zip((stem, block), torch.autograd.grad(logits[:, 1].sum(), (stem, block)), strict=True):
        small = scale((gradient.mean((2, 3), keepdim=True) * layer).sum(1).relu())
        maps.append(F.interpolate(small[:, None], (16, 16), mode="bilinear")[:, 0])
    together = class_activation_maps(model, inputs, ["block", "stem"], 1).maps
    assert torch.allclose(together, scale((maps[0] + maps[1]) / 2), atol=1e-5)
    assert not torch.allclose(together, maps[0], atol=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_equals_its_images_one_by_one(method: str) -> None:
    model, inputs = make_deep(), draw_inputs(10)
    batch = class_activation_maps(model, inputs, "block", None, method)
    for index in range(10):
        alone = class_activation_maps(model, inputs[index, None], "block", None, method)
        assert torch.allclose(alone.maps[0], batch.maps[index], atol=1e-4)
    assert not torch.allclose(batch.maps[0], batch.maps[1], atol=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_no_evidence_gives_zeros_and_not_nan(method: str) -> None:
    model = make_deep()
    for parameter in model.block.parameters():
        nn.init.zeros_(parameter)
    model.block[1].running_mean.zero_()
    assert not class_activation_maps(model, draw_inputs(), "block", 0, method).maps.any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("trainable", [True, False])
def test_the_network_is_left_as_found(method: str, trainable: bool) -> None:
    model = make_deep().requires_grad_(trainable)
    model.train()
    model.stem.eval()
    seen = []
    model.block.register_forward_hook(lambda module, args, output: seen.append(1))
    modes = [module.training for module in model.modules()]
    state, hooks = copy.deepcopy(model.state_dict()), count_hooks(model)
    inputs = draw_inputs()
    before, random_state = inputs.clone(), torch.get_rng_state()
    maps = class_activation_maps(model, inputs, "block", 1, method).maps
    assert maps.any()
    assert [module.training for module in model.modules()] == modes
    assert count_hooks(model) == hooks
    assert seen
    assert all(parameter.grad is None and parameter.requires_grad is trainable for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(inputs, before)
    assert not inputs.requires_grad
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.is_grad_enabled()
    assert not maps.requires_grad


def test_the_random_state_survives_a_network_that_draws() -> None:
    class Noisy(Pooled):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.rand(1)

    model = Noisy()
    state = torch.get_rng_state()
    class_activation_maps(model, draw_inputs(), "features")
    assert torch.equal(torch.get_rng_state(), state)
    model(draw_inputs())
    assert not torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", ["gradcam", "scorecam", "ablationcam"])
def test_the_network_is_left_as_found_when_it_fails(method: str) -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if failing[0]:
                raise RuntimeError("on purpose")
            return x

    failing = [True]
    model = Pooled(Failing()).train()
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="on purpose"):
        class_activation_maps(model, draw_inputs(), "features", method=method)
    assert count_hooks(model) == 0
    assert all(module.training for module in model.modules())
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    failing[0] = False
    assert class_activation_maps(model, draw_inputs(), "features", method=method).maps.any()


@pytest.mark.parametrize(
    "context",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_the_caller_may_be_in_any_mode(context: Callable[[], Any]) -> None:
    model, inputs = make_deep(), draw_inputs()
    expected = class_activation_maps(model, inputs, "block").maps
    with context():
        assert torch.equal(class_activation_maps(model, inputs.clone(), "block").maps, expected)


def test_the_backbone_is_not_differentiated() -> None:
    model = make_deep()
    recorded = []
    model.stem[0].register_forward_hook(lambda module, args, output: recorded.append(output.requires_grad))
    model.hidden.register_forward_hook(lambda module, args, output: recorded.append(output.requires_grad))
    class_activation_maps(model, draw_inputs(), "block")
    assert recorded == [False, True]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "gradcamm"}, "Did you mean 'gradcam'"),
        ({"target_layers": "blok"}, "Did you mean 'block'"),
        ({"target_layers": []}, "stem, block"),
        ({"target_layers": "hidden"}, r"shape \(3, 12\), not a map .* stem, block"),
        ({"targets": 5}, "classes 0 to 4"),
        ({"targets": -1}, "count from 0"),
        ({"targets": torch.tensor([0, 1])}, "one for each of 3"),
        ({"targets": 1.0}, "class index"),
        ({"targets": (0, 1, 2)}, "pair"),
        ({"inputs": torch.zeros(3, 16, 16)}, "shape"),
        ({"inputs": torch.zeros(3, 3, 16, 16, dtype=torch.uint8)}, "uint8"),
    ],
)
def test_errors_name_the_value_and_the_choices(arguments: dict[str, Any], words: str) -> None:
    model = make_deep()
    with pytest.raises(ConfigError, match=words):
        class_activation_maps(model, **{"inputs": draw_inputs(), "target_layers": "block", **arguments})
    assert count_hooks(model) == 0


def test_a_layer_that_does_not_run_is_named() -> None:
    model = make_deep()
    model.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(ConfigError, match="'spare' does not run"):
        class_activation_maps(model, draw_inputs(), "spare")


def test_a_network_that_cuts_its_gradient_is_named() -> None:
    class Cut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach()

    with pytest.raises(ConfigError, match="No gradient of the logits reaches layer 'features'"):
        class_activation_maps(Pooled(Cut()), draw_inputs(), "features")
    assert class_activation_maps(Pooled(Cut()), draw_inputs(), "features", method="eigencam").maps.any()


def test_a_network_that_gives_no_logits_is_named() -> None:
    with pytest.raises(ConfigError, match="not logits"):
        class_activation_maps(nn.Sequential(nn.Conv2d(3, 4, 1)), draw_inputs(), "0")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_default_layer_is_the_last_convolutional_one(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = create_model(name, 3), draw_inputs(1, 96)
    default = class_activation_maps(model, inputs, targets=1, method="layercam")
    named = class_activation_maps(model, inputs, get_architecture(name).target_layer, 1, "layercam")
    assert default.maps.any()
    assert torch.equal(default.maps, named.maps)
    assert default.grid == named.grid


def test_the_grid_is_that_of_the_finest_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 4, 3, (2, 1)), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    inputs = draw_inputs(2, 17)
    assert class_activation_maps(model, inputs).grid == class_activation_maps(model, inputs, "1").grid == (3, 6)
    assert class_activation_maps(model, inputs, ["1", "0"]).grid == (8, 8)


def test_the_target_layer_of_other_networks_is_found() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    assert find_target_layer(nn.Sequential(plain, nn.Linear(16, 2))) == "0.2"
    staged = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1))
    assert find_target_layer(nn.Sequential(staged, nn.Flatten()), draw_inputs(1)) == "0.0"
    with pytest.raises(ConfigError, match="no map"):
        find_target_layer(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), draw_inputs(1))
