"""Channels that can go are found, go in the best order, and the layers that read them are refit."""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepbloom.cost import count_macs
from deepbloom.data.preprocessing import Preprocessing, to_inputs
from deepbloom.engine.checkpoint import Trained
from deepbloom.errors import RunError
from deepbloom.export import refit
from deepbloom.export.channels import Group, find_groups
from deepbloom.export.prune import prune
from deepbloom.export.refit import Regression, eliminate, unfold
from deepbloom.models import registry
from deepbloom.models.registry import Architecture, create_model
from deepbloom.models.widths import widths_of

CLASSES = ("a", "b", "c", "d")
PIXELS = np.random.default_rng(0).integers(0, 256, (160, 32, 32, 3), dtype=np.uint8)


class Gated(nn.Module):
    """An inverted residual block with squeeze-and-excitation; twice as many channels as needed."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(16, 48, 1, bias=False), nn.BatchNorm2d(48), nn.SiLU())
        self.depthwise = nn.Sequential(nn.Conv2d(48, 48, 3, padding=1, groups=48), nn.BatchNorm2d(48), nn.SiLU())
        self.squeeze, self.excite = nn.Conv2d(48, 8, 1), nn.Conv2d(8, 48, 1)
        self.project = nn.Conv2d(48, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x))
        weights = self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return x + self.project(y * weights)


def tiny(num_classes: int) -> nn.Module:
    """Return a network with a stem, a gated block, a plain pair of convolutions, and a flattened map of 2 x 2."""
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 16, 3, stride=4, padding=1),
            gated=Gated(),
            first=nn.Conv2d(16, 32, 3, padding="same", padding_mode="reflect"),
            relu=nn.ReLU(inplace=True),
            second=nn.Conv2d(32, 32, 3, stride=2, bias=False),
            norm=nn.BatchNorm2d(32),
            pool=nn.AdaptiveAvgPool2d(2),
            flatten=nn.Flatten(),
            fc=nn.Linear(128, num_classes),
        )
    ).eval()


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    """The network above with random weights."""
    found = Architecture("tiny", tiny, ("fc",), "second", "", Preprocessing(32))
    monkeypatch.setitem(registry._ARCHITECTURES, "tiny", found)
    torch.manual_seed(0)
    given = Trained(CLASSES, Preprocessing(32), {"arch": "tiny"}, tiny(len(CLASSES)))
    given.place(torch.device("cpu"))
    return given


def logits(given: Trained) -> Tensor:
    with torch.no_grad():
        return given.network(to_inputs(PIXELS, given.preprocessing, torch.device("cpu")))


def test_inner_channels_are_found() -> None:
    groups, layers = find_groups(tiny(4), 32)
    gated = ["gated.expand.1", "gated.depthwise.0", "gated.depthwise.1"]
    assert groups == [
        Group(48, ["gated.expand.0", "gated.excite"], gated, ["gated.squeeze", "gated.project"]),
        Group(8, ["gated.squeeze"], [], ["gated.excite"]),
        Group(32, ["first"], [], ["second"]),
        Group(32, ["second"], ["norm"], ["fc"]),
    ]
    assert sum(layer.macs for layer in layers.values()) == count_macs(tiny(4), 32)
    assert layers["stem"].positions == 64


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda y: y.relu() * 2, True),
        (lambda y: F.max_pool2d(y, 2), True),
        (lambda y: y + y.sigmoid(), False),
        (lambda y: torch.cat([y, y.relu()], 1)[:, :8], False),
        (lambda y: y.softmax(1), False),
        (lambda y: y.mean(1, keepdim=True).expand(-1, 8, -1, -1), False),
        (lambda y: y.view(2, 2, 4, 8, 8).transpose(1, 2).flatten(1, 2), False),
        (lambda y: y * torch.arange(8).view(8, 1, 1), False),
        (lambda y: y.permute(0, 2, 3, 1).permute(0, 3, 1, 2), False),
    ],
    ids=["pointwise", "pooling", "sum", "concatenation", "softmax", "mean", "shuffle", "own weights", "permuted"],
)
def test_channels_that_something_else_sees_stay(change: Callable[[Tensor], Tensor], found: bool) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(change(self.first(x))).mean((2, 3))

    assert find_groups(Network(), 8)[0] == ([Group(8, ["first"], [], ["second"])] if found else [])


@pytest.mark.parametrize(
    ("arch", "count"), [("resnet18", 8), ("mini_resnet", 12), ("efficientnet_lite0", 19), ("vit_tiny_patch16_224", 0)]
)
def test_groups_of_known_networks(arch: str, count: int) -> None:
    size = 224 if "vit" in arch else 64
    groups, layers = find_groups(create_model(arch, 4), size)
    assert len(groups) == count
    if arch == "resnet18":  # a residual stream stays as it is
        assert {(*group.makers, *group.readers) for group in groups} == {
            (f"layer{stage}.{block}.conv1", f"layer{stage}.{block}.conv2") for stage in range(1, 5) for block in (0, 1)
        }
    if count:
        assert sum(layer.macs for layer in layers.values()) == count_macs(create_model(arch, 4), size)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 5, 3, stride=2, padding=1),
        nn.Conv2d(3, 5, (1, 3), padding="same", padding_mode="circular", bias=False),
        nn.Conv2d(3, 5, 2, dilation=2),
    ],
    ids=str,
)
def test_unfolded_inputs_times_weights_are_the_outputs(layer: nn.Conv2d) -> None:
    image = torch.rand(2, 3, 9, 8)
    outputs = torch.einsum("bchw,oc->bohw", unfold(layer, image), layer.weight.flatten(1))
    bias = 0 if layer.bias is None else layer.bias.view(-1, 1, 1)
    torch.testing.assert_close(outputs + bias, layer(image))


@pytest.mark.parametrize("size", [1, 3])
def test_elimination_equals_least_squares_without_each_channel(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By numpy's least squares on what is left, for each of the channels at each step."""
    monkeypatch.setattr(refit, "RIDGE", 1e-9)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(200, 6 * size)) @ rng.normal(size=(6 * size, 6 * size)) + 1
    layer = nn.Linear(6 * size, 4).double()
    outputs = layer(torch.from_numpy(inputs)).detach()
    regression = Regression(layer)
    regression.add(torch.from_numpy(inputs), outputs)
    costs = np.array([1.0, 2, 0, 5])
    order, losses = eliminate([regression], [torch.from_numpy(costs)], 6, 2)

    def error(channels: list[int]) -> float:
        columns = [channel * size + n for channel in channels for n in range(size)]
        x = np.column_stack([np.ones(200), inputs[:, columns]])
        residual = outputs.numpy() - x @ np.linalg.lstsq(x, outputs.numpy(), rcond=None)[0]
        return float((residual**2).mean(0) @ costs)

    left = list(range(6))
    for step, channel in enumerate(order):
        without = {one: error([other for other in left if other != one]) for one in left}
        assert channel == min(without, key=lambda one: without[one])
        left.remove(channel)
        assert losses[step + 1] == pytest.approx(without[channel], rel=1e-4)
    assert (len(order), losses[0]) == (4, 0)


