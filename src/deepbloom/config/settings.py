"""The settings of a training run, typed and checked. Each field's docstring stands below it.

A default stands once: here, or, for a field without one, in ``conf/``. `deepbloom.recipe` composes both.
"""

import math
import os
import re
from dataclasses import dataclass, field
from typing import Any

from deepbloom.config.schema import setting
from deepbloom.errors import ConfigError, unknown

VERIFY = ("changed", "full")
FITS = ("squash", "crop", "pad")
SPLIT_KINDS = ("auto", "stratified", "official")
OPTIMIZERS = ("adam", "adamw", "sgd")
LOGGERS = ("none", "tensorboard", "mlflow")
SCHEDULERS = ("step", "one_cycle", "cosine", "constant")
DEVICES = ("auto", "cpu", "cuda", "mps")
BALANCES = ("none", "weights", "sampling")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise `ConfigError` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ConfigError(unknown(name, value, choices))


def check_range(name: str, value: float, low: float, high: float = float("inf"), *, open_low: bool = False) -> None:
    """Raise `ConfigError` unless ``low <= value <= high`` (``low < value`` where ``open_low``)."""
    if not math.isfinite(value) or not (low < value if open_low else low <= value) or not value <= high:
        sign = "greater than" if open_low else "at least"
        upper = "" if high == float("inf") else f" and at most {high:g}"
        raise ConfigError(f"{name}={value!r} is out of range: give a number {sign} {low:g}{upper}.")


@dataclass
class SplitConfig:
    """How images are divided into train, validation and test."""

    kind: str = "auto"
    """``stratified``: all images merged and split by class. ``official``: the predefined split of the data.
    ``auto``: the predefined split of an image folder that has train and test; otherwise stratified."""
    test_fraction: float = setting(
        0.2,
        only=(
            "data.split.folds=0 data.split.kind=stratified",
            lambda split: not split.folds and split.kind != "official",
        ),
    )
    """Share of each class in the test split, in (0, 1)."""
    val_fraction: float = 0.1
    """Share of the remaining images in the validation split, which chooses the best epoch, in (0, 1)."""
    seed: int = 42
    """Seed of the split; independent of the training seed."""
    folds: int = 0
    """Number of cross-validation folds, at least 2, instead of ``test_fraction``; 0 makes a single split.
    ``data.split.folds=5 data.split.fold=0,1,2,3,4`` with -m tests every image exactly once."""
    fold: int = setting(0, only=("data.split.folds=K", lambda split: split.folds > 0))
    """The fold that is the test split, from 0."""

    def __post_init__(self) -> None:
        check_choice("data.split.kind", self.kind, SPLIT_KINDS)
        for name in ("test_fraction", "val_fraction"):
            check_range(f"data.split.{name}", getattr(self, name), 0, 0.9, open_low=True)
        if self.folds < 0 or self.folds == 1:
            raise ConfigError(f"data.split.folds={self.folds} is out of range: give at least 2, or 0 for one split.")
        if self.folds and self.kind == "official":
            raise ConfigError("data.split.folds replaces the predefined split: add data.split.kind=stratified.")
        check_range("data.split.fold", self.fold, 0, max(0, self.folds - 1))


SYNTHETIC = ("data=synthetic", lambda data: data.name == "synthetic")
FILES = ("data=imagefolder or data=flowers102", lambda data: data.name != "synthetic")


@dataclass
class DataConfig:
    """The source of the images, and their split."""

    name: str
    """``flowers102``, ``imagefolder`` or ``synthetic``."""
    root: str | None = setting(None, path=True, only=FILES)
    """Folder of the images. None: a per-user cache folder (flowers102); required for imagefolder."""
    allow_missing: bool = setting(False, only=FILES)
    """Leave out missing or unreadable images and empty class folders, and name them, instead of stopping."""
    verify: str = setting("changed", only=FILES)
    """``changed``: at each start, read only the files that are new or whose size, times or inode have changed.
    ``full``: read all."""
    labels: str | None = setting(None, path=True, only=FILES)
    """A CSV with ``image_id`` and ``suggested``, the right class of these images: label_suspects.csv without the
    rows that you do not agree with. None: the labels as they are."""
    exclude: str | None = setting(None, path=True, only=FILES)
    """A CSV with ``image_id``: images to leave out. None: none."""
    num_classes: int = setting(10, only=SYNTHETIC)
    """Number of species, 2 to 102 (synthetic)."""
    images_per_class: int = setting(100, only=SYNTHETIC)
    """Images of the largest class, 3 to 100,000 (synthetic). No class has fewer than 3."""
    imbalance: float = setting(1.0, only=SYNTHETIC)
    """Size of the largest class over that of the smallest, at least 1 (synthetic). Flowers102 has 6.5."""
    shortcut_rate: float = setting(0.0, only=SYNTHETIC)
    """Share of images whose background has a mark that reveals the class, in [0, 1] (synthetic)."""
    seed: int = setting(0, only=SYNTHETIC)
    """Seed of the images; the species are always the same (synthetic)."""
    fit: str = "squash"
    """What makes an image square. ``squash`` stretches it, ``crop`` cuts off what is outside of the largest centered
    square, ``pad`` fills the missing part with the mean color. It belongs to the network and is kept in its file."""
    pixel_cache: str = setting("auto", path=True)
    """``auto``: decode once into the per-user cache folder; ``off``: decode in every epoch; or the cache folder."""
    split: SplitConfig = field(default_factory=SplitConfig)

    @property
    def title(self) -> str:
        """What people call the images: the name of their own folder, or that of the data."""
        folder = os.path.basename(os.path.abspath(os.path.expanduser(self.root))) if self.root else ""
        return folder or self.name if self.name == "imagefolder" else self.name

    def __post_init__(self) -> None:
        check_choice("data.verify", self.verify, VERIFY)
        check_choice("data.fit", self.fit, FITS)
        check_range("data.num_classes", self.num_classes, 2, 102)
        check_range("data.images_per_class", self.images_per_class, 3, 100_000)
        check_range("data.imbalance", self.imbalance, 1)
        check_range("data.shortcut_rate", self.shortcut_rate, 0, 1)
        check_range("data.seed", self.seed, 0, 2**32 - 1)


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
        if self.teacher and self.minutes:
            raise ConfigError("train.minutes does not count the time of train.teacher: give train.epochs instead.")
        check_range("train.ema_decay", self.ema_decay, 0, 0.99999)
        check_choice("train.device", self.device, DEVICES)
        check_choice("train.precision", self.precision, PRECISIONS)
        check_range("train.num_workers", self.num_workers, -1)
        check_range("train.num_threads", self.num_threads, 0)
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
