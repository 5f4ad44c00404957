"""A network cut in two computes what it computes whole."""

import pytest
import torch
from test_registry import EACH, NETWORKS, images
from torch import nn

from deepbloom.models.cutting import cut
from deepbloom.models.freezing import freeze, train_mode
from deepbloom.models.registry import create_model, resolved_trainable

UNTRACEABLE = ("test_vit",)
"""Its forward pass asks for the size of the images."""


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", [case for case in EACH if case.values[0] not in UNTRACEABLE])
@pytest.mark.parametrize("trainable", ["declared", "head"])
def test_the_halves_of_a_network_give_its_logits(name, trainable):
    chosen = NETWORKS[name] if trainable == "declared" else ("head",)
    paths = resolved_trainable(name, chosen)
    model = create_model(name, 4, chosen)
    parts = cut(model, paths, images(name, 1))
    assert parts is not None
    assert not any(module.training for module in model.modules())
    assert any(True for _ in parts.prefix.parameters())
    assert not any(parameter.requires_grad for parameter in parts.prefix.parameters())
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    assert {parameter for parameter in parts.tail.parameters() if parameter.requires_grad} == trained

    def logits(forward, seed):
        torch.manual_seed(seed)  # dropout and stochastic depth
        with torch.no_grad():
            return forward(images(name))

    for set_mode in (model.eval, lambda: train_mode(model, paths)):
        set_mode()
        assert torch.equal(logits(lambda inputs: parts.tail(parts.prefix(inputs)), 2), logits(model, 2))


def test_dropout_in_front_of_the_classifier_stays_random():
    model = create_model("efficientnet_lite0", 4, ["head"])
    parts = cut(model, ("classifier",), images("efficientnet_lite0", 1))
    train_mode(model, ("classifier",))
    features = parts.prefix(images("efficientnet_lite0"))
    assert features.shape == (4, 1280)
    assert torch.equal(features, parts.prefix(images("efficientnet_lite0")))
    with torch.no_grad():
        assert not torch.equal(parts.tail(features), parts.tail(features))


def test_training_the_tail_trains_the_network_and_its_copies_have_tails_too():
    model = create_model("resnet18", 3, ["layer4", "fc"])
    before = create_model("resnet18", 3)
    before.load_state_dict(model.state_dict())
    parts = cut(model, ("layer4", "fc"), images("resnet18", 1))
    features = parts.prefix(images("resnet18"))
    assert features.shape == (4, 256, 4, 4)
    train_mode(model, ("layer4", "fc"))
    optimizer = torch.optim.SGD([p for p in parts.tail.parameters() if p.requires_grad], lr=0.1)
    parts.tail(features).square().sum().backward()
    optimizer.step()
    model.eval()
    assert torch.equal(model(images("resnet18")), parts.tail(features))
    assert torch.equal(before(images("resnet18")), parts.tail_of(before)(features))
    assert not torch.equal(before(images("resnet18")), model(images("resnet18")))


class Branches(nn.Module):
    """Two branches from the images on, both trained at their ends: no single tensor lies between."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.ends = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)])

    def forward(self, x):
        left, right = self.left(x), self.right(x)
        return (self.ends[0](left) + self.ends[1](right)).mean((2, 3))


class Hesitant(nn.Module):
    """Decides by the values that it sees."""

    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

    def forward(self, x):
        x = self.body(x).mean((2, 3))
        if x.sum() > 0:
            x = -x
        return self.fc(x)


class Residual(nn.Module):
    """A trained module on one way around a frozen one: two tensors cross in front of it, one before the split."""

    def __init__(self):
        super().__init__()
        self.stem, self.frozen, self.trained = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        return (x + self.trained(self.frozen(x))).mean((2, 3))


class Learned(nn.Module):
    """A parameter of the network itself trains, and is used early."""

    def __init__(self):
        super().__init__()
        self.stem, self.scale, self.fc = nn.Conv2d(3, 4, 1), nn.Parameter(torch.ones(1)), nn.Linear(4, 2)

    def forward(self, x):
        return self.fc((self.stem(x) * self.scale).mean((2, 3)))


@pytest.mark.parametrize(("network", "trainable"), [(Branches, ("ends",)), (Hesitant, ("fc",)), (Hesitant, ("body",))])
def test_a_network_without_a_place_to_cut_is_left_whole(network, trainable):
    model = network()
    freeze(model, trainable)
    assert cut(model, trainable, torch.randn(2, 3, 8, 8)) is None


def test_a_network_is_cut_before_a_trained_branch_splits_off():
    model = Residual()
    freeze(model, ("trained",))
    parts = cut(model, ("trained",), torch.randn(2, 3, 8, 8))
    assert [name for name, _ in parts.prefix.named_children()] == ["stem"]


def test_a_trained_parameter_of_the_network_itself_lies_in_the_tail():
    model = Learned()
    model.requires_grad_(False)
    model.scale.requires_grad_(True)
    parts = cut(model, (), torch.randn(2, 3, 8, 8))
    assert parts.tail.scale is model.scale
    assert [name for name, _ in parts.prefix.named_parameters()] == ["stem.weight", "stem.bias"]


def test_other_sizes_of_images_and_batches_pass_the_halves():
    model = create_model("convnext_atto", 3, ["head"])
    parts = cut(model, ("head.fc",), torch.randn(1, 3, 64, 64))
    for shape in ((1, 3, 96, 96), (5, 3, 64, 96)):
        inputs = torch.randn(shape)
        assert torch.equal(parts.tail(parts.prefix(inputs)), model(inputs))


def test_cutting_leaves_modes_as_found():
    model = create_model("resnet18", 3, ["head"])
    train_mode(model, ("fc",))
    cut(model, ("fc",), images("resnet18", 1))
    assert [name for name, module in model.named_modules() if module.training] == ["fc"]
