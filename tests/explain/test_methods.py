"""Formulas against their definitions, written out position by position."""

import pytest
import torch
from torch import Tensor, nn

from deepbloom.explain import methods


def draw(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, 4, 5, generator=generator), torch.randn(2, 3, 4, 5, generator=generator)


def test_hirescam_adds_up_to_the_logit_without_the_bias() -> None:
    torch.manual_seed(0)
    head = nn.Linear(3, 4)
    activations = draw()[0].requires_grad_()
    logits = head(activations.mean((2, 3)))
    (gradients,) = torch.autograd.grad(logits[:, 2].sum(), activations)
    total = methods.hirescam(activations, gradients).sum((1, 2))
    assert torch.allclose(total, logits[:, 2] - head.bias[2], atol=1e-5)
    assert not torch.allclose(total, logits[:, 2], atol=1e-5)


def test_gradcam_plus_plus_follows_equation_19() -> None:
    activations, gradients = draw()
    expected = torch.zeros(2, 4, 5)
    for image in range(2):
        for channel in range(3):
            a, g = activations[image, channel], gradients[image, channel]
            weight = 0.0
            for y in range(4):
                for x in range(5):
                    alpha = g[y, x] ** 2 / (2 * g[y, x] ** 2 + a.sum() * g[y, x] ** 3)
                    weight += float(alpha * max(g[y, x], torch.tensor(0.0)))
            expected[image] += weight * a
    assert torch.allclose(methods.gradcam_plus_plus(activations, gradients), expected, rtol=1e-3, atol=1e-3)


def test_xgradcam_weighs_gradients_by_the_share_of_the_activation() -> None:
    activations, gradients = draw()
    shares = activations / activations.sum((2, 3), keepdim=True)
    weights = (shares * gradients).sum((2, 3), keepdim=True)
    assert torch.allclose(methods.xgradcam(activations, gradients), (weights * activations).sum(1), atol=1e-5)


def test_xgradcam_ignores_a_silent_channel() -> None:
    activations, gradients = draw()
    activations[:, 1] = 0
    assert methods.xgradcam(activations, gradients).isfinite().all()


def test_eigencam_finds_the_pattern_that_channels_share() -> None:
    pattern = torch.rand(4, 5, generator=torch.Generator().manual_seed(3))
    activations = (pattern * torch.tensor([1.0, 2.0, 0.5])[:, None, None])[None]
    found = methods.eigencam(activations)[0]
    assert torch.allclose(found / found.std(), (pattern - pattern.mean()) / pattern.std(), atol=1e-4)


def test_eigencam_is_high_where_the_layer_is_active() -> None:
    """Whatever sign the decomposition gives: over many draws, both come up."""
    for seed in range(20):
        activations = draw(seed)[0]
        activations[:, :, 1, 2] += 3
        assert methods.eigencam(activations).flatten(1).argmax(1).tolist() == [7, 7]


def test_every_method_states_what_it_needs() -> None:
    assert {method.needs for method in methods.METHODS.values()} == {"gradients", "activations", "forward_passes"}
    assert len({method.title for method in methods.METHODS.values()}) == len(methods.METHODS) == 8
    assert [name for name, method in methods.METHODS.items() if method.is_slow] == ["scorecam", "ablationcam"]


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="'gradcam' already"):
        methods.cam_method("gradcam", title="Other")(lambda activations: activations.sum(1))
    assert methods.METHODS["gradcam"].draw is methods.gradcam
