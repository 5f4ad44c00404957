"""How many views are made, and that what is stored is what was computed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deepbloom.config import AugmentConfig
from deepbloom.engine.distributed import Group
from deepbloom.engine.prefix_cache import BUDGET_BYTES, Activations, changes_pictures, choose_views

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
    store = Activations(Group().shared_file(tmp_path), views=2, count=5, shape=shape, dtype=dtype)
    written = torch.randn(2, 5, *shape).to(dtype)
    for view in range(2):
        store.write(view, 0, written[view, :3])
        store.write(view, 3, written[view, 3:])
    positions = np.array([4, 0, 2])
    assert torch.equal(store.read(1, positions), written[1, positions])
    if len(shape) == 3:
        assert store.read(0, positions).is_contiguous(memory_format=torch.channels_last)


def test_the_activations_leave_nothing_behind(tmp_path: Path) -> None:
    store = Activations(Group().shared_file(tmp_path), views=1, count=2, shape=(3,), dtype=torch.float32)
    assert store.size_bytes == 24
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (AugmentConfig(0, False, 1), False),
        (AugmentConfig(0, False, 1, mixup_alpha=0.5), False),  # blends whatever it is given
        (AugmentConfig(0, True, 1), True),
        (AugmentConfig(5, False, 1), True),
        (AugmentConfig(0, False, min_crop_area=0.5), True),
        (AugmentConfig(0, False, 1, color_jitter=0.1), True),
    ],
)
def test_only_changes_of_pictures_need_views(config: AugmentConfig, changes: bool) -> None:
    assert changes_pictures(config) is changes
