"""Resolve, then run: everything that decides a run's result is known and written down before training starts."""

import logging
from collections.abc import Iterator, MutableMapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepbloom.config.schema import flatten
from deepbloom.config.settings import DataConfig, RunConfig, SplitConfig
from deepbloom.data.augment import changes_labels, chosen_ops, is_random
from deepbloom.data.balance import class_weights
from deepbloom.data.batches import ImageBatches, evaluation_batches
from deepbloom.data.pixel_cache import Pixels
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.data.resolution import CopySchedule, train_resolutions
from deepbloom.data.sources import ImageSource, load_source
from deepbloom.data.split import Split, make_split
from deepbloom.device import choose_device, device_name
from deepbloom.engine.checkpoint import model_header
from deepbloom.engine.precision import resolve_precision
from deepbloom.engine.predictor import EVALUATION_BATCH
from deepbloom.errors import ConfigError
from deepbloom.models.cutting import cut
from deepbloom.models.freezing import count_parameters, covers
from deepbloom.models.registry import (
    check_resolutions,
    create_model,
    get_architecture,
    read_starting_weights,
    resolved_trainable,
)
from deepbloom.models.timm import timm_name
from deepbloom.models.weights import Weights
from deepbloom.runs.identity import Identity
from deepbloom.runs.provenance import collect_versions

log = logging.getLogger("deepbloom")

Sources = MutableMapping[str, ImageSource]

DEFAULT_COPIES, DEFAULT_COPIES_PER_RESOLUTION = 4, 2
"""Augmented copies of each image whose features are cached: at a single resolution, and where resolution grows."""
NOT_DECIDING = ("num_workers", "num_threads", "device", "precision", "resume", "checkpoint_seconds", "feature_cache")
"""Settings of the loop that do not decide the result, or that an identity holds in resolved form."""


