"""The settings of a training run, typed and checked. Each field's docstring stands below it.

A default stands once: here, or, for a field without one, in ``conf/``. `deepbloom.recipe` composes both.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from deepbloom.config.data_settings import DataConfig
from deepbloom.config.schema import check_choice, check_range, setting
from deepbloom.errors import ConfigError

OPTIMIZERS = ("adam", "adamw", "sgd")
LOGGERS = ("none", "tensorboard", "mlflow")
SCHEDULERS = ("step", "one_cycle", "cosine", "constant")
DEVICES = ("auto", "cpu", "cuda", "mps")
BALANCES = ("none", "weights", "sampling")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
WEIGHT_BITS = (0, 7, 8)
MOST_THREADS = 1024
TARGET = 0.99
"""Share of the accepted predictions that must be correct."""


@dataclass(kw_only=True)
class ModelConfig:
    """Which network, which of its modules train, and the weights that it starts from."""

    name: str
    """Name of the YAML file in ``conf/model`` that the settings come from."""
    arch: str = setting(only=("model=timm", lambda model: model.name == "timm"))
    """The network: that of the named model, or any of timm's by its name."""
    trainable: Any
    """Modules that train: paths such as ``[layer4,fc]``, ``head`` (the classifier), ``last:N`` (the classifier and the
    N blocks before it) or ``all``. Every other module keeps its weights and its BatchNorm statistics."""
    weights: str = setting(path=True)
    """``imagenet``, ``none`` (random), or the path of a run directory or of a .safetensors or .pth state dict."""

    def __post_init__(self) -> None:
        names = [self.trainable] if isinstance(self.trainable, str) else self.trainable
        if (
            not isinstance(names, list | tuple)
            or not names
            or not all(isinstance(name, str) and name for name in names)
        ):
            raise ConfigError(
                f"model.trainable={self.trainable!r}: give head, last:N, all, or module paths such as [layer4,fc]."
            )
        self.trainable = list(names)

    @property
    def label(self) -> str:
        """What runs and reports call the model: its name, with the architecture where the name does not tell it."""
        return f"timm-{self.arch}" if self.name == "timm" else self.name


@dataclass
class OptimizerConfig:
    """Optimizer settings."""

    name: str
    """``adam``, ``adamw`` or ``sgd`` (Nesterov momentum 0.9)."""
    lr: float
    """Peak learning rate."""
    weight_decay: float
    """Weight decay of matrices and kernels; biases and normalization are never decayed."""
    layer_decay: float = 1.0
    """Learning rate of each trained block as a share of that of the block behind it, in (0, 1]; the classifier has the
    full rate."""

    def __post_init__(self) -> None:
        check_choice("optimizer", self.name, OPTIMIZERS)
        check_range("optimizer.lr", self.lr, 0, open_low=True)
        check_range("optimizer.weight_decay", self.weight_decay, 0)
        check_range("optimizer.layer_decay", self.layer_decay, 0, 1, open_low=True)


STEP = ("scheduler=step", lambda scheduler: scheduler.name == "step")


@dataclass
class SchedulerConfig:
    """Learning rate as a function of the step, as a multiple of the peak."""

    name: str
    """``step``, ``one_cycle``, ``cosine`` or ``constant``."""
    gamma: float = setting(0.5, only=STEP)
    """Factor at each drop (step)."""
    every_epochs: int = setting(5, only=STEP)
    """Epochs between drops (step)."""
    warmup_fraction: float = setting(
        0.15, only=("scheduler=one_cycle", lambda scheduler: scheduler.name == "one_cycle")
    )
    """Share of all steps in which the rate rises linearly from zero (one_cycle)."""

    def __post_init__(self) -> None:
        check_choice("scheduler", self.name, SCHEDULERS)
        check_range("scheduler.gamma", self.gamma, 0, 1, open_low=True)
        check_range("scheduler.every_epochs", self.every_epochs, 1)
        check_range("scheduler.warmup_fraction", self.warmup_fraction, 0, 0.9)


@dataclass
class AugmentConfig:
    """Changes of training images. Evaluation never uses them."""

    ops: dict[str, dict[str, Any]] = setting(any_key=True)
    """Operations by name, in order, each with its parameters; they are functions in ``deepbloom.data.augment``. Change
    one with ``augment.ops.rotate.degrees=10``, add one with ``augment.ops.mixup.alpha=0.2``, remove one with
    ``~augment.ops.flip``; ``augment.ops={flip: {}}`` replaces them all."""
    train_resolution: float = 1.0
    """Side of training images as a share of the side of test images, in [0.5, 1]; to a multiple of 16 pixels."""
    first_resolution: float = 0.0
    """The same in the first third of the epochs, for progressive resizing; the second third lies midway. 0: off."""

    def __post_init__(self) -> None:
        for name, parameters in self.ops.items():
            if not isinstance(parameters, dict):
                raise ConfigError(f"augment.ops.{name}={parameters!r} must be its parameters, such as {{degrees: 20}}.")
            parameters.update({key: float(value) for key, value in parameters.items() if type(value) is int})
        check_range("augment.train_resolution", self.train_resolution, 0.5, 1)
        if self.first_resolution:
            check_range("augment.first_resolution", self.first_resolution, 0.5, self.train_resolution)


