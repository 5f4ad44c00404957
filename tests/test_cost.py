"""Costs against hand counts and published numbers."""

import pytest
import torch
from torch import nn

from deepbloom.cost import count_macs
from deepbloom.models.registry import create_model


def test_macs_of_a_small_network_are_counted_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),  # 16 x 16 outputs of 8 channels, 3 x 3 x 3 products each
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 12, 5, stride=2, groups=4),  # 6 x 6 outputs of 12 channels, 2 x 5 x 5 products each
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 10),
    )
    assert count_macs(model, 16) == 16 * 16 * 8 * 27 + 6 * 6 * 12 * 50 + 12 * 10


def test_a_layer_that_is_applied_twice_counts_twice():
    layer = nn.Conv2d(3, 3, 1)
    assert count_macs(nn.Sequential(layer, layer), 4) == 2 * 16 * 9


def test_attention_counts_its_two_matrix_products():
    layer = nn.MultiheadAttention(8, num_heads=2, bias=False, batch_first=True)

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = layer

        def forward(self, images):
            tokens = images.flatten(2).transpose(1, 2)  # (1, 16, 3)
            tokens = torch.cat([tokens, tokens, tokens[..., :2]], 2)  # (1, 16, 8)
            return self.attention(tokens, tokens, tokens)[0]

    projections, products = 4 * 16 * 8 * 8, 2 * 16 * 16 * 8
    assert count_macs(Attention(), 4) == projections + products


@pytest.mark.parametrize(("name", "published"), [("resnet18", 1.814e9), ("efficientnet_b0", 0.386e9)])
def test_macs_agree_with_published_numbers(name, published):
    assert count_macs(create_model(name, 1000), 224) == pytest.approx(published, rel=0.003)


def test_counting_leaves_the_network_as_found():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    model[2].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    count_macs(model, 8)
    assert [module.training for module in model] == [True, True, False]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not model[0]._forward_hooks


def test_a_failing_forward_pass_leaves_no_hooks():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(99, 2)).train()
    with pytest.raises(RuntimeError):
        count_macs(model, 8)
    assert not model[0]._forward_hooks
    assert model[0].training
