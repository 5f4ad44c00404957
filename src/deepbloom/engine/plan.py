"""The plan of a run: everything that decides its result, resolved."""

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from deepbloom.config.schema import flatten
from deepbloom.config.settings import RunConfig
from deepbloom.data.augment import changes_labels
from deepbloom.data.batches import ImageBatches, evaluation_batches
from deepbloom.data.pixel_cache import Pixels
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.data.resolution import CopySchedule
from deepbloom.data.sources import ImageSource
from deepbloom.data.split import Split
from deepbloom.device import device_name
from deepbloom.engine.checkpoint import model_header
from deepbloom.engine.predictor import EVALUATION_BATCH
from deepbloom.models.cutting import cut
from deepbloom.models.freezing import count_parameters
from deepbloom.models.registry import create_model, get_architecture
from deepbloom.models.weights import Weights
from deepbloom.runs.identity import Identity
from deepbloom.runs.provenance import collect_versions

if TYPE_CHECKING:
    from deepbloom.engine.teacher import Teacher

log = logging.getLogger("deepbloom")

NOT_DECIDING = (
    "minutes",
    "num_workers",
    "num_threads",
    "device",
    "precision",
    "resume",
    "checkpoint_seconds",
    "feature_cache",
)
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
    teacher : Teacher or None
        Whose probabilities take the place of labels.
    processes : int
        Those that train together, each with a shard of every batch: BatchNorm and dropout differ with their number.
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
    teacher: "Teacher | None" = None
    processes: int = 1

    @cached_property
    def identity(self) -> Identity:
        """The settings that decide the result; see `Identity`."""
        config = self.config
        train = {key: value for key, value in asdict(config.train).items() if key not in NOT_DECIDING}
        del train["teacher"], train["teacher_temperature"]
        if not config.train.weight_bits:
            del train["weight_bits"]
        if self.teacher:
            train |= {"teacher": ",".join(self.teacher.digests), "teacher_temperature": self.teacher.temperature}
        if self.processes > 1:
            train["processes"] = self.processes
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
    def widths(self) -> dict[str, Any]:
        """Those of a pruned network; empty for a whole one."""
        return self.weights.widths if self.weights else {}

    @property
    def splits_network(self) -> bool:
        """Whether the frozen modules in front of the first trained one run apart from the rest."""
        return splits_network(self.config, self.trainable)

    def image_batches(self, pixels: Pixels, shard: slice) -> ImageBatches:
        """Return the training batches, of which this process takes ``shard``.

        With a teacher, their images have the largest size throughout: the teacher sees these.
        """
        config, schedule = self.config, self.schedule
        if self.teacher:
            schedule = replace(schedule, resolutions=(self.preprocessing.size,))
        return ImageBatches(
            pixels,
            self.split.train,
            self.source.targets,
            self.preprocessing,
            config.augment,
            config.seed,
            config.train.batch_size,
            self.device,
            schedule,
            shard,
            config.train.balance == "sampling",
        )

    @cached_property
    def class_weights(self) -> Tensor | None:
        """What multiplies the loss of each class's images, float32 of shape (C,), on the device; None for 1."""
        if self.config.train.balance != "weights":
            return None
        from deepbloom.data.balance import class_weights

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
            name=self.config.name,
            trainable=list(self.trainable),
            data=asdict(self.config.data),
            dataset_fingerprint=self.source.fingerprint,
            split_fingerprint=self.split.fingerprint(self.source),
            run_id=self.run_id,
            seed=self.config.seed,
            num_threads=torch.get_num_threads(),
            versions=collect_versions(),
            **({"widths": self.widths} if self.widths else {}),
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


@lru_cache(maxsize=32)
def _can_cut(arch: str, trainable: tuple[str, ...]) -> bool:
    size = get_architecture(arch).preprocessing.size
    with torch.random.fork_rng():
        return cut(create_model(arch, 2, trainable), trainable, torch.zeros(1, 3, size, size)) is not None


def can_split(config: RunConfig, trainable: tuple[str, ...]) -> bool:
    return "" not in trainable and _can_cut(config.model.arch, trainable)


def splits_network(config: RunConfig, trainable: tuple[str, ...]) -> bool:
    whole = changes_labels(config.augment) or config.train.teacher or config.train.weight_bits
    return not whole and can_split(config, trainable)
