"""Fake quantization: the numbers of int8, the gradients of float."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deepbloom.engine.checkpoint import read_model
from deepbloom.engine.fake_quantize import LARGEST, FakeQuantized, quantize_activation, quantize_weight
from deepbloom.engine.folding import fold_batch_norms
from deepbloom.models.registry import create_model
from small_data import SMALL

Run = Callable[..., tuple[int, str, str]]


def test_an_activation_is_rounded_to_255_steps_of_which_zero_is_one():
    """From -1 to 4.1 a step is 0.02, and zero is step 50."""
    values = torch.tensor([-1.0, -0.013, 0.0, 0.009, 0.011, 2.5, 4.1])
    expected = torch.tensor([-1.0, -0.02, 0.0, 0.0, 0.02, 2.5, 4.1])
    torch.testing.assert_close(quantize_activation(values), expected)
    assert quantize_activation(torch.tensor([3.0, 5.1])).tolist() == pytest.approx([3.0, 5.1])  # zero is taken in
    assert quantize_activation(torch.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("bits", [7, 8])
def test_each_output_channel_of_a_weight_has_its_own_scale(bits: int) -> None:
    largest = LARGEST[bits]
    weight = torch.tensor([[largest, 0.4, -3.6], [0.02 * largest, 0.009, -0.031], [0, 0, 0]])
    expected = torch.tensor([[largest, 0.0, -4.0], [0.02 * largest, 0.0, -0.04], [0, 0, 0]])
    torch.testing.assert_close(quantize_weight(weight, largest), expected)


def test_gradients_pass_inside_the_range_only():
    values = torch.tensor([-2.0, -1.0, 0.3, 0.999, 1.5], requires_grad=True)
    quantize_activation(values, torch.tensor(-1.0), torch.tensor(1.0)).backward(torch.arange(1.0, 6.0))
    assert values.grad is not None
    assert values.grad.tolist() == [0, 2, 3, 4, 0]
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    quantize_weight(weight, LARGEST[8]).sum().backward()
    assert weight.grad is not None
    assert (weight.grad == 1).all()


def test_rounding_before_folding_is_rounding_after_it():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 3)).eval()
    network[1].weight.data.normal_()  # negative factors too
    network[1].running_var.uniform_(0.1, 9)
    network[1].running_mean.normal_()
    images = torch.randn(2, 3, 16, 16)
    folded = fold_batch_norms(network, images)
    assert folded is not network
    with torch.no_grad():
        torch.testing.assert_close(FakeQuantized(network, 8)(images), FakeQuantized(folded, 8)(images))
        assert not torch.allclose(FakeQuantized(network, 8)(images), network(images), rtol=1e-4)


def test_what_a_network_computes_is_rounded_and_what_it_holds_is_not():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 3, 1, bias=False), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(F.adaptive_avg_pool2d(x + self.conv(x), 1).flatten(1) * 2)

    torch.manual_seed(0)
    network, x, largest = Residual(), torch.randn(4, 3, 8, 8), LARGEST[7]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        found = FakeQuantized(network, 7)(x)
        convolved = F.conv2d(quantize_activation(x), quantize_weight(network.conv.weight, largest))
        added = quantize_activation(x) + quantize_activation(convolved)
        pooled = quantize_activation(added).mean((2, 3)) * 2
        linear = F.linear(quantize_activation(pooled), quantize_weight(network.fc.weight, largest), network.fc.bias)
        torch.testing.assert_close(found, quantize_activation(linear))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_every_weight_of_a_network_learns():
    network = create_model("mini_resnet", 3).train()
    FakeQuantized(network, 8)(torch.randn(4, 3, 64, 64)).logsumexp(1).sum().backward()
    assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]


def test_a_run_trains_under_fake_quantization_and_says_so(images: Path, trained_run: Path, deepbloom: Run, tmp_path):
    words = ["train", "model=scratch_cnn", "data=imagefolder", f"data.root={images}", "train.weight_bits=8", *SMALL]
    words += [f"model.weights={trained_run}", "model.trainable=[block3,hidden,fc]", "augment=none"]
    code, _, err = deepbloom(*words, f"output_dir={tmp_path}")
    assert code == 0, err
    assert "There is no feature cache: fake quantization" in err
    identity = json.loads((tmp_path / "metrics.json").read_text("utf-8"))["identity"]
    assert identity["train.weight_bits"] == 8
    before, after = (read_model(run).network.state_dict() for run in (trained_run, tmp_path))
    assert before.keys() == after.keys()
    assert not torch.equal(before["fc.weight"], after["fc.weight"])
    assert torch.equal(before["block1.0.weight"], after["block1.0.weight"])


def test_without_fake_quantization_the_identity_does_not_name_it(trained_run: Path) -> None:
    identity = json.loads((trained_run / "metrics.json").read_text("utf-8"))["identity"]
    assert not [key for key in identity if "weight_bits" in key]


@pytest.mark.parametrize(
    ("word", "said"), [("weight_bits=4", "give 8, 7"), ("minutes=1", "train.epochs"), ("compile=true", "leave out")]
)
def test_what_does_not_go_with_it_is_refused(word: str, said: str, images: Path, deepbloom: Run) -> None:
    words = ["train", "model=scratch_cnn", "data=imagefolder", f"data.root={images}"]
    bits = [] if "bits" in word else ["train.weight_bits=8"]
    code, _, err = deepbloom(*words, *bits, f"train.{word}")
    assert (code, said in err) == (2, True), err
