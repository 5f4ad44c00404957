"""Learning rate and optimizer against torch's own schedulers and unfused updates."""

import copy
import math

import pytest
import torch
from torch import nn

from deepbloom.config.settings import OptimizerConfig, SchedulerConfig
from deepbloom.engine.optim import lr_factor, make_optimizer, optimizer_tensors, restore_optimizer, set_lr


def test_step_schedule_equals_torch_step_lr() -> None:
    config = SchedulerConfig("step", gamma=0.5, every_epochs=5)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.5)
    for epoch in range(12):
        assert lr_factor(epoch * 3 + 2, 3, 12, config) == pytest.approx(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()


def test_cosine_schedule_equals_torch_cosine_annealing() -> None:
    config = SchedulerConfig("cosine")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=19)  # zero at the last step
    for step in range(20):
        assert lr_factor(step, 4, 5, config) == pytest.approx(reference.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        reference.step()


def test_one_cycle_rises_to_the_peak_and_falls_to_zero() -> None:
    config = SchedulerConfig("one_cycle", warmup_fraction=0.25)
    factors = [lr_factor(step, 10, 4, config) for step in range(40)]
    assert factors.index(max(factors)) == 10
    assert factors[:11] == pytest.approx([(step + 1) / 11 for step in range(11)])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[25] == pytest.approx(0.5 * (1 + math.cos(math.pi * 15 / 29)))
    assert factors[-1] == 0


@pytest.mark.parametrize(
    ("name", "warmup", "expected"),
    [
        ("one_cycle", 0.15, [1.0]),
        ("one_cycle", 0.15, [1.0, 0.0]),
        ("one_cycle", 0.15, [1.0, 0.5, 0.0]),
        ("one_cycle", 0.4, [0.5, 1.0, 0.0]),
        ("one_cycle", 0.9, [0.5, 1.0, 0.0]),
        ("one_cycle", 0.9, [1.0]),
        ("cosine", 0.15, [1.0]),
        ("cosine", 0.15, [1.0, 0.75, 0.25, 0.0]),
        ("constant", 0.15, [1.0, 1.0, 1.0]),
    ],
)
def test_short_runs_reach_peak_and_zero(name: str, warmup: float, expected: list[float]) -> None:
    config = SchedulerConfig(name, warmup_fraction=warmup)
    assert [lr_factor(step, 1, len(expected), config) for step in range(len(expected))] == pytest.approx(expected)


@pytest.mark.parametrize("warmup", [0.0, 0.15, 0.9])
@pytest.mark.parametrize("total", range(2, 40))
def test_one_cycle_has_one_peak_and_ends_at_zero_for_any_number_of_steps(total: int, warmup: float) -> None:
    config = SchedulerConfig("one_cycle", warmup_fraction=warmup)
    factors = [lr_factor(step, total, 1, config) for step in range(total)]
    assert factors.count(1.0) == 1
    assert factors[-1] == 0
    assert min(factors[:-1]) > 0


HEAD = ("3",)
"""The classifier of `_network`."""


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 4))
    return network.to(memory_format=torch.channels_last)


def _train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        inputs = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        network(inputs.contiguous(memory_format=torch.channels_last)).square().mean().backward()
        optimizer.step()


def test_the_optimizer_holds_exactly_what_trains() -> None:
    network = _network()
    network[0].requires_grad_(False)
    optimizer = make_optimizer(network, OptimizerConfig("adamw", 1e-3, 0.05), HEAD)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in network.parameters() if parameter.requires_grad}


def test_only_matrices_decay() -> None:
    config = OptimizerConfig("adamw", lr=1e-2, weight_decay=0.5)
    network = _network()
    optimizer = make_optimizer(network, config, HEAD)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    settings = {
        names[id(parameter)]: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]
    }
    assert settings == {
        "0.weight": 0.5,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "3.weight": 0.5,
        "3.bias": 0.0,
    }


def test_the_rate_falls_from_block_to_block_away_from_the_classifier() -> None:
    """Blocks that are frozen do not count."""
    network = nn.Sequential(
        nn.Linear(4, 4),
        nn.Linear(4, 4),
        nn.BatchNorm1d(4),
        nn.Linear(4, 4),
        nn.Sequential(nn.Linear(4, 4)),
        nn.Linear(4, 2),
    )
    network[0].requires_grad_(False)
    network[3].requires_grad_(False)
    optimizer = make_optimizer(network, OptimizerConfig("adamw", 0.1, 0.05, layer_decay=0.5), ("5",))
    names = {parameter: name for name, parameter in network.named_parameters()}
    rates = {names[parameter]: group["peak_lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert rates == {
        **dict.fromkeys(("5.weight", "5.bias"), 0.1),
        **dict.fromkeys(("4.0.weight", "4.0.bias"), 0.05),
        **dict.fromkeys(("1.weight", "1.bias", "2.weight", "2.bias"), 0.025),
    }
    set_lr(optimizer, 0.5)
    assert {group["lr"] / group["peak_lr"] for group in optimizer.param_groups} == {0.5}


def test_the_rate_is_set_as_a_share_of_its_peak() -> None:
    optimizer = make_optimizer(_network(), OptimizerConfig("adamw", 1e-2, 0.05), HEAD)
    for factor in (0.5, 0.1):
        set_lr(optimizer, factor)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-2 * factor] * 2)


def test_updates_equal_plain_adamw() -> None:
    ours, plain = _network(), _network()
    _train(ours, make_optimizer(ours, OptimizerConfig("adamw", lr=1e-2, weight_decay=0.0), HEAD), 5)
    reference = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.0, fused=False, foreach=False)
    _train(plain, reference, 5)
    for left, right in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_restored_optimizer_goes_on_bit_for_bit(name: str) -> None:
    config = OptimizerConfig(name, lr=1e-2, weight_decay=0.1)
    network = _network()
    optimizer = make_optimizer(network, config, HEAD)
    _train(network, optimizer, 3)
    copied = copy.deepcopy(network)
    names = {parameter: key for key, parameter in network.named_parameters()}
    saved = {key: value.clone().contiguous() for key, value in optimizer_tensors(optimizer, names).items()}
    assert saved

    restored = make_optimizer(copied, config, HEAD)
    restore_optimizer(restored, saved, {parameter: key for key, parameter in copied.named_parameters()})
    forgetful = copy.deepcopy(copied)
    _train(network, optimizer, 2)
    _train(copied, restored, 2)
    _train(forgetful, make_optimizer(forgetful, config, HEAD), 2)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), copied.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(network.parameters(), forgetful.parameters(), strict=True))
