"""The fastest precision is taken only if it is clearly faster and its results agree."""

import time

import pytest
import torch
from torch import Tensor, nn

from deepbloom.engine.precision import autocast, candidates, choose_fastest, choose_training_precision

CPU = torch.device("cpu")


def runner(seconds: dict[str, float], results: dict[str, Tensor]):
    def run(name: str) -> Tensor:
        time.sleep(seconds[name])
        return results[name]

    return run


@pytest.mark.parametrize(
    ("bf16_seconds", "bf16_result", "chosen"),
    [
        (0.01, 1.01, "bf16"),
        (0.049, 1.0, "fp32"),  # not clearly faster
        (0.01, 1.5, "fp32"),  # faster, but another result
        (0.01, float("nan"), "fp32"),
        (0.08, 1.0, "fp32"),
    ],
)
def test_the_choice(bf16_seconds: float, bf16_result: float, chosen: str) -> None:
    results = {"fp32": torch.tensor(1.0), "bf16": torch.tensor(bf16_result)}
    name, measured = choose_fastest(["fp32", "bf16"], runner({"fp32": 0.05, "bf16": bf16_seconds}, results), CPU)
    assert name == chosen
    assert measured["fp32"] >= 0.05


def test_fp32_is_always_a_candidate() -> None:
    assert candidates(CPU)[0] == "fp32"


def test_measuring_leaves_the_network_as_it_was() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    choose_training_precision(network, torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]), CPU)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.training


def test_a_cpu_trains_depthwise_convolutions_in_float32_and_all_others_in_bf16() -> None:
    depthwise, pointwise = nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 1)
    inputs = torch.randn(2, 4, 8, 8)
    with autocast(CPU, "bf16"):
        trained = [depthwise(inputs).dtype, pointwise(inputs).dtype]
        with torch.inference_mode():
            evaluated = [depthwise(inputs).dtype, pointwise(inputs).dtype]
    assert trained == [torch.float32, torch.bfloat16]
    assert evaluated == [torch.bfloat16, torch.bfloat16]
    assert depthwise(inputs).dtype == pointwise(inputs).dtype == torch.float32
