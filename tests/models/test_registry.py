"""One contract for every network of the registry."""

import dataclasses

import pytest
import torch
import torchvision
import yaml
from torch import nn
from torchvision.ops import StochasticDepth

from deepbloom.data.preprocessing import Preprocessing
from deepbloom.errors import ConfigError
from deepbloom.models.freezing import count_parameters, split_model, train_mode
from deepbloom.models.registry import create_model, get_spec, model_names

NAMES = (
    "scratch_cnn",
    "mini_resnet",
    "resnet18_frozen",
    "resnet18_partial",
    "efficientnet_b0_partial",
    "efficientnet_lite0_frozen",
    "efficientnet_lite0_partial",
)
WITH_FROZEN_STATISTICS = tuple(name for name in NAMES if name not in ("scratch_cnn", "mini_resnet"))


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def images(batch=4):
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def is_declared(name, spec):
    return any(path == "" or name.startswith(f"{path}.") for path in spec.trainable)


def train_steps(model, set_mode, steps=3):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.1)
    for step in range(steps):
        set_mode()
        images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(step))
        nn.functional.cross_entropy(model(images), torch.arange(4)).backward()
        optimizer.step()
        optimizer.zero_grad()


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_the_registry_holds_the_agreed_names():
    assert model_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_logits_have_one_finite_value_per_image_and_class(name):
    model = create_model(name, 7)
    with torch.inference_mode():
        logits = model(images(2))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("name", NAMES)
def test_exactly_the_declared_parameters_get_gradients(name):
    model, spec = create_model(name, 4), get_spec(name)
    (model(images()) * torch.randn(4, 4)).sum().backward()
    declared = {key for key, _ in model.named_parameters() if is_declared(key, spec)}
    reached = {key for key, p in model.named_parameters() if p.grad is not None and p.grad.count_nonzero() > 0}
    assert declared
    assert reached == declared
    assert {key for key, p in model.named_parameters() if p.grad is not None} == declared


@pytest.mark.parametrize("name", NAMES)
def test_training_changes_every_declared_tensor_and_no_other_bit(name):
    model, spec = create_model(name, 4), get_spec(name)
    before = snapshot(model)
    train_steps(model, lambda: train_mode(model, spec.trainable))
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == {key for key in before if is_declared(key, spec)}


@pytest.mark.parametrize("name", WITH_FROZEN_STATISTICS)
def test_plain_train_mode_would_let_frozen_statistics_drift(name):
    model, spec = create_model(name, 4), get_spec(name)
    before = snapshot(model)
    train_steps(model, model.train, steps=1)
    drifted = [key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])]
    assert any(not is_declared(key, spec) for key in drifted)


@pytest.mark.parametrize("name", NAMES)
def test_the_two_halves_of_a_split_network_give_the_same_logits(name):
    model, spec = create_model(name, 4), get_spec(name)
    prefix, tail = split_model(model, spec)
    with torch.inference_mode():
        assert torch.equal(tail(prefix(images())), model(images()))
    assert bool(list(prefix.parameters())) == (spec.training_type != "from scratch")


@pytest.mark.parametrize("name", NAMES)
def test_a_split_network_trains_as_the_whole_one_does(name):
    model, spec = create_model(name, 4), get_spec(name)
    prefix, tail = split_model(model, spec)
    train_mode(model, spec.trainable)

    def logits(forward, seed):
        torch.manual_seed(seed)  # dropout and stochastic depth
        with torch.inference_mode():
            return forward(images())

    assert torch.equal(logits(lambda images: tail(prefix(images)), 2), logits(model, 2))
    is_random = any(isinstance(m, nn.Dropout | StochasticDepth) for m in model.modules() if m.training)
    assert is_random == (name not in ("resnet18_frozen", "resnet18_partial"))
    assert torch.equal(logits(model, 2), logits(model, 3)) != is_random


@pytest.mark.parametrize("name", NAMES)
def test_the_tail_holds_the_networks_own_trained_parameters(name):
    model, spec = create_model(name, 4), get_spec(name)
    prefix, tail = split_model(model, spec)
    assert not any(p.requires_grad for p in prefix.parameters())
    assert {id(p) for p in tail.parameters() if p.requires_grad} == {
        id(p) for p in model.parameters() if p.requires_grad
    }


@pytest.mark.parametrize("name", NAMES)
def test_stages_go_by_their_module_paths(name):
    model, spec = create_model(name, 4), get_spec(name)
    modules = dict(model.named_modules())
    for path, stage in spec.stages(model):
        if path in modules:
            assert modules[path] is stage
        else:
            assert not list(stage.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_head_and_target_layer_exist(name):
    model, spec = create_model(name, 9), get_spec(name)
    head = model.get_submodule(spec.head)
    assert isinstance(head, nn.Linear)
    assert head.out_features == 9
    shapes = []
    handle = model.get_submodule(spec.target_layer).register_forward_hook(lambda m, i, o: shapes.append(o.shape))
    model(torch.zeros(1, 3, 224, 224))
    handle.remove()
    batch, channels, height, width = shapes[0]
    assert batch == 1
    assert channels >= 128
    assert min(height, width) >= 4


@pytest.mark.parametrize("name", NAMES)
def test_random_weights_follow_from_the_global_seed(name):
    states = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        states.append(create_model(name, 3).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("resnet18_frozen", torchvision.models.resnet18),
        ("resnet18_partial", torchvision.models.resnet18),
        ("efficientnet_b0_partial", torchvision.models.efficientnet_b0),
    ],
)
def test_state_dicts_of_torchvision_load(name, theirs):
    state = theirs(num_classes=6).state_dict()
    model = create_model(name, 6)
    assert list(model.state_dict()) == list(state)
    model.load_state_dict(state)


