"""A network with folded BatchNorm gives the same logits, and one that cannot be folded stays as it is."""

import copy

import pytest
import torch
from torch import nn

from deepbloom.engine.folding import fold_batch_norms
from deepbloom.models.registry import create_model


def with_statistics(network: nn.Module) -> nn.Module:
    """Give every BatchNorm statistics and weights that change its input."""
    generator = torch.Generator().manual_seed(0)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor, low, high in ((norm.running_mean, -0.3, 0.3), (norm.running_var, 0.5, 2)):
                tensor.uniform_(low, high, generator=generator)
            norm.weight.data.uniform_(0.7, 1.3, generator=generator)
            norm.bias.data.uniform_(-0.3, 0.3, generator=generator)
    return network.eval()


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    ("name", "left"), [("efficientnet_lite0", 0), ("resnet18", 0), ("efficientnet_b0", 0), ("mini_resnet", 1)]
)
def test_a_folded_network_gives_the_same_logits_without_batch_norms(name, left):
    """One of the mini ResNet's follows a sum."""
    network = with_statistics(create_model(name, 5))
    state = copy.deepcopy(network.state_dict())
    folded = fold_batch_norms(network, images(1))
    assert norms(network) > norms(folded) == left
    with torch.no_grad():
        torch.testing.assert_close(folded(images()), network(images()), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_a_batch_norm_in_front_of_its_convolution_stays():
    """As in DenseNet; the one behind the first convolution is folded."""
    chain = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3), nn.Flatten()
    )
    folded = fold_batch_norms(with_statistics(chain), images(1))
    assert [type(module).__name__ for module in folded.children()][:4] == [
        "Conv2d",
        "Sequential",
        "ReLU",
        "BatchNorm2d",
    ]
    torch.testing.assert_close(folded(images()), chain(images()), rtol=1e-4, atol=1e-4)


class Shared(nn.Module):
    """The output of the convolution goes around the BatchNorm as well, so it cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        made = self.convolution(inputs)
        return (made + self.norm(made)).mean((2, 3))


def test_a_convolution_whose_output_goes_elsewhere_as_well_is_not_folded():
    network = with_statistics(Shared())
    assert fold_batch_norms(network, images(1)) is network
