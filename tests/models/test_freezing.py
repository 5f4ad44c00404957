"""Which modules train, on a network small enough to see through and on some real ones."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from deepbloom.errors import ConfigError
from deepbloom.models.freezing import blocks, count_parameters, freeze, resolve_trainable, train_mode
from deepbloom.models.registry import get_architecture, resolved_trainable


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            first=nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)),
            middle=nn.Sequential(nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5), nn.Dropout(0.5)),
            late=nn.Sequential(nn.Conv2d(5, 6, 1), nn.BatchNorm2d(6), nn.Dropout(0.5)),
            norm=nn.BatchNorm2d(6),
            pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            fc=nn.Linear(6, 2),
        )
    )


def test_parameters_are_counted_by_hand(model):
    freeze(model, ("middle", "fc"))
    first, middle, late, fc = 3 * 4 * 9 + 8, 4 * 5 + 5 + 10, 5 * 6 + 6 + 12 + 12, 6 * 2 + 2
    assert count_parameters(model) == {"total": first + middle + late + fc, "trainable": middle + fc}


def test_the_empty_path_is_the_whole_network(model):
    freeze(model, ())
    assert count_parameters(model)["trainable"] == 0
    freeze(model, ("",))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_freezing_again_replaces_what_was_declared_before(model):
    freeze(model, ("middle",))
    freeze(model, ("fc",))
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["fc.weight", "fc.bias"]


def test_a_frozen_module_behind_a_trained_one_passes_gradients_and_keeps_its_statistics(model):
    freeze(model, ("middle",))
    train_mode(model, ("middle",))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert model.middle[0].weight.grad.count_nonzero() > 0
    assert model.late[0].weight.grad is None
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"middle.1.running_mean", "middle.1.running_var", "middle.1.num_batches_tracked"}


def test_train_mode_reaches_the_named_modules_only(model):
    model.train()
    train_mode(model, ("middle", "fc"))
    training = {name for name, module in model.named_modules() if module.training}
    assert training == {"middle", "middle.0", "middle.1", "middle.2", "fc"}


@pytest.mark.parametrize("function", [freeze, train_mode])
def test_an_unknown_path_is_refused_and_changes_nothing(model, function):
    model.train()
    with pytest.raises(ConfigError, match=r"Unknown module 'last'.*first, late, middle, norm, pool"):
        function(model, ("fc", "last"))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_the_error_for_an_unknown_path_names_its_neighbors(model):
    with pytest.raises(
        ConfigError,
        match=r"'late.7'. Did you mean 'late.0', 'late.1' or 'late.2'\?",
    ):
        freeze(model, ("late.7",))


@pytest.mark.parametrize(
    ("trainable", "paths"),
    [
        (["head"], ("fc",)),
        (["all"], ("",)),
        (["last:1"], ("late", "norm", "fc")),
        (["last:2"], ("middle", "late", "norm", "fc")),
        (["last:3"], ("",)),
        (["fc", "late.1", "late"], ("late", "fc")),
        (["middle", "head"], ("middle", "fc")),
        (["fc", "norm", "late", "middle", "first"], ("",)),
    ],
)
def test_names_stand_for_module_paths(model, trainable, paths):
    assert resolve_trainable(model, ("fc",), trainable) == paths


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        (["lat"], r"Unknown module 'lat'. Did you mean 'late'"),
        (["pool"], r"the module 'pool' has no parameters"),
        (["last:4"], r"model.trainable=last:4: this network has 3 blocks"),
        (["last:0"], r"model.trainable=last:0"),
        ([], r"model.trainable is empty"),
    ],
)
def test_what_cannot_train_is_refused(model, trainable, message):
    with pytest.raises(ConfigError, match=message):
        resolve_trainable(model, ("fc",), trainable)


@pytest.mark.parametrize(
    ("arch", "count", "last"),
    [
        ("resnet18", 5, ["layer4"]),
        ("efficientnet_b0", 9, ["features.8"]),
        ("efficientnet_lite0", 9, ["conv_head", "bn2"]),
        ("convnext_atto", 5, ["stages.3"]),
        ("vit_tiny_patch16_224", 13, ["blocks.11", "norm"]),
        ("deit_tiny_distilled_patch16_224", 13, ["blocks.11", "norm"]),
    ],
)
def test_blocks_are_stages_or_layers_with_the_normalization_behind_them(arch, count, last):
    found = get_architecture(arch)
    with torch.device("meta"):
        network = found.build(2)
    assert len(blocks(network, found.head)) == count
    assert blocks(network, found.head)[-1] == last


@pytest.mark.parametrize("arch", ["convnext_atto", "levit_128s", "test_vit", "efficientnet_lite0", "resnet18"])
@pytest.mark.parametrize("trainable", ["head", "last:1", "all"])
def test_resolved_paths_resolve_to_themselves(arch, trainable):
    paths = resolved_trainable(arch, (trainable,))
    assert resolved_trainable(arch, paths) == paths


def test_both_classifiers_of_a_distilled_network_are_its_head():
    assert resolved_trainable("deit_tiny_distilled_patch16_224", ("head",)) == ("head", "head_dist")