def test_redundant_channels_go_without_a_trace(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every channel is there twice, so that half of them compute the same; without the refit they do not."""
    monkeypatch.setattr(refit, "RIDGE", 1e-9)
    network = trained.network
    with torch.no_grad():
        for path in ("gated.expand.0", "gated.depthwise.0", "gated.excite", "first"):
            for parameter in network.get_submodule(path).parameters():
                parameter[1::2] = parameter[::2]
    expected, macs = logits(trained), count_macs(network, 32)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    prune(trained, PIXELS, 0.6)
    assert count_macs(network, 32) <= 0.6 * macs
    assert (network.first.out_channels, network.gated.project.in_channels) == (16, 24)
    torch.testing.assert_close(logits(trained), expected, atol=1e-4, rtol=0)

    monkeypatch.setattr(Regression, "fit", lambda _: None)  # the control
    trained = Trained(CLASSES, Preprocessing(32), {"arch": "tiny"}, tiny(len(CLASSES)))
    trained.place(torch.device("cpu"))
    trained.network.load_state_dict(state)
    prune(trained, PIXELS, 0.6)
    assert (logits(trained) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("target", [0.7, 0.4])
def test_a_pruned_network_keeps_to_its_target_and_resembles_the_whole_one(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, target: float
) -> None:
    state = {name: tensor.clone() for name, tensor in trained.network.state_dict().items()}
    expected, macs = logits(trained), count_macs(trained.network, 32)
    widths = prune(trained, PIXELS, target)
    assert target - 0.15 < count_macs(trained.network, 32) / macs <= target
    assert widths == widths_of(trained.network)
    assert all(given % 8 == 0 for path, (_, given) in widths.items() if path != "fc")
    error = float((logits(trained) - expected).norm())

    monkeypatch.setattr(Regression, "fit", lambda _: None)
    other = Trained(CLASSES, Preprocessing(32), {"arch": "tiny"}, tiny(len(CLASSES)))
    other.place(torch.device("cpu"))
    other.network.load_state_dict(state)
    prune(other, PIXELS, target)
    assert error < 0.8 * float((logits(other) - expected).norm())


def test_networks_that_cannot_get_small_enough_are_refused(trained: Trained) -> None:
    before = logits(trained)
    with pytest.raises(
        RunError, match=r"^tiny keeps at least 0\.\d\d of its multiply-accumulates: raise target_macs\.$"
    ):
        prune(trained, PIXELS, 0.06)
    assert torch.equal(logits(trained), before)
    transformer = Trained(
        CLASSES, Preprocessing(224), {"arch": "vit_tiny_patch16_224"}, create_model("vit_tiny_patch16_224", 4)
    )
    transformer.place(torch.device("cpu"))
    with pytest.raises(RunError, match="cannot be pruned: none of its channels"):
        prune(transformer, PIXELS, 0.5)


@pytest.mark.long
@pytest.mark.parametrize("arch", ["scratch_cnn", "mini_resnet", "resnet18", "efficientnet_lite0", "efficientnet_b0"])
def test_known_networks_are_pruned_to_half(arch: str) -> None:
    torch.manual_seed(0)
    given = Trained(CLASSES, Preprocessing(64), {"arch": arch}, create_model(arch, len(CLASSES)))
    given.place(torch.device("cpu"))
    macs = count_macs(given.network, 64)
    prune(given, np.kron(PIXELS, np.ones((1, 2, 2, 1), np.uint8)), 0.5)
    assert 0.4 < count_macs(given.network, 64) / macs <= 0.5