@dataclass(frozen=True)
class Plan:
    """What a run computes.

    Attributes
    ----------
    config : RunConfig
    device : torch.device
    source : ImageSource
    split : Split
    trainable : tuple of str
        Module paths; the empty path is the whole network.
    weights : Weights or None
        The starting weights; None for random ones.
    preprocessing : Preprocessing
    precision : str
        ``fp32``, ``bf16`` or ``fp16``.
    schedule : CopySchedule
        The train resolution and the augmented copy that each epoch shows.
    notes : tuple of str
        Sentences for the log: which settings were adapted.
    """

    config: RunConfig
    device: torch.device
    source: ImageSource
    split: Split
    trainable: tuple[str, ...]
    weights: Weights | None
    preprocessing: Preprocessing
    precision: str
    schedule: CopySchedule
    notes: tuple[str, ...]

    @cached_property
    def identity(self) -> Identity:
        """The settings that decide the result; see `Identity`."""
        config = self.config
        train = {key: value for key, value in asdict(config.train).items() if key not in NOT_DECIDING}
        settings = {
            "model": {
                "arch": config.model.arch,
                "trainable": ",".join(self.trainable) or "all",
                "weights": self.weights.digest if self.weights else "none",
                "preprocessing": asdict(self.preprocessing),
            },
            "dataset_fingerprint": self.source.fingerprint,
            "split_fingerprint": self.split.fingerprint(self.source),
            "optimizer": asdict(config.optimizer),
            "scheduler": asdict(config.scheduler),
            "augment": {
                "ops": config.augment.ops,
                "order": ",".join(config.augment.ops),
                "resolutions": list(self.schedule.resolutions),
            },
            "train": train | {"precision": self.precision, "feature_copies": self.schedule.copies},
            "seed": config.seed,
        }
        return Identity(flatten(settings))

    @property
    def run_id(self) -> str:
        return self.identity.run_id

    @property
    def splits_network(self) -> bool:
        """Whether the frozen modules in front of the first trained one run apart from the rest."""
        return _splits_network(self.config, self.trainable)

    def image_batches(self, pixels: Pixels, shard: slice) -> ImageBatches:
        """Return the training batches, of which this process takes ``shard``."""
        config = self.config
        return ImageBatches(
            pixels,
            self.split.train,
            self.source.targets,
            self.preprocessing,
            config.augment,
            config.seed,
            config.train.batch_size,
            self.device,
            self.schedule,
            shard,
            config.train.balance == "sampling",
        )

    @cached_property
    def class_weights(self) -> Tensor | None:
        """What multiplies the loss of each class's images, float32 of shape (C,), on the device; None for 1."""
        if self.config.train.balance != "weights":
            return None
        targets = self.source.targets[self.split.train]
        return torch.from_numpy(class_weights(targets, len(self.source.class_names))).to(self.device)

    def evaluation_batches(self, pixels: Pixels, indices: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        """Return batches of the images ``indices`` in order, without augmentation."""
        targets = self.source.targets
        return evaluation_batches(pixels, indices, targets, self.preprocessing, EVALUATION_BATCH, self.device)

    def model_header(self) -> dict[str, Any]:
        """Return the header of the run's model file."""
        return model_header(
            self.config.model.arch,
            self.source.class_names,
            self.preprocessing,
            model=self.config.model.label,
            trainable=list(self.trainable),
            data=asdict(self.config.data),
            dataset_fingerprint=self.source.fingerprint,
            split_fingerprint=self.split.fingerprint(self.source),
            run_id=self.run_id,
            seed=self.config.seed,
            num_threads=torch.get_num_threads(),
            versions=collect_versions(),
        )

    def log_data(self) -> None:
        """Log which images were found, what was left out, how they are split, and which settings were adapted."""
        for note in (*self.source.notes, *self.split.notes, *self.notes):
            log.info("%s", note)

    def log(self, model: nn.Module) -> None:
        """Log what is trained on what."""
        parameters = count_parameters(model)
        log.info(
            "%s on %s: %d classes, %d train, %d validation, %d test images; %.2f M parameters, %.2f M trained; %s, %s",
            self.config.model.label,
            self.config.data.name,
            len(self.source.class_names),
            len(self.split.train),
            len(self.split.val),
            len(self.split.test),
            parameters["total"] / 1e6,
            parameters["trainable"] / 1e6,
            device_name(self.device),
            self.precision,
        )
        if self.schedule.resolutions != (self.preprocessing.size,):
            log.info("%s", self.schedule.describe())


def resolve(config: RunConfig, sources: Sources | None = None) -> Plan:
    """Find the images, their split, the starting weights and everything that the settings leave open.

    Parameters
    ----------
    config : RunConfig
    sources : mapping, optional
        Keeps the images that were found, for further calls with the same data.

    Raises
    ------
    DeepBloomError
        A setting cannot be honored, or images or weights are missing.
    """
    chosen_ops(config.augment)  # mistakes in them show before the images are read
    notes = []
    if config.model.name == "timm" and (name := timm_name(config.model.arch)) != config.model.arch:
        notes.append(f"model.arch={config.model.arch} is timm's {name}.")
        config = replace(config, model=replace(config.model, arch=name))
    device = choose_device(config.train.device)
    precision = resolve_precision(config.train.precision, device)
    preprocessing = replace(get_architecture(config.model.arch).preprocessing, fit=config.data.fit)
    trainable = resolved_trainable(config.model.arch, tuple(config.model.trainable))
    _check_probe(config, trainable)
    weights = read_starting_weights(config.model.arch, config.model.weights)
    resolutions = train_resolutions(config.augment, preprocessing.size, config.train.epochs)
    check_resolutions(config.model.arch, resolutions)
    copies = _feature_copies(config, trainable, resolutions)
    if changes_labels(config.augment) and _can_split(config, trainable):
        notes.append("There is no feature cache: mixing the images of a batch changes the input of the frozen modules.")
    source = _find_source(config.data, {} if sources is None else sources)
    split = make_split(source, config.data.split)
    if (size := config.train.batch_size) > len(split.train):
        notes.append(f"train.batch_size={size} is reduced to {len(split.train)}, the number of training images.")
        config = replace(config, train=replace(config.train, batch_size=len(split.train)))
    return Plan(
        config=config,
        device=device,
        source=source,
        split=split,
        trainable=trainable,
        weights=weights,
        preprocessing=preprocessing,
        precision=precision,
        schedule=CopySchedule(config.train.epochs, resolutions, copies),
        notes=tuple(notes),
    )


def check_batch_size(plan: Plan, processes: int) -> None:
    """Raise `ConfigError` if a step of the run leaves one of the processes less than the two images BatchNorm needs."""
    size, count = plan.config.train.batch_size, len(plan.split.train)
    smallest = count // -(-count // size)
    if smallest < 2 * processes:
        each = f" in each of {processes} processes" if processes > 1 else ""
        raise ConfigError(
            f"train.batch_size={size} makes steps of {smallest} of the {count} training images, and BatchNorm needs at "
            f"least two{each}. Choose a larger one."
        )


def _check_probe(config: RunConfig, trainable: tuple[str, ...]) -> None:
    frozen = [path for path in get_architecture(config.model.arch).head if not covers(trainable, path)]
    if config.train.probe and frozen:
        raise ConfigError(
            f"train.probe=true fits the classifier, but model.trainable leaves it frozen: add {', '.join(frozen)}."
        )


def _find_source(config: DataConfig, sources: Sources) -> ImageSource:
    key = repr(replace(config, split=SplitConfig(), fit=DataConfig.fit))
    if key not in sources:
        sources[key] = load_source(config)
    return sources[key]


@lru_cache(maxsize=32)
def _can_cut(arch: str, trainable: tuple[str, ...]) -> bool:
    size = get_architecture(arch).preprocessing.size
    with torch.random.fork_rng():
        return cut(create_model(arch, 2, trainable), trainable, torch.zeros(1, 3, size, size)) is not None


def _can_split(config: RunConfig, trainable: tuple[str, ...]) -> bool:
    return "" not in trainable and _can_cut(config.model.arch, trainable)


def _splits_network(config: RunConfig, trainable: tuple[str, ...]) -> bool:
    return not changes_labels(config.augment) and _can_split(config, trainable)


def _feature_copies(config: RunConfig, trainable: tuple[str, ...], resolutions: tuple[int, ...]) -> int:
    """Return the augmented copies of each image that are shown in turn; 0 for new ones in each epoch."""
    wanted = config.train.feature_copies
    if not is_random(config.augment):
        if wanted > 1:
            raise ConfigError(f"train.feature_copies={wanted} makes equal copies, since no augmentation is random.")
        return 1
    if wanted:
        shown = max(CopySchedule(config.train.epochs, resolutions).epochs_per_stage)
        if wanted > shown:
            at = " at one resolution" if len(resolutions) > 1 else ""
            raise ConfigError(f"train.feature_copies={wanted} is more than the {shown} epochs{at} that show them.")
        return wanted
    if config.train.feature_cache == "off" or not _splits_network(config, trainable):
        return 0
    return DEFAULT_COPIES if len(resolutions) == 1 else DEFAULT_COPIES_PER_RESOLUTION
