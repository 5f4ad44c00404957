"""From pixels to batches. The order of images is a function of (seed, epoch), so there is no state to save."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from deepbloom.config.settings import AugmentConfig
from deepbloom.data.pixel_cache import Pixels
from deepbloom.data.preprocessing import Preprocessing, normalize, training_inputs
from deepbloom.data.resolution import View, ViewSchedule
from deepbloom.rng import generator

Batch = TypeVar("Batch")


def epoch_order(count: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Return the positions 0 .. count-1 of every step of an epoch, shuffled, each exactly once.

    The ceil(count / batch_size) batches differ in size by one at most, so that no step rests on a left-over of a few
    images.
    """
    order = torch.randperm(count, generator=generator(seed, "order", epoch)).numpy()
    return np.array_split(order, -(-count // batch_size))


def prefetch(batches: Iterable[Batch], depth: int = 2) -> Iterator[Batch]:
    """Yield from ``batches``, which a thread prepares ``depth`` ahead; its exceptions are raised here."""
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(item: object) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for batch in batches:
                put((batch, None))
                if stop.is_set():
                    return
            put((None, StopIteration()))
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=produce, name="deepbloom-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            batch, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield batch
    finally:
        stop.set()
        thread.join()


class ImageBatches:
    """Shuffled, augmented batches for training.

    Parameters
    ----------
    pixels : Pixels
    indices : ndarray of int64, shape (N,)
        The images of this part, as indices into ``pixels`` and ``targets``.
    targets : ndarray of int64
        Classes of all images of the source.
    preprocessing : Preprocessing
    augment_config : AugmentConfig
    seed : int
    batch_size : int
    device : torch.device
        Pixels travel as uint8 and are augmented there.
    views : ViewSchedule
        What each epoch shows.
    share : slice
        The part of each step's batch that this process takes.
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
        views: ViewSchedule,
        share: slice = slice(None),
    ) -> None:
        self.pixels, self.indices, self.targets = pixels, indices, torch.from_numpy(targets)
        self.preprocessing, self.augment_config = preprocessing, augment_config
        self.seed, self.batch_size, self.device, self.views, self.share = seed, batch_size, device, views, share
        # Augmentation follows from an image's place in this part: no image of another part can change it.
        self._places = np.zeros(len(targets), np.int64)
        self._places[indices] = np.arange(len(indices))

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def inputs(self, indices: np.ndarray, view: View) -> Tensor:
        """Return augmented, normalized inputs, float32 of shape (B, 3, T, T) for a view of side T, on the device."""
        uint8 = torch.from_numpy(self.pixels.read(indices))  # (B, S, S, 3)
        if self.device.type == "cuda":
            uint8 = uint8.pin_memory().to(self.device, non_blocking=True)
        places = torch.from_numpy(self._places[indices])
        return training_inputs(uint8, places, view, self.seed, self.augment_config, self.preprocessing)

    def positions(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """Yield what this process takes of the steps ``start``, ``start + 1``, ..., as positions in ``indices``."""
        for positions in epoch_order(len(self.indices), self.batch_size, self.seed, epoch)[start:]:
            yield positions[self.share]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (inputs, targets) of the steps ``start``, ``start + 1``, ... of ``epoch`` (from 1)."""
        for positions in self.positions(epoch, start):
            indices = self.indices[positions]
            targets = self.targets[indices].to(self.device, non_blocking=True)
            yield self.inputs(indices, self.views.view(epoch)), targets


def evaluation_batches(
    pixels: Pixels, indices: np.ndarray, targets: np.ndarray, preprocessing: Preprocessing, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (inputs, targets) of ``indices`` in order, without augmentation."""
    for start in range(0, len(indices), batch_size):
        chosen = indices[start : start + batch_size]
        yield normalize(torch.from_numpy(pixels.read(chosen)), preprocessing), torch.from_numpy(targets[chosen])