@dataclass
class TrainConfig:
    """The training loop."""

    epochs: int = setting(20, only=("train.minutes=0", lambda train: not train.minutes))
    """Passes over the training split."""
    minutes: float = 0.0
    """Train as many epochs as fit into this time on this machine, with features, validation and test; 0 takes
    ``train.epochs``. The speed is measured once; reading image files for the first time comes on top."""
    batch_size: int = 32
    """Images per optimizer step; at most as many as there are training images."""
    label_smoothing: float = setting(0.1, only=("train.teacher=''", lambda train: not train.teacher))
    """Share of the target spread over all classes, in [0, 1)."""
    teacher: Any = setting("", path=True)
    """A run or model file whose probabilities the network learns instead of the labels, on the same augmented images;
    for several, ``[a,b]``, their mean. It must have been trained on the same split. Empty: none."""
    teacher_temperature: float = setting(2.0, only=("train.teacher=RUN", lambda train: bool(train.teacher)))
    """What divides the logits of both before the softmax, so that small probabilities count more."""
    probe: bool = False
    """Fit the classifier to the features of the starting weights first, by logistic regression; then train."""
    balance: str = "none"
    """For classes of unequal size: ``weights`` multiplies the loss of an image by the mean size of a class over that of
    its own; ``sampling`` shows every class equally often, so that images of small classes repeat within an epoch (the
    same augmented copy) and some of large ones wait for another. ``none`` treats all images alike."""
    ema_decay: float = 0.0
    """Decay per step of the averaged weights that are validated and kept; 0 is off."""
    weight_bits: int = 0
    """Fake quantization: training and validation round weights to this many bits and activations to 8, as an int8 file
    does, so that the network learns to bear it. 8, or 7 for processors without VNNI; 0 is off."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``mps`` (Apple); ``auto`` takes CUDA where available, otherwise the CPU."""
    precision: str = "auto"
    """``fp32``, ``bf16`` or ``fp16`` (autocast), or ``auto``: bf16 where the processor computes it natively,
    else fp32 (fp16 on older GPUs)."""
    num_workers: int = -1
    """Threads that decode images; -1 takes one per available core. Results do not depend on it."""
    num_threads: int = 0
    """Threads of CPU arithmetic; 0 takes one per available core. The last bits of results depend on it."""
    resume: str = "auto"
    """``auto`` resumes an interrupted run with the same settings; ``never`` starts a new run."""
    checkpoint_seconds: float = 60.0
    """Shortest time between two checkpoints, in seconds."""
    compile: bool = False
    """Compile the network (``torch.compile``; CUDA graphs on a GPU). Needs a C++ compiler; dropout differs then."""
    feature_cache: str = "auto"
    """``auto`` computes the outputs of the frozen modules once; ``off`` computes them in every step."""
    feature_copies: int = 0
    """Augmented copies of each image, per train resolution, that are shown in turn. 0 takes four (two where the
    resolution grows) if features are cached, and otherwise augments anew in each epoch. At most as many as epochs."""

    def __post_init__(self) -> None:
        check_range("train.epochs", self.epochs, 1)
        check_range("train.minutes", self.minutes, 0)
        check_range("train.batch_size", self.batch_size, 1)
        check_range("train.label_smoothing", self.label_smoothing, 0, 0.99)
        check_choice("train.balance", self.balance, BALANCES)
        check_range("train.teacher_temperature", self.teacher_temperature, 0.1, 100)
        if self.teacher and self.balance == "weights":
            raise ConfigError("train.balance=weights weights labels, and train.teacher replaces them: leave out one.")
        for name in ("teacher", "weight_bits", "probe", "compile"):
            if self.minutes and getattr(self, name):
                raise ConfigError(f"train.minutes does not count the time of train.{name}: give train.epochs instead.")
        if self.weight_bits not in WEIGHT_BITS:
            raise ConfigError(f"train.weight_bits={self.weight_bits}: give 8, 7, or 0 for none.")
        if self.weight_bits and self.compile:
            raise ConfigError("train.compile=true does not see train.weight_bits: leave out one.")
        check_range("train.ema_decay", self.ema_decay, 0, 0.99999)
        check_choice("train.device", self.device, DEVICES)
        check_choice("train.precision", self.precision, PRECISIONS)
        check_range("train.num_workers", self.num_workers, -1, MOST_THREADS)
        check_range("train.num_threads", self.num_threads, 0, MOST_THREADS)
        check_choice("train.resume", self.resume, ("auto", "never"))
        check_range("train.checkpoint_seconds", self.checkpoint_seconds, 0)
        check_choice("train.feature_cache", self.feature_cache, ("auto", "off"))
        check_range("train.feature_copies", self.feature_copies, 0)


@dataclass
class LoggerConfig:
    """Where results go besides the run directory."""

    name: str
    """``none``, ``tensorboard`` (into the run directory) or ``mlflow``."""
    tracking_uri: str | None = setting(None, text=True, only=("logger=mlflow", lambda logger: logger.name == "mlflow"))
    """Server or database (mlflow). None: ``MLFLOW_TRACKING_URI`` if set, else ``mlflow/runs.db`` beside the run."""

    def __post_init__(self) -> None:
        check_choice("logger", self.name, LOGGERS)
        if re.search("://[^/]*@", self.tracking_uri or ""):
            raise ConfigError(
                "logger.tracking_uri contains a user or password, which a run's config.yaml would show. Leave it out, "
                "and set the environment variable MLFLOW_TRACKING_URI instead."
            )


@dataclass(kw_only=True)
class RunConfig:
    """Settings of one training run."""

    name: str = setting("", text=True)
    """What the report, ``deepbloom runs`` and the demo call the run; it changes no result. Empty: model and seed."""
    seed: int = 0
    """Seed of the initial weights, the order of images, augmentation and dropout."""
    output_dir: str | None = setting(None, path=True)
    """The run directory. None: a folder in ``outputs/`` named by model, data, seed and a hash."""
    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    scheduler: SchedulerConfig
    augment: AugmentConfig
    train: TrainConfig = field(default_factory=TrainConfig)
    logger: LoggerConfig

    def __post_init__(self) -> None:
        check_range("seed", self.seed, 0, 2**32 - 1)
