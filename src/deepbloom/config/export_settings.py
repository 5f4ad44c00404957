"""The settings of ``export`` and ``compress``, typed and checked."""

from dataclasses import dataclass
from typing import Any

from deepbloom.config.data_settings import DataConfig
from deepbloom.config.schema import check_choice, check_range, setting
from deepbloom.config.settings import AugmentConfig, OptimizerConfig, SchedulerConfig, TrainConfig
from deepbloom.errors import ConfigError

PRECISIONS = ("fp32", "fp16", "int8")


@dataclass
class ExportConfig:
    """Settings of ``deepbloom export``."""

    ckpt: str = setting("", path=True)
    """A run directory or its ``model.safetensors``; ``last``: the newest complete run in ``outputs``."""
    format: str = "onnx"
    """One of the formats listed above."""
    precision: str = "fp32"
    """``fp32``; ``fp16``: weights in half precision; ``int8``: weights and activations as 8-bit integers."""
    output_dir: str | None = setting(None, path=True)
    """Where the file, export.json and README.md go. None: ``export-FORMAT-PRECISION/`` in the run directory; for a
    model file ``outputs/export-NAME-FORMAT-PRECISION``."""
    data: dict[str, Any] = setting(changes=DataConfig)
    """Data settings that differ from the run's, e.g. ``data.root=PATH``."""
    image: Any = setting("", path=True)
    """Images of your own to compare file and checkpoint on, where the run's test split is not at hand."""

    def __post_init__(self) -> None:
        if not self.ckpt:
            raise ConfigError("deepbloom export needs ckpt=RUN_OR_FILE.")
        check_choice("precision", self.precision, PRECISIONS)
        if self.image and self.data:
            raise ConfigError(f"Nothing reads data.{next(iter(self.data))} with image=FOLDER. Leave out one of them.")


TRAINS = ("method=prune or method=distill", lambda compress: compress.method != "int8")


@dataclass
class CompressConfig:
    """Settings of ``deepbloom compress``."""

    ckpt: Any = setting("", path=True)
    """A run directory or its ``model.safetensors``; ``last``: the newest complete run in ``outputs``. With
    ``method=distill`` several, ``[a,b]``: the mean of their probabilities teaches."""
    method: str = "int8"
    """One of the methods listed above. ``int8``: 8-bit integers, for the runtime that does best, with fine-tuning
    where that loses too much; ``prune``: fewer channels, then fine-tuning; ``distill``: a small network learns what the
    checkpoint says."""
    target_macs: float = setting(0.5, only=("method=prune", lambda compress: compress.method == "prune"))
    """Share of the multiply-accumulates that is left, in (0, 1)."""
    student: str = setting("mini_resnet", only=("method=distill", lambda compress: compress.method == "distill"))
    """The network that learns: a name of ``deepbloom train model=NAME``."""
    seed: int = setting(0, only=TRAINS)
    """Seed of the training."""
    output_dir: str | None = setting(None, path=True)
    """The new run directory, or, for ``int8``, where the files go. None: a folder beside the run."""
    data: dict[str, Any] = setting(changes=DataConfig)
    """Data settings that differ from the run's, e.g. ``data.root=PATH``."""
    train: dict[str, Any] = setting(changes=TrainConfig)
    """Settings of the training that differ from the recipe's, e.g. ``train.epochs=40``."""
    optimizer: dict[str, Any] = setting(changes=OptimizerConfig)
    """The same of the optimizer, e.g. ``optimizer.lr=0.0005``."""
    scheduler: dict[str, Any] = setting(changes=SchedulerConfig)
    """The same of the learning rate's course."""
    augment: dict[str, Any] = setting(changes=AugmentConfig)
    """Another augmentation than the recipe's, e.g. ``augment=mixup``."""

    def __post_init__(self) -> None:
        if not self.ckpt:
            raise ConfigError("deepbloom compress needs ckpt=RUN_OR_FILE.")
        check_range("target_macs", self.target_macs, 0.05, 0.95)
        check_range("seed", self.seed, 0, 2**32 - 1)
        unread = [key for key in ("train", "optimizer", "scheduler", "augment") if getattr(self, key)]
        if self.method == "int8" and unread:
            raise ConfigError(f"Nothing reads {unread[0]} here. Leave it out, or add {TRAINS[0]}.")