def mbconv(inputs, outputs, kernel, squeeze_and_excitation):
    """Count the parameters of an inverted residual block (expansion 6), after the EfficientNet paper."""
    wide, squeezed = 6 * inputs, inputs // 4
    count = inputs * wide + 2 * wide + kernel**2 * wide + 2 * wide + wide * outputs + 2 * outputs
    return count + (squeezed * wide + squeezed + wide * squeezed + wide) * squeeze_and_excitation


def late_stages(squeeze_and_excitation):
    fifth = mbconv(112, 192, 5, squeeze_and_excitation) + 3 * mbconv(192, 192, 5, squeeze_and_excitation)
    return fifth + mbconv(192, 320, 3, squeeze_and_excitation)


def residual_block(inputs, outputs):
    shortcut = 0 if inputs == outputs else inputs * outputs + 2 * outputs
    return 9 * inputs * outputs + 9 * outputs * outputs + 4 * outputs + shortcut


def linear(inputs, outputs=102):
    return inputs * outputs + outputs


SCRATCH = 9 * (3 * 16 + 16 * 48 + 48 * 128) + 2 * (16 + 48 + 128) + linear(128 * 7 * 7, 304) + linear(304)
MINI = (
    (7 * 7 * 3 * 48 + 2 * 48)
    + residual_block(48, 48)
    + residual_block(48, 128)
    + residual_block(128, 256)
    + residual_block(256, 256)
    + residual_block(256, 304)
    + linear(304)
)
# Published totals with 1,000 classes (torchvision, timm), less their heads, and the new head.
RESNET18 = 11_689_512 - linear(512, 1000) + linear(512)
B0 = 5_288_548 - linear(1280, 1000) + linear(1280)
LITE0 = 4_652_008 - linear(1280, 1000) + linear(1280)
RESNET18_STAGES_3_AND_4 = residual_block(128, 256) + 9 * 2 * 256**2 + 4 * 256
RESNET18_STAGES_3_AND_4 += residual_block(256, 512) + 9 * 2 * 512**2 + 4 * 512


@pytest.mark.parametrize(
    ("name", "total", "trainable"),
    [
        ("scratch_cnn", SCRATCH, SCRATCH),
        ("mini_resnet", MINI, MINI),
        ("resnet18_frozen", RESNET18, linear(512)),
        ("resnet18_partial", RESNET18, RESNET18_STAGES_3_AND_4 + linear(512)),
        ("efficientnet_b0_partial", B0, late_stages(True) + linear(1280)),
        ("efficientnet_lite0_frozen", LITE0, linear(1280)),
        ("efficientnet_lite0_partial", LITE0, late_stages(False) + 320 * 1280 + 2 * 1280 + linear(1280)),
    ],
)
def test_parameter_counts_for_102_classes(name, total, trainable):
    assert count_parameters(create_model(name, 102)) == {"total": total, "trainable": trainable}


def test_the_two_small_networks_have_the_promised_size():
    assert pytest.approx(2.0e6, rel=0.02) == SCRATCH
    assert pytest.approx(4.0e6, rel=0.02) == MINI


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet18_partial", torchvision.models.ResNet18_Weights.IMAGENET1K_V1),
        ("efficientnet_b0_partial", torchvision.models.EfficientNet_B0_Weights.IMAGENET1K_V1),
    ],
)
def test_preprocessing_is_the_one_that_the_weights_were_published_with(name, weights):
    published = weights.transforms()
    assert get_spec(name).preprocessing == Preprocessing(
        size=published.crop_size[0],
        mean=tuple(published.mean),
        std=tuple(published.std),
        interpolation=published.interpolation.value,
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_file_agrees_with_the_registry(name, pytestconfig):
    text = (pytestconfig.rootpath / "conf" / "model" / f"{name}.yaml").read_text(encoding="utf-8")
    spec = get_spec(name)
    content = yaml.safe_load(text)
    assert content.get("model", content) == {"name": name, "weights": spec.default_weights}
    trains = next(line for line in text.splitlines() if line.startswith("# Trains: "))
    for path in filter(None, spec.trainable):
        assert path in trains


def test_a_spec_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_spec("scratch_cnn").trainable = ("fc",)


def test_an_unknown_network_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"resnet18_partail.*Did you mean 'resnet18_partial'.*scratch_cnn"):
        create_model("resnet18_partail", 5)


@pytest.mark.parametrize(
    ("name", "weights", "choices"),
    [
        ("scratch_cnn", "imagenet", "Choices: none"),
        ("mini_resnet", "imagenet", "Choices: none"),
        ("resnet18_frozen", "imagnet", "Did you mean 'imagenet'"),
    ],
)
def test_a_keyword_that_the_network_has_no_weights_for_is_refused(name, weights, choices):
    with pytest.raises(ConfigError, match=choices):
        create_model(name, 5, weights)


def test_a_network_needs_a_class():
    with pytest.raises(ConfigError, match="num_classes=0"):
        create_model("scratch_cnn", 0)
