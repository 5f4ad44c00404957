"""How many views are made, and that what is stored is what was computed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deepbloom import recipe
from deepbloom.config.settings import AugmentConfig
from deepbloom.data.batches import ImageBatches
from deepbloom.data.preprocessing import Preprocessing, normalize
from deepbloom.data.resolution import CopySchedule
from deepbloom.engine import feature_cache
from deepbloom.engine.distributed import Group
from deepbloom.engine.feature_cache import BUDGET_BYTES, Activations, Plan, choose_views

GB = 10**9


@pytest.mark.parametrize(
    ("wanted", "epochs", "augmented", "bytes_per_view", "free", "views"),
    [
        (6, 20, True, GB, 100 * GB, 6),
        (6, 3, True, GB, 100 * GB, 3),  # more views than epochs are never seen
        (6, 20, False, GB, 100 * GB, 1),  # without augmentation all views are equal
        (6, 20, True, 3 * GB, 30 * GB, 2),  # a quarter of the free disk
        (50, 50, True, GB, 10**15, BUDGET_BYTES // GB),
        (6, 20, True, 20 * GB, 10**15, 0),  # not even one: no cache
    ],
)
def test_views_follow_the_budget(
    wanted: int, epochs: int, augmented: bool, bytes_per_view: int, free: int, views: int
) -> None:
    assert choose_views(wanted, epochs, augmented, bytes_per_view, 0, free) == views


def test_the_validation_part_takes_its_room_first() -> None:
    assert choose_views(6, 20, True, GB, 5 * GB, 32 * GB) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(6,), (3, 4, 5)])
def test_activations_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    stores = [Activations(Group().shared_file(tmp_path), count=5, shape=shape, dtype=dtype) for _ in range(2)]
    written = torch.randn(2, 5, *shape).to(dtype)
    for store, outputs in zip(stores, written, strict=True):
        store.write(0, outputs[:3])
        store.write(3, outputs[3:])
    positions = np.array([4, 0, 2])
    assert torch.equal(stores[1].read(positions), written[1, positions])
    if len(shape) == 3:
        assert stores[0].read(positions).is_contiguous(memory_format=torch.channels_last)


def test_the_activations_leave_nothing_behind(tmp_path: Path) -> None:
    store = Activations(Group().shared_file(tmp_path), count=2, shape=(3,), dtype=torch.float32)
    assert store.size_bytes == 24
    assert list(tmp_path.iterdir()) == []


ROTATE = AugmentConfig({"rotate": {"degrees": 20}})


class Noise:
    """Images of 16 x 16 random pixels."""

    def __init__(self, count: int) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8)

    def read(self, indices: np.ndarray) -> np.ndarray:
        return self.pixels[indices]


def noise_batches(sides: tuple[int, ...], epochs: int) -> ImageBatches:
    preprocessing, views = Preprocessing(size=16), CopySchedule(epochs, sides)
    indices, targets = np.arange(3, 12), np.arange(14) % 5
    return ImageBatches(
        Noise(14),
        indices,
        targets,
        preprocessing,
        ROTATE,
        0,
        4,
        torch.device("cpu"),
        views,
    )


@torch.no_grad()
@pytest.mark.parametrize("sides", [(16,), (12,), (8, 12, 16)])
def test_every_epoch_reads_what_the_frozen_part_makes_of_its_view(tmp_path: Path, sides: tuple[int, ...]) -> None:
    prefix = torch.nn.Conv2d(3, 5, 3, stride=2)
    images, val_indices = noise_batches(sides, epochs=7), np.array([0, 13, 1])
    batches, val = feature_cache.compute(prefix, images, val_indices, Plan(2, "fp32"), tmp_path, Group())
    for epoch in range(1, 8):
        for (stored, targets), (inputs, expected) in zip(batches.epoch(epoch), images.epoch(epoch), strict=True):
            torch.testing.assert_close(stored, prefix(inputs), atol=1e-5, rtol=0)
            assert torch.equal(targets, expected)
    seen = list(feature_cache.validation_batches(val, torch.tensor([0, 3, 1]), 2))
    whole = normalize(torch.from_numpy(images.pixels.read(val_indices)), images.preprocessing)
    torch.testing.assert_close(torch.cat([inputs for inputs, _ in seen]), prefix(whole), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("sides", "epochs", "wanted", "views"),
    [((16,), 20, 0, 4), ((8, 12, 16), 20, 0, 2), ((8, 12, 16), 20, 5, 5), ((8, 12, 16), 4, 5, 2), ((16,), 3, 0, 3)],
)
def test_views_are_planned_for_every_side(
    tmp_path: Path, sides: tuple[int, ...], epochs: int, wanted: int, views: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = recipe("resnet18_partial", train={"epochs": epochs, "precision": "fp32", "feature_copies": wanted})
    caplog.set_level("INFO", "deepbloom")
    plan = feature_cache.plan(torch.nn.Conv2d(3, 5_000, 1), noise_batches(sides, epochs), 2, config, tmp_path)
    assert plan == Plan(views, "fp32")
    shown = [min(views, epochs_of_side) for epochs_of_side in ((1, 1, 2) if epochs == 4 else (6, 6, 6))]
    numbers = 9 * sum(number * side * side for number, side in zip(shown, sides, strict=False)) + 2 * 16 * 16
    assert f"at {', '.join(map(str, sides))} pixels: {numbers * 5_000 * 4 / 1e9:.2f} GB" in caplog.text
