"""The randomization test: maps of a network change with it, and maps that ignore it do not."""

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from deepbloom.errors import ConfigError
from deepbloom.explain.cam import class_activation_maps
from deepbloom.explain.sanity import center_maps, find_stages, random_maps, randomization_test, rank_correlation

LAYERS = ("head", "second", "first")


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    parts = {
        "first": nn.Conv2d(3, 16, 3, 2),
        "relu": nn.ReLU(inplace=True),
        "second": nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(inplace=True)),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "head": nn.Linear(16, 4),
    }
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    return model


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def gradcam(model: nn.Module, inputs: Tensor) -> Tensor:
    return class_activation_maps(model, inputs, "second", 1).maps


def detect_edges(model: nn.Module, inputs: Tensor) -> Tensor:
    gray = inputs.mean(1)
    return (gray.diff(dim=1)[:, :, 1:] ** 2 + gray.diff(dim=2)[:, 1:] ** 2).sqrt()


def test_maps_of_the_network_change_with_its_weights(model: nn.Module, inputs: Tensor) -> None:
    result = randomization_test(model, inputs, gradcam, LAYERS)
    assert result.shape == (3, 4)
    assert (result.mean(1) < 0.5).all()


@pytest.mark.parametrize("blind", [detect_edges, lambda model, inputs: center_maps(len(inputs), (24, 24))])
def test_maps_that_ignore_the_network_do_not_change(model: nn.Module, inputs: Tensor, blind) -> None:
    result = randomization_test(model, inputs, blind, LAYERS)
    assert torch.allclose(result, torch.ones(3, 4))


def test_the_network_and_the_random_state_stay_as_they_are(model: nn.Module, inputs: Tensor) -> None:
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    first, second = (randomization_test(model, inputs, gradcam, LAYERS, seed=3) for _ in range(2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    other = randomization_test(model, inputs, gradcam, LAYERS, seed=4)
    assert not torch.equal(first, other)


def test_layers_are_randomized_one_on_top_of_the_other(model: nn.Module, inputs: Tensor) -> None:
    seen = []

    def spy(model: nn.Module, inputs: Tensor) -> Tensor:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return random_maps(len(inputs), (24, 24))

    randomization_test(model, inputs, spy, ("head", "second"))
    changed = [
        {name.split(".")[0] for name in seen[0] if not torch.equal(seen[0][name], later[name])} for later in seen[1:]
    ]
    assert changed == [{"head"}, {"head", "second"}]


def test_stages_are_children_with_weights_and_the_blocks_of_containers(model: nn.Module) -> None:
    assert find_stages(model) == ["head", "second", "first"]
    blocks = [nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(2)]
    nested = nn.Sequential()
    nested.add_module("stem", nn.Conv2d(3, 3, 1))
    nested.add_module("blocks", nn.Sequential(blocks[0], nn.Identity(), blocks[1]))
    nested.add_module("head", nn.Linear(3, 2))
    assert find_stages(nested) == ["head", "blocks.2", "blocks.0", "stem"]


def test_rank_correlation_is_spearmans() -> None:
    first, second = (
        random_maps(3, (6, 5), seed=0, grid=(3, 3)),
        random_maps(3, (6, 5), seed=1, grid=(3, 3)).round(decimals=1),
    )
    expected = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(first, second, strict=True)]
    assert rank_correlation(first, second).tolist() == pytest.approx(expected, abs=1e-6)
    assert rank_correlation(first, torch.zeros(3, 6, 5)).tolist() == [0, 0, 0]


def test_layers_that_cannot_be_randomized_are_named(model: nn.Module, inputs: Tensor) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'head'"):
        randomization_test(model, inputs, gradcam, ["heads"])
    with pytest.raises(ConfigError, match="'pool' has no weights"):
        randomization_test(model, inputs, gradcam, ["pool"])
