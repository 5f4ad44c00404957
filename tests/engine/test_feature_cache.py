"""What the cache stores is what the frozen prefix computes, and room on the disk changes nothing else."""

import errno
import mmap
import os
import shutil
import tempfile
from collections import namedtuple
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from deepbloom.config.settings import AugmentConfig
from deepbloom.data.batches import ImageBatches, evaluation_batches
from deepbloom.data.pixel_cache import Pixels
from deepbloom.data.preprocessing import Preprocessing, normalize
from deepbloom.data.resolution import CopySchedule
from deepbloom.engine.distributed import Group
from deepbloom.engine.feature_cache import FeatureArray, Features, make_features

ROTATE = AugmentConfig({"rotate": {"degrees": 20}}, 1.0)
VALIDATION = np.array([0, 13, 1])
DiskUsage = namedtuple("DiskUsage", ["total", "used", "free"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(6,), (4, 5), (3, 4, 5)])
def test_features_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    arrays = [FeatureArray(Group().shared_file(tmp_path), count=5, shape=shape, dtype=dtype) for _ in range(2)]
    written = torch.randn(2, 5, *shape).to(dtype)
    for array, features in zip(arrays, written, strict=True):
        array.write(0, features[:3])
        array.write(3, features[3:])
    positions = np.array([4, 0, 2])
    assert torch.equal(arrays[1].read(positions), written[1, positions])
    if len(shape) == 3:
        assert arrays[0].read(positions).is_contiguous(memory_format=torch.channels_last)


def test_a_feature_array_leaves_no_file_behind(tmp_path: Path) -> None:
    array = FeatureArray(Group().shared_file(tmp_path), count=2, shape=(3,), dtype=torch.float32)
    array.write(0, torch.ones(2, 3))
    assert list(tmp_path.iterdir()) == []


class Noise(Pixels):
    """Images of 16 x 16 random pixels."""

    def __init__(self, count: int) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8)

    def read(self, indices: np.ndarray) -> np.ndarray:
        return self.pixels[indices]


def noise_batches(resolutions: tuple[int, ...], epochs: int, copies: int) -> ImageBatches:
    preprocessing, schedule = Preprocessing(size=16), CopySchedule(epochs, resolutions, copies)
    indices, targets = np.arange(3, 12), np.arange(14) % 5
    augment, device = ROTATE, torch.device("cpu")
    return ImageBatches(Noise(14), indices, targets, preprocessing, augment, 0, 4, device, schedule)


def features_of(prefix: torch.nn.Module, images: ImageBatches) -> Features:
    validation = partial(
        evaluation_batches, images.pixels, VALIDATION, images.targets.numpy(), images.preprocessing, 2, images.device
    )
    return make_features(prefix, images, validation, len(VALIDATION), "fp32", Group())


@torch.no_grad()
@pytest.mark.parametrize("resolutions", [(16,), (12,), (8, 12, 16)])
def test_every_epoch_reads_what_the_prefix_makes_of_its_copy(resolutions: tuple[int, ...]) -> None:
    prefix = torch.nn.Conv2d(3, 5, 3, stride=2)
    images = noise_batches(resolutions, epochs=7, copies=2)
    features = features_of(prefix, images)
    assert features.train.stored is not None
    for epoch in range(1, 8):
        for (stored, targets), (inputs, expected) in zip(features.train.epoch(epoch), images.epoch(epoch), strict=True):
            torch.testing.assert_close(stored, prefix(inputs), atol=1e-5, rtol=0)
            assert torch.equal(targets, expected)
    for _ in range(2):  # a pass for every epoch
        seen = list(features.validation())
        whole = normalize(torch.from_numpy(images.pixels.read(VALIDATION)), images.preprocessing)
        torch.testing.assert_close(torch.cat([inputs for inputs, _ in seen]), prefix(whole), atol=1e-5, rtol=0)
        assert torch.cat([targets for _, targets in seen]).tolist() == [0, 3, 1]


@torch.no_grad()
def test_without_room_on_the_disk_the_same_features_are_computed_in_every_step(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "deepbloom")
    prefix = torch.nn.Conv2d(3, 5, 3, stride=2)
    stored = features_of(prefix, noise_batches((12, 16), epochs=4, copies=1))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**12, 10**12, 1000))
    computed = features_of(prefix, noise_batches((12, 16), epochs=4, copies=1))
    assert stored.train.stored is not None
    assert computed.train.stored is None
    assert "they are computed in every step" in caplog.text
    for epoch in range(1, 5):
        pairs = zip(stored.train.epoch(epoch), computed.train.epoch(epoch), strict=True)
        for (left, targets), (right, expected) in pairs:
            assert torch.equal(left, right)
            assert torch.equal(targets, expected)
    for (left, _), (right, _) in zip(stored.validation(), computed.validation(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("elsewhere", [True, False])
def test_an_unwritable_cache_folder_stops_nothing(
    elsewhere: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DEEPBLOOM_CACHE", str(tmp_path / "file" / "inside"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path if elsewhere else tmp_path / "file" / "inside"))
    features = features_of(torch.nn.Conv2d(3, 5, 3, stride=2), noise_batches((16,), epochs=1, copies=1))
    assert (features.train.stored is not None) is elsewhere
    assert len(list(features.train.epoch(1))) == 3
    assert "file/inside" in caplog.text


def test_a_folder_that_cannot_map_files_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_mapping(*_: object) -> None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(mmap, "mmap", no_mapping)
    features = features_of(torch.nn.Conv2d(3, 5, 3, stride=2), noise_batches((16,), epochs=1, copies=1))
    assert features.train.stored is None
