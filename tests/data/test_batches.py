"""Order and batches: every image once an epoch, from the seed alone."""

import numpy as np
import pytest
import torch

from deepbloom.config.settings import AugmentConfig
from deepbloom.data.batches import ImageBatches, epoch_order, evaluation_batches, prefetch
from deepbloom.data.pixel_cache import Pixels
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.data.resolution import AugmentedCopy, CopySchedule


class Shades(Pixels):
    """Image i is uniformly of shade i."""

    def read(self, indices: np.ndarray) -> np.ndarray:
        return np.broadcast_to(indices.astype(np.uint8)[:, None, None, None], (len(indices), 4, 4, 3)).copy()


PLAIN = Preprocessing(size=4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
TARGETS = np.arange(50) % 7


def batches(augment: AugmentConfig | None = None, sides: tuple[int, ...] = (4,)) -> ImageBatches:
    augment = augment or AugmentConfig({})
    indices, schedule = np.arange(10, 43), CopySchedule(3, sides)
    return ImageBatches(Shades(), indices, TARGETS, PLAIN, augment, 0, 8, torch.device("cpu"), schedule)


@pytest.mark.parametrize(("count", "batch_size"), [(33, 8), (32, 8), (5, 5), (7, 3)])
def test_an_epoch_shows_every_image_once_in_batches_of_almost_one_size(count: int, batch_size: int) -> None:
    order = epoch_order(count, batch_size, seed=3, epoch=2)
    assert sorted(np.concatenate(order).tolist()) == list(range(count))
    sizes = [len(positions) for positions in order]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_the_order_follows_from_seed_and_epoch() -> None:
    first = np.concatenate(epoch_order(100, 10, seed=0, epoch=1))
    assert np.array_equal(first, np.concatenate(epoch_order(100, 10, seed=0, epoch=1)))
    assert not np.array_equal(first, np.concatenate(epoch_order(100, 10, seed=0, epoch=2)))
    assert not np.array_equal(first, np.concatenate(epoch_order(100, 10, seed=1, epoch=1)))


def test_inputs_and_targets_belong_together() -> None:
    for inputs, targets in batches().epoch(1):
        shades = (inputs[:, 0, 0, 0] * 255).round().long()
        assert torch.equal(targets, torch.from_numpy(TARGETS)[shades])


def test_starting_late_gives_the_rest_of_the_same_epoch() -> None:
    whole = list(batches().epoch(3))
    rest = list(batches().epoch(3, start=2))
    assert len(rest) == len(whole) - 2
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[2:], rest, strict=True))


def test_an_epoch_shows_its_view() -> None:
    images = batches(AugmentConfig({"rotate": {"degrees": 45}}), sides=(2, 3, 4))
    for epoch, side in ((1, 2), (2, 3), (3, 4)):
        inputs, targets = next(images.epoch(epoch))
        assert inputs.shape == (len(targets), 3, side, side)
        chosen = images.indices[next(images.positions(epoch))]
        assert torch.equal(inputs, images.inputs(chosen, AugmentedCopy(epoch - 1, side)))
        assert not torch.equal(inputs, images.inputs(chosen, AugmentedCopy(epoch, side)))


def test_evaluation_is_in_order_and_complete() -> None:
    parts = list(evaluation_batches(Shades(), np.array([4, 2, 9]), TARGETS, PLAIN, batch_size=2))
    assert [len(targets) for _, targets in parts] == [2, 1]
    assert torch.cat([inputs[:, 0, 0, 0] for inputs, _ in parts]).mul(255).round().tolist() == [4, 2, 9]


def test_prefetch_keeps_order_and_passes_errors_on() -> None:
    assert list(prefetch(iter(range(20)))) == list(range(20))

    def failing():
        yield 1
        raise ValueError("decoder")

    taken = prefetch(failing())
    assert next(taken) == 1
    with pytest.raises(ValueError, match="decoder"):
        next(taken)


def test_prefetch_stops_its_thread_when_it_is_left() -> None:
    import threading

    taken = prefetch(iter(range(1000)))
    next(taken)
    taken.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("deepbloom-prefetch")]
