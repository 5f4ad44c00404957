"""Training runs of a second: tiny networks on images of 16 pixels, and all that a run leaves, for comparison."""

import csv
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepbloom import recipe
from deepbloom.config.data_settings import DataConfig
from deepbloom.config.settings import (
    AugmentConfig,
    LoggerConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    SchedulerConfig,
    TrainConfig,
)
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.engine.checkpoint import MODEL_KIND, STATE_KIND, read_tensors
from deepbloom.models.registry import architecture
from deepbloom.runs import folder as run_dir

NOT_REPEATED = ("seconds", "images_per_second", "train_seconds", "feature_seconds", "latency_ms", "peak_memory_bytes")
NOT_REPEATED += ("total_seconds", "host_peak_memory_bytes")
"""Times and memory, the only figures in which a resumed run may differ."""


TINY_PREPROCESSING = Preprocessing(size=16)


@architecture("tiny", head="fc", target_layer="block2", description="tiny", preprocessing=TINY_PREPROCESSING)
def _tiny(num_classes: int) -> nn.Sequential:
    body = {
        "block1": nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU()),
        "block2": nn.Sequential(nn.Conv2d(4, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3)),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(8, num_classes),
    }
    model = nn.Sequential()
    for name, module in body.items():
        model.add_module(name, module)
    return model


MODELS = {"tiny": ModelConfig(name="tiny", arch="tiny", trainable="all", weights="none")}
MODELS["tiny_partial"] = ModelConfig(name="tiny_partial", arch="tiny", trainable=["block2", "fc"], weights="none")


def settings(
    images: Path, folder: Path, model: str = "tiny", pixel_cache: str = "auto", mixup: float = 0.2, **train: Any
) -> RunConfig:
    """Return the settings of a run of 12 steps in three epochs, saved after every step."""
    options: dict[str, Any] = {"epochs": 3, "batch_size": 8, "num_threads": 1, "precision": "fp32", "ema_decay": 0.9}
    options |= {"checkpoint_seconds": 0.0, "num_workers": 0}
    return RunConfig(
        output_dir=str(folder),
        model=MODELS[model] if model in MODELS else recipe(model, model={"weights": "none"}).model,
        data=DataConfig("imagefolder", root=str(images), pixel_cache=pixel_cache),
        optimizer=OptimizerConfig("adamw", 0.01, 0.01),
        scheduler=SchedulerConfig("one_cycle"),
        augment=AugmentConfig({"rotate": {"degrees": 20}, "flip": {}} | ({"mixup": {"alpha": mixup}} if mixup else {})),
        train=TrainConfig(**(options | train)),
        logger=LoggerConfig("none"),
    )


def outcome(folder: Path) -> dict[str, Any]:
    """Return what a complete run left, but for times and memory: weights, optimizer, history, metrics, answers."""
    state, header = read_tensors(folder / run_dir.LAST, STATE_KIND)
    model, model_header = read_tensors(folder / run_dir.MODEL, MODEL_KIND)
    with open(folder / run_dir.HISTORY, newline="") as file:
        history = list(csv.DictReader(file))
    return {
        "state": {name: _bits(tensor) for name, tensor in state.items()},
        "model": {name: _bits(tensor) for name, tensor in model.items()},
        "progress": _repeated(header["progress"]),
        "model_header": model_header,
        "history": _repeated(history),
        "metrics": _repeated(json.loads((folder / run_dir.METRICS).read_text())),
        "tables": [(folder / name).read_bytes() for name in (run_dir.PREDICTIONS, "class_report.csv")],
        "files": sorted(path.name for path in folder.iterdir()),
    }


def _bits(tensor: torch.Tensor) -> tuple:
    return tuple(tensor.shape), str(tensor.dtype), tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _repeated(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _repeated(value) for key, value in content.items() if key not in NOT_REPEATED}
    return [_repeated(value) for value in content] if isinstance(content, list) else content
