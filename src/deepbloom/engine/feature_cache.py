"""The frozen part before the first trained module, computed once.

Its output for an image changes only with the image's augmentation. So a number of augmented views of every image
is chosen, the prefix is run once over each view, and training reads its activations instead of images.
"""

import logging
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from deepbloom.config.settings import RunConfig
from deepbloom.data.augment import changes_labels, is_random
from deepbloom.data.batches import ImageBatches, evaluation_batches
from deepbloom.data.resolution import AugmentedCopy
from deepbloom.engine.distributed import Group
from deepbloom.engine.precision import DTYPES, autocast, choose_inference_precision

log = logging.getLogger("deepbloom")

DEFAULT_VIEWS, DEFAULT_VIEWS_OF_EACH_SIDE = 4, 2
"""Of each image: where it is shown at one size, and where it grows."""
MEASURED_IMAGES = 16
"""A batch to choose the precision with."""
BUDGET_BYTES = 16 * 2**30
"""Largest size of a run's activations on disk; a quarter of the free space where that is less."""


@dataclass(frozen=True)
class Plan:
    """What will be computed and stored."""

    views: int
    """Augmented views of each training image at each of its sides; 0: no cache."""
    precision: str
    """Precision of the prefix and of what is stored."""


def choose_views(wanted: int, epochs: int, augmented: bool, bytes_per_view: int, fixed_bytes: int, free: int) -> int:
    """Return how many views of each side fit the budget, or 0 where not even one does.

    Parameters
    ----------
    wanted : int
    epochs : int
        That show the same side: more views are never seen.
    augmented : bool
        Without augmentation all views are equal: one is enough.
    bytes_per_view, fixed_bytes, free : int
        Size of one view of the training part at every side, of the validation part, and free bytes on the disk.
    """
    useful = min(wanted, epochs) if augmented else 1
    room = min(BUDGET_BYTES, free // 4) - fixed_bytes
    return max(0, min(useful, room // max(1, bytes_per_view)))


class Activations:
    """Outputs of the prefix, one per image, memory-mapped; a temporary file goes when the object or process does.

    Parameters
    ----------
    file : file open for reading and writing
    count : int
    shape : tuple of int
        Of one output, without the batch: (C, H, W) or (F,).
    dtype : torch.dtype
        float32, bfloat16 or float16.
    """

    def __init__(self, file: IO[bytes], count: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self._file = file  # stays open as long as this object lives
        self._channels_last = len(shape) == 3
        stored = (shape[1], shape[2], shape[0]) if self._channels_last else shape
        width = torch.empty((), dtype=dtype).element_size()
        self.size_bytes = count * int(np.prod(stored)) * width
        os.posix_fallocate(self._file.fileno(), 0, self.size_bytes)
        self._array = np.memmap(self._file, np.int16 if width == 2 else np.int32, "r+", shape=(count, *stored))
        self._dtype = dtype

    def write(self, start: int, outputs: Tensor) -> None:
        """Store outputs (B, ...) of the images ``start``, ``start + 1``, ..."""
        stored = outputs.permute(0, 2, 3, 1) if self._channels_last else outputs
        bits = (
            stored.to("cpu", self._dtype).contiguous().view(torch.int16 if self._dtype.itemsize == 2 else torch.int32)
        )
        self._array[start : start + len(bits)] = bits.numpy()

    def read(self, positions: np.ndarray) -> Tensor:
        """Return the outputs (B, ...) at ``positions``, in the stored dtype, channels last."""
        stored = torch.from_numpy(self._array[positions]).view(self._dtype)
        return stored.permute(0, 3, 1, 2) if self._channels_last else stored


class ActivationBatches:
    """Shuffled batches of the prefix's outputs: the same order, views and targets as the `ImageBatches` behind.

    Parameters
    ----------
    images : ImageBatches
    train : dict of AugmentedCopy to Activations
        Those of every view that the run shows.
    """

    def __init__(self, images: ImageBatches, train: dict[AugmentedCopy, Activations]) -> None:
        self.images, self.train = images, train

    @property
    def steps_per_epoch(self) -> int:
        return self.images.steps_per_epoch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (activations as stored, targets) of the steps ``start``, ``start + 1``, ... of ``epoch`` (from 1)."""
        images = self.images
        stored = self.train[images.schedule.copy(epoch)]
        for positions in images.positions(epoch, start):
            targets = images.targets[images.indices[positions]]
            yield (
                stored.read(positions).to(images.device, non_blocking=True),
                targets.to(images.device, non_blocking=True),
            )


@torch.inference_mode()
def plan(prefix: nn.Module, images: ImageBatches, val_count: int, config: RunConfig, folder: Path) -> Plan:
    """Choose precision and number of views for this network, these images and this disk; zero views is no cache.

    Parameters
    ----------
    prefix : nn.Module
        The frozen stages; an empty one cannot be cached.
    images : ImageBatches
    val_count : int
        Images of the validation part.
    config : RunConfig
    folder : Path
        Where the activations will lie.
    """
    if (
        config.train.feature_cache == "off"
        or changes_labels(config.augment)
        or not any(True for _ in prefix.parameters())
    ):
        return Plan(0, "fp32")
    schedule = images.schedule
    inputs = images.inputs(images.indices[: min(images.batch_size, MEASURED_IMAGES)], schedule.copy(schedule.epochs))
    precision = config.train.precision
    if precision == "auto":
        precision, _ = choose_inference_precision(prefix, inputs, images.device)
    shapes, width = _shapes(prefix, images), DTYPES[precision].itemsize
    bytes_of_view = {side: math.prod(shapes[side]) * width * len(images.indices) for side in schedule.resolutions}
    bytes_of_val = math.prod(shapes[images.preprocessing.size]) * width * val_count
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    default = DEFAULT_VIEWS if len(schedule.resolutions) == 1 else DEFAULT_VIEWS_OF_EACH_SIDE
    count = choose_views(
        config.train.feature_copies or default,
        max(schedule.epochs_per_stage),
        is_random(config.augment),
        sum(bytes_of_view.values()),
        bytes_of_val,
        shutil.disk_usage(existing).free,
    )
    if count:
        stored = sum(bytes_of_view[view.resolution] for view in replace(schedule, copies=count).shown())
        log.info(
            "the frozen part is computed once, in %s, for %d view%s of each training image at %s pixels: "
            "%.2f GB on disk",
            precision,
            count,
            "s" if count > 1 else "",
            ", ".join(map(str, schedule.resolutions)),
            (stored + bytes_of_val) / 1e9,
        )
    else:
        log.info("the frozen part is computed in every step: its activations do not fit the disk budget")
    return Plan(count, precision)


@torch.inference_mode()
def compute(
    prefix: nn.Module, images: ImageBatches, val_indices: np.ndarray, plan: Plan, folder: Path, group: Group
) -> tuple[ActivationBatches, Activations]:
    """Run the prefix over every view of the training part, and over the validation part without augmentation.

    From now on ``images`` shows these views in turn.

    The processes of a machine divide the work and share what they store.

    Returns
    -------
    train : ActivationBatches
    val : Activations
        In the order of ``val_indices``.
    """
    schedule = images.schedule = replace(images.schedule, copies=plan.views)
    shapes, count, dtype = _shapes(prefix, images), len(images.indices), DTYPES[plan.precision]
    train = {
        view: Activations(group.shared_file(folder), count, shapes[view.resolution], dtype) for view in schedule.shown()
    }
    val = Activations(group.shared_file(folder), len(val_indices), shapes[images.preprocessing.size], dtype)
    total = len(train) * count // group.local_size + len(val_indices)
    bar = tqdm(total=total, desc="frozen part", unit="image", disable=None, leave=False)
    with bar, autocast(images.device, plan.precision):
        for view, stored in train.items():
            for start in range(0, count, images.batch_size)[group.local_rank :: group.local_size]:
                inputs = images.inputs(images.indices[start : start + images.batch_size], view)
                stored.write(start, prefix(inputs))
                bar.update(len(inputs))
        start = 0
        targets = images.targets.numpy()
        for inputs, _ in evaluation_batches(
            images.pixels, val_indices, targets, images.preprocessing, images.batch_size
        ):
            val.write(start, prefix(inputs.to(images.device)))
            start += len(inputs)
            bar.update(len(inputs))
    group.wait()
    return ActivationBatches(images, train), val


def _shapes(prefix: nn.Module, images: ImageBatches) -> dict[int, tuple[int, ...]]:
    """Return the shape of the prefix's output for an image of each side in training, and of the full one."""
    sides = (*images.schedule.resolutions, images.preprocessing.size)
    return {side: tuple(prefix(images.inputs(images.indices[:1], AugmentedCopy(0, side))).shape[1:]) for side in sides}


def validation_batches(val: Activations, targets: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (activations, targets) of the validation part in order; ``targets`` are int64 of shape (N,)."""
    for positions in np.array_split(np.arange(len(targets)), -(-len(targets) // batch_size)):
        yield val.read(positions), targets[positions]
