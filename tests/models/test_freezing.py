"""Freezing, on a network small enough to see through."""

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from deepbloom.errors import ConfigError
from deepbloom.models.freezing import count_parameters, freeze, split_model, train_mode

SPEC = SimpleNamespace(stages=lambda model: list(model.named_children()))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            first=nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)),
            middle=nn.Sequential(nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5), nn.Dropout(0.5)),
            late=nn.Sequential(nn.Conv2d(5, 6, 1), nn.BatchNorm2d(6), nn.Dropout(0.5)),
            pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            fc=nn.Linear(6, 2),
        )
    )


def test_parameters_are_counted_by_hand(model):
    freeze(model, ("middle", "fc"))
    first, middle, late, fc = 3 * 4 * 9 + 8, 4 * 5 + 5 + 10, 5 * 6 + 6 + 12, 6 * 2 + 2
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
    with pytest.raises(ConfigError, match=r"no module 'last'.*first, middle, late, pool, fc"):
        function(model, ("fc", "last"))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_a_network_is_cut_before_its_first_trained_stage(model):
    freeze(model, ("late",))
    prefix, tail = split_model(model, SPEC)
    assert list(prefix) == [model.first, model.middle]
    assert list(tail) == [model.late, model.pool, model.fc]


def test_training_the_tail_trains_the_network(model):
    freeze(model, ("fc",))
    train_mode(model, ("fc",))
    prefix, tail = split_model(model, SPEC)
    images = torch.randn(4, 3, 8, 8)
    features, before = prefix(images), model(images).detach()
    tail(features).square().sum().backward()
    torch.optim.SGD(tail[-1:].parameters(), lr=0.1).step()
    assert torch.equal(prefix(images), features)
    assert not torch.equal(model(images), before)
    assert torch.equal(model(images), tail(features))


def test_a_network_that_trains_from_its_first_stage_has_an_empty_prefix(model):
    prefix, tail = split_model(model, SPEC)
    images = torch.randn(1, 3, 8, 8)
    assert len(prefix) == 0
    assert prefix(images) is images
    assert len(tail) == 5


def test_a_wholly_frozen_network_has_an_empty_tail(model):
    freeze(model, ())
    prefix, tail = split_model(model, SPEC)
    assert (len(prefix), len(tail)) == (5, 0)
