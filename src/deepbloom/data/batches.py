"""From pixels to batches. The order of images is a function of (seed, epoch), so there is no state to save."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from deepbloom.config.settings import AugmentConfig
from deepbloom.data.augment import training_inputs
from deepbloom.data.pixel_cache import Pixels
from deepbloom.data.preprocessing import Preprocessing, normalize
from deepbloom.data.resolution import AugmentedCopy, CopySchedule
from deepbloom.rng import generator

Batch = TypeVar("Batch")


def epoch_order(
    count: int, batch_size: int, seed: int, epoch: int, targets: np.ndarray | None = None
) -> list[np.ndarray]:
    """Return the positions 0 .. count-1 of every step of an epoch, shuffled, each exactly once.

    With ``targets``, the class of each position, every class is there equally often instead (`balanced_order`).
    The ceil(count / batch_size) batches differ in size by at most one, so no step rests on a few leftover images.
    """
    stream = generator(seed, "order", epoch)
    if targets is None:
        order = torch.randperm(count, generator=stream).numpy()
    else:
        from deepbloom.data.balance import balanced_order

        order = balanced_order(targets, stream)
    return np.array_split(order, -(-count // batch_size))


def prefetch(batches: Iterable[Batch], depth: int = 2) -> Generator[Batch, None, None]:
    """Yield from ``batches``, which a thread prepares ``depth`` ahead; its exceptions are raised here."""
    iterator, end = iter(batches), object()
    executor = ThreadPoolExecutor(1, "deepbloom-prefetch")
    try:
        waiting = deque(executor.submit(next, iterator, end) for _ in range(depth))
        while (batch := waiting.popleft().result()) is not end:
            waiting.append(executor.submit(next, iterator, end))
            yield batch  # type: ignore[misc]  # everything but the end is a batch
    finally:
        executor.shutdown(cancel_futures=True)


def prefetch_on_gpu(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Prefetch while a GPU works; beside work on the CPU a thread only slows it down."""
    return prefetch(batches) if device.type == "cuda" else iter(batches)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to the device, through pinned memory and without waiting if that is a GPU."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class ImageBatches:
    """Shuffled, augmented batches of the training images: ``indices`` (int64) into ``pixels`` and ``targets``.

    Pixels are copied to ``device`` as uint8 and augmented there, as ``schedule`` says for each epoch. ``share`` is this
    process's shard of each step's batch. ``balanced`` shows every class equally often.
    """

    def __init__(
        self,
        pixels: Pixels,
        indices: np.ndarray,
        targets: np.ndarray,
        preprocessing: Preprocessing,
        augment_config: AugmentConfig,
        seed: int,
        batch_size: int,
        device: torch.device,
        schedule: CopySchedule,
        share: slice = slice(None),
        balanced: bool = False,
    ) -> None:
        self.pixels, self.indices, self.targets = pixels, indices, torch.from_numpy(targets)
        self.preprocessing, self.augment_config = preprocessing, augment_config
        self.seed, self.batch_size, self.device, self.schedule, self.share = seed, batch_size, device, schedule, share
        self._classes = targets[indices] if balanced else None
        # Augmentation depends on an image's place among the training images: images of other splits cannot change it.
        self._places = np.zeros(len(targets), np.int64)
        self._places[indices] = np.arange(len(indices))

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def inputs(self, indices: np.ndarray, copy: AugmentedCopy) -> Tensor:
        """Return augmented, normalized inputs, float32 of shape (B, 3, T, T) at resolution T, on the device."""
        pixels = to_device(torch.from_numpy(self.pixels.read(indices)), self.device)  # (B, S, S, 3)
        places = torch.from_numpy(self._places[indices])
        return training_inputs(pixels, places, copy, self.seed, self.augment_config, self.preprocessing)

    def positions(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """Yield this process's shard of the steps ``start``, ``start + 1``, ..., as positions in ``indices``."""
        order = epoch_order(len(self.indices), self.batch_size, self.seed, epoch, self._classes)
        for positions in order[start:]:
            yield positions[self.share]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (inputs, targets) of the steps ``start``, ``start + 1``, ... of ``epoch`` (from 1)."""
        for positions in self.positions(epoch, start):
            indices = self.indices[positions]
            targets = to_device(self.targets[indices], self.device)
            yield self.inputs(indices, self.schedule.copy(epoch)), targets


def evaluation_batches(
    pixels: Pixels,
    indices: np.ndarray,
    targets: np.ndarray,
    preprocessing: Preprocessing,
    batch_size: int,
    device: torch.device | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (inputs, targets) of ``indices`` in order, without augmentation, on ``device`` (the CPU if None).

    For a GPU, batches are prefetched and copied as in training.
    """
    place = device or torch.device("cpu")

    def produce() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            images = to_device(torch.from_numpy(pixels.read(chosen)), place)
            yield normalize(images, preprocessing), to_device(torch.from_numpy(targets[chosen]), place)

    return prefetch_on_gpu(produce(), place)
