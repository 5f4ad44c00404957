"""The networks without pretraining."""

import pytest
import torch
from torch import nn

from deepbloom.models.scratch import ResidualBlock, SqueezeExcitation, mini_resnet, scratch_cnn


def layers(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


def test_the_plain_cnn_is_three_convolutions_with_pooling_and_two_linear_layers():
    model = scratch_cnn(5)
    assert len(layers(model, nn.Conv2d)) == len(layers(model, nn.MaxPool2d)) == 3
    assert len(layers(model, nn.Linear)) == 2


def test_every_residual_block_has_two_convolutions_of_3x3():
    blocks = layers(mini_resnet(5), ResidualBlock)
    assert len(blocks) == 6
    for block in blocks:
        convolutions = [layer for layer in block.residual if isinstance(layer, nn.Conv2d)]
        assert [layer.kernel_size for layer in convolutions] == [(3, 3), (3, 3)]
    assert sum(isinstance(block.shortcut, nn.Identity) for block in blocks) == 3


def test_a_residual_block_adds_its_input():
    torch.manual_seed(0)
    block = ResidualBlock(4, 4).eval()
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(x), x.clamp(min=0))  # a new one starts with F(x) = 0
    block.residual[-2].weight.data.fill_(1)
    assert block.residual(x).any()
    torch.testing.assert_close(block(x), (block.residual(x) + x).clamp(min=0))


def test_squeeze_excitation_weighs_channels_by_their_means():
    layer = SqueezeExcitation(2)
    squeeze, excite = (part for part in layer.weights if isinstance(part, nn.Conv2d))
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    squeeze.weight.data[0, 0] = 1  # the mean of channel 0 decides the weight of channel 1
    excite.weight.data[1, 0] = 2
    x = torch.tensor([[1.0, 3.0], [5.0, 7.0]]).view(1, 2, 1, 2)
    weight = torch.sigmoid(torch.tensor(2.0 * 2.0))
    torch.testing.assert_close(layer(x), torch.stack([x[:, 0] / 2, x[:, 1] * weight], 1))


def test_a_residual_block_that_changes_the_number_of_channels_projects_its_input():
    block = ResidualBlock(4, 6)
    assert block(torch.randn(2, 4, 7, 7)).shape == (2, 6, 7, 7)
    assert [layer.kernel_size for layer in layers(block.shortcut, nn.Conv2d)] == [(1, 1)]


@pytest.mark.parametrize("build", [scratch_cnn, mini_resnet])
@pytest.mark.parametrize("size", [32, 97])
def test_other_image_sizes_work(build, size):
    assert build(3).eval()(torch.zeros(1, 3, size, size)).shape == (1, 3)


@pytest.mark.parametrize("build", [scratch_cnn, mini_resnet])
def test_a_few_steps_fit_a_few_images(build):
    torch.manual_seed(0)
    model = build(2).train()
    targets = torch.arange(8) % 2
    images = torch.randn(8, 3, 32, 32) + targets.view(-1, 1, 1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        loss = nn.functional.cross_entropy(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
