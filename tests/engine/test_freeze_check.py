"""The freeze check passes what stayed, and names what did not."""

import pytest
import torch
from torch import nn

from deepbloom.engine.freeze_check import check_freeze, hash_frozen


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def optimizer_of(*modules: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for module in modules for p in module.parameters()], lr=0.1)


def test_training_what_is_declared_passes(model: nn.Sequential) -> None:
    before = hash_frozen(model, ("2",))
    with torch.no_grad():
        model[2].weight += 1
    audit = check_freeze(before, model, optimizer_of(model[2]), ("2",))
    assert audit == {"frozen": 7, "changed": [], "declared": 10, "in_optimizer": 10, "undeclared": [], "missing": []}


@pytest.mark.parametrize("name", ["0.weight", "1.running_mean", "1.num_batches_tracked"])
def test_one_changed_bit_is_found_and_named(model: nn.Sequential, name: str) -> None:
    before = hash_frozen(model, ("2",))
    tensor = model.state_dict()[name]
    with torch.no_grad():
        tensor.view(-1)[0] = tensor.view(-1)[0] + (1 if name.endswith("tracked") else 1e-7)
    audit = check_freeze(before, model, optimizer_of(model[2]), ("2",))
    assert audit["changed"] == [name]


def test_a_negative_zero_is_another_bit_pattern(model: nn.Sequential) -> None:
    before = hash_frozen(model, ("2",))
    with torch.no_grad():
        model[1].bias.neg_()
    assert check_freeze(before, model, optimizer_of(model[2]), ("2",))["changed"] == ["1.bias"]


def test_an_optimizer_with_other_parameters_is_found(model: nn.Sequential) -> None:
    before = hash_frozen(model, ("2",))
    audit = check_freeze(before, model, optimizer_of(model[0]), ("2",))
    assert audit["undeclared"] == ["0.bias", "0.weight"]
    assert audit["missing"] == ["2.bias", "2.weight"]


def test_a_network_that_trains_as_a_whole_has_nothing_frozen(model: nn.Sequential) -> None:
    before = hash_frozen(model, ("",))
    audit = check_freeze(before, model, optimizer_of(model), ("",))
    assert before == {}
    assert audit["frozen"] == 0
    assert audit["declared"] == audit["in_optimizer"] == sum(p.numel() for p in model.parameters())
