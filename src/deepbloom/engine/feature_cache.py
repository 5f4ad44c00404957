"""The feature cache: outputs of the frozen modules in front of the first trained one, computed once.

For an image they change only with its augmentation. So a fixed number of augmented copies of every image is shown in
turn, the frozen prefix runs once over each copy, and training reads its features. Which copies are shown is settled
before the run (`deepbloom.engine.resolve`). Room on the disk decides only whether features are stored or computed again
in every step.
"""

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor, nn

from deepbloom.data.batches import ImageBatches, to_device
from deepbloom.data.cache_folder import scratch_folder
from deepbloom.data.resolution import AugmentedCopy
from deepbloom.engine.distributed import Group
from deepbloom.engine.precision import DTYPES, autocast
from deepbloom.progress import ProgressBar

log = logging.getLogger("deepbloom")

BUDGET_BYTES = 16 * 2**30
"""Largest size of a run's features on disk; a quarter of the free space where that is less."""

Batches = Iterable[tuple[Tensor, Tensor]]


class FeatureArray:
    """Features of a set of images, memory-mapped in a temporary file that goes when the object or process does.

    Parameters
    ----------
    file : file open for reading and writing
    count : int
        Number of images.
    shape : tuple of int
        Of the features of one image: (C, H, W), or any other.
    dtype : torch.dtype
        float32, bfloat16 or float16.
    """

    def __init__(self, file: IO[bytes], count: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self._file = file  # stays open as long as this object lives
        self._channels_last = len(shape) == 3
        stored = (shape[1], shape[2], shape[0]) if self._channels_last else shape
        file.truncate(count * math.prod(shape) * dtype.itemsize)
        self._array = np.memmap(file, np.int16 if dtype.itemsize == 2 else np.int32, "r+", shape=(count, *stored))
        self._dtype = dtype

    def write(self, start: int, features: Tensor) -> None:
        """Store features (B, ...) of the images ``start``, ``start + 1``, ..."""
        stored = (features.permute(0, 2, 3, 1) if self._channels_last else features).to("cpu", self._dtype).contiguous()
        bits = stored.view(torch.int16 if self._dtype.itemsize == 2 else torch.int32)
        self._array[start : start + len(bits)] = bits.numpy()

    def read(self, positions: np.ndarray) -> Tensor:
        """Return the features (B, ...) at ``positions``, in the stored dtype, channels last."""
        stored = torch.from_numpy(self._array[positions]).view(self._dtype)
        return stored.permute(0, 3, 1, 2) if self._channels_last else stored


class FeatureBatches:
    """Shuffled batches of features: the order, copies and targets of the `ImageBatches` behind them.

    Parameters
    ----------
    images : ImageBatches
    compute : function
        From images (B, 3, H, W) to features (B, ...).
    stored : dict of AugmentedCopy to FeatureArray, optional
        The features of every copy that the run shows; without it they are computed in every step.
    """

    def __init__(
        self,
        images: ImageBatches,
        compute: Callable[[Tensor], Tensor],
        stored: dict[AugmentedCopy, FeatureArray] | None,
    ) -> None:
        self.images, self.compute, self.stored = images, compute, stored

    @property
    def steps_per_epoch(self) -> int:
        return self.images.steps_per_epoch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (features, targets) of the steps ``start``, ``start + 1``, ... of ``epoch`` (from 1)."""
        images = self.images
        if self.stored is None:
            yield from ((self.compute(inputs), targets) for inputs, targets in images.epoch(epoch, start))
            return
        stored = self.stored[images.schedule.copy(epoch)]
        for positions in images.positions(epoch, start):
            targets = images.targets[images.indices[positions]]
            yield to_device(stored.read(positions), images.device), to_device(targets, images.device)


@dataclass(frozen=True)
class Features:
    """What training and validation read instead of images.

    Attributes
    ----------
    train : FeatureBatches
    validation : function
        Starts a pass over (features, targets) of the validation images.
    seconds : float
        Time to fill the cache; 0 where nothing is stored.
    """

    train: FeatureBatches
    validation: Callable[[], Batches]
    seconds: float


def make_features(
    prefix: nn.Module,
    images: ImageBatches,
    validation: Callable[[], Batches],
    val_count: int,
    precision: str,
    group: Group,
    store: bool = True,
) -> Features:
    """Run the frozen prefix over every augmented copy of the training images, and over the validation images.

    The processes of a machine divide the work and share what they store.

    Parameters
    ----------
    prefix : nn.Module
        Left in the mode in which it is; nothing in it trains.
    images : ImageBatches
        Its schedule shows a fixed number of copies.
    validation : function
        Starts a pass over (inputs, targets) of the validation images.
    val_count : int
        Number of validation images.
    precision : str
        Of the prefix and of what is stored.
    group : Group
    store : bool
        Whether features may be kept; otherwise they are computed in every step.
    """
    dtype = DTYPES[precision]
    size = -(-images.batch_size // group.size)  # of every pass, so that an image's features have the same bits in each

    @torch.no_grad()
    def compute(inputs: Tensor) -> Tensor:
        padding = -len(inputs) % size
        padded = torch.cat([inputs, inputs.new_zeros(padding, *inputs.shape[1:])]) if padding else inputs
        padded = padded.contiguous(memory_format=torch.channels_last)
        with autocast(inputs.device, precision):
            features = torch.cat([prefix(part) for part in padded.split(size)])
        return features[: len(inputs)].to(dtype)

    def computed_validation() -> Batches:
        return ((compute(inputs.to(images.device)), targets) for inputs, targets in validation())

    shapes = _feature_shapes(compute, images)
    wanted = store and images.schedule.copies > 0
    folder = group.broadcast(lambda: _find_room(shapes, images, val_count, dtype)) if wanted else None
    if folder is None:
        return Features(FeatureBatches(images, compute, None), computed_validation, 0.0)
    started = time.perf_counter()
    count = len(images.indices)
    train = {
        copy: FeatureArray(group.shared_file(folder), count, shapes[copy.resolution], dtype)
        for copy in images.schedule.shown()
    }
    val = FeatureArray(group.shared_file(folder), val_count, shapes[images.preprocessing.size], dtype)
    total = len(train) * count // group.local_size + val_count
    with ProgressBar(total=total, desc="features", unit="image") as bar:
        for copy, array in train.items():
            for start in range(0, count, images.batch_size)[group.local_rank :: group.local_size]:
                features = compute(images.inputs(images.indices[start : start + images.batch_size], copy))
                array.write(start, features)
                bar.update(len(features))
        val_targets: list[Tensor] = []
        for features, targets in computed_validation():
            val.write(sum(map(len, val_targets)), features)
            val_targets.append(targets)
            bar.update(len(features))
    group.barrier()

    def stored_validation() -> Batches:
        start = 0
        for targets in val_targets:
            yield to_device(val.read(np.arange(start, start + len(targets))), images.device), targets
            start += len(targets)

    return Features(FeatureBatches(images, compute, train), stored_validation, time.perf_counter() - started)


def _feature_shapes(compute: Callable[[Tensor], Tensor], images: ImageBatches) -> dict[int, tuple[int, ...]]:
    """Return the shape of an image's features at each train resolution and at the full one."""
    resolutions = {*images.schedule.resolutions, images.preprocessing.size}
    return {
        pixels: tuple(compute(images.inputs(images.indices[:1], AugmentedCopy(0, pixels))).shape[1:])
        for pixels in sorted(resolutions)
    }


def _find_room(
    shapes: dict[int, tuple[int, ...]], images: ImageBatches, val_count: int, dtype: torch.dtype
) -> Path | None:
    """Return a folder with room for the features, or None, and say so; they may take a quarter of the free space."""
    numbers = sum(math.prod(shapes[copy.resolution]) for copy in images.schedule.shown()) * len(images.indices)
    size = (numbers + math.prod(shapes[images.preprocessing.size]) * val_count) * dtype.itemsize
    copies = images.schedule.copies
    what = f"features of {copies} augmented cop{'ies' if copies > 1 else 'y'} of each training image"
    folder = scratch_folder()
    room = min(BUDGET_BYTES, shutil.disk_usage(folder).free // 4) if folder else 0
    if size > room:
        log.info(
            "%s would take %.2f GB, more than the %.2f GB allowed in %s: they are computed in every step.",
            what,
            size / 1e9,
            room / 1e9,
            folder or "no folder",
        )
        return None
    log.info("%s are computed once: %.2f GB in %s", what, size / 1e9, folder)
    return folder
