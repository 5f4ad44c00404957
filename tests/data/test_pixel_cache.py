import logging
import multiprocessing
import os
import shutil
import threading
import time
from collections import namedtuple
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepbloom.data import pixel_cache
from deepbloom.data.pixel_cache import CachedPixels, DecodedPixels, open_pixels
from deepbloom.data.preprocessing import Preprocessing, resize
from deepbloom.data.sources import ImageSource
from deepbloom.data.sources.imagefolder import ImageFolder
from deepbloom.errors import DataError

SMALL = Preprocessing(size=8)


@dataclass(frozen=True)
class Painted(ImageSource):
    """Images of random noise that note how often they are read, and may take their time."""

    reads: list[int] = field(default_factory=list)
    seconds: float = 0

    def read(self, index: int) -> Image.Image:
        self.reads.append(index)
        time.sleep(self.seconds)
        noise = np.random.default_rng(index).integers(0, 256, (12, 10, 3), dtype=np.uint8)
        return Image.fromarray(noise)


def painted(count: int = 10, fingerprint: str = "f", seconds: float = 0) -> Painted:
    image_ids = tuple(str(number) for number in range(count))
    return Painted("painted", image_ids, np.arange(count) % 2, ("a", "b"), fingerprint, seconds=seconds)


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DEEPBLOOM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def expected(source: ImageSource, indices: np.ndarray, preprocessing: Preprocessing = SMALL) -> np.ndarray:
    return np.stack([resize(source.read(int(index)), preprocessing) for index in indices])


def cache_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in (".pixels", ".tmp"))


@pytest.mark.parametrize("cache", ["off", "auto"])
@pytest.mark.parametrize("num_workers", [0, 3, -1])
def test_every_way_of_reading_gives_the_resized_images(cache, num_workers):
    indices = np.array([7, 0, 7, 3])
    pixels = open_pixels(painted(), SMALL, cache, num_workers).read(indices)
    assert pixels.shape == (4, 8, 8, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, expected(painted(), indices))
    pixels += 1  # a copy of one's own, not the file


def test_more_images_than_threads_hold_keep_their_order():
    assert np.array_equal(
        open_pixels(painted(60), SMALL, "auto", 3).read(np.arange(60)), expected(painted(60), np.arange(60))
    )


def test_images_are_decoded_once():
    source = painted()
    open_pixels(source, SMALL, "auto", 0)
    open_pixels(source, SMALL, "auto", 0).read(np.arange(10))
    assert source.reads == list(range(10))


def test_other_images_size_or_interpolation_have_a_cache_of_their_own(tmp_path):
    for source, preprocessing in [
        (painted(), SMALL),
        (painted(fingerprint="other"), SMALL),
        (painted(), Preprocessing(size=9)),
        (painted(), Preprocessing(size=8, interpolation="bicubic")),
    ]:
        pixels = open_pixels(source, preprocessing, str(tmp_path / "mine"), 0)
        assert np.array_equal(pixels.read(np.arange(3)), expected(source, np.arange(3), preprocessing))
    assert len(cache_files(tmp_path / "mine")) == 4
    open_pixels(painted(), replace(SMALL, mean=(0, 0, 0)), str(tmp_path / "mine"), 0)  # not part of the pixels
    assert len(cache_files(tmp_path / "mine")) == 4


def test_a_changed_byte_is_found_when_its_image_is_read_and_the_file_written_again(caplog):
    first = open_pixels(painted(), SMALL, "auto", 0)
    assert isinstance(first, CachedPixels)
    content = first.path.read_bytes()
    changed = bytearray(content)
    changed[-5] ^= 1  # in the last image
    first.path.unlink()
    first.path.write_bytes(changed)

    source = painted()
    pixels = open_pixels(source, SMALL, "auto", 0)
    assert np.array_equal(pixels.read(np.arange(9)), expected(painted(), np.arange(9)))
    assert (source.reads, caplog.text) == ([], "")
    assert np.array_equal(pixels.read(np.array([3, 9, 9])), expected(painted(), np.array([3, 9, 9])))
    assert set(source.reads) == {9}
    assert "Image 9" in caplog.text
    open_pixels(painted(), SMALL, "auto", 0)
    assert first.path.read_bytes() == content


@pytest.mark.parametrize("damage", ["shorter", "header", "checksums", "empty"])
def test_a_damaged_file_is_made_again(damage):
    first = open_pixels(painted(), SMALL, "auto", 0)
    assert isinstance(first, CachedPixels)
    path, content = first.path, bytearray(first.path.read_bytes())
    if damage == "header":
        content[:20] = b"x" * 20
    if damage == "checksums":
        content[pixel_cache.HEADER_BYTES] ^= 1
    content = {"shorter": content[:-1], "header": content, "checksums": content, "empty": b""}[damage]
    path.unlink()
    path.write_bytes(content)
    source = painted()
    assert np.array_equal(open_pixels(source, SMALL, "auto", 0).read(np.arange(10)), expected(painted(), np.arange(10)))
    assert len(source.reads) == 10


def test_two_starts_at_once_decode_once():
    source = painted(seconds=0.02)
    results: list[np.ndarray] = []
    starts = [
        threading.Thread(target=lambda: results.append(open_pixels(source, SMALL, "auto", 0).read(np.arange(10))))
        for _ in range(3)
    ]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    assert len(source.reads) == 10
    assert len(results) == 3
    assert all(np.array_equal(result, results[0]) for result in results)


def test_a_killed_start_leaves_nothing_that_stops_or_deceives_the_next(user_cache):
    source = painted(10, seconds=0.2)
    process = multiprocessing.get_context("fork").Process(target=open_pixels, args=(source, SMALL, "auto", 0))
    process.start()
    deadline = time.monotonic() + 20
    while not cache_files(user_cache) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert [path.suffix for path in cache_files(user_cache)] == [".tmp"]  # it was at work
    assert np.array_equal(
        open_pixels(painted(), SMALL, "auto", 0).read(np.arange(10)), expected(painted(), np.arange(10))
    )
    assert [path.suffix for path in cache_files(user_cache)] == [".pixels"]


def test_an_interrupted_start_leaves_no_file(user_cache):
    class Interrupting(Painted):
        def read(self, index: int) -> Image.Image:
            raise KeyboardInterrupt

    source = Interrupting("painted", ("0", "1"), np.arange(2), ("a", "b"), "f")
    with pytest.raises(KeyboardInterrupt):
        open_pixels(source, SMALL, "auto", 0)
    assert cache_files(user_cache) == []


# Unreadable images


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("rose/1.png", "rose/2.png", "tulip/1.png", "tulip/2.png", "tulip/3.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), "red").save(path)
    return tmp_path / "images"


@pytest.mark.parametrize("cache", ["off", "auto"])
def test_all_unreadable_images_are_reported_at_once_and_before_training(folder, cache):
    (folder / "rose" / "2.png").write_bytes(b"no image")
    (folder / "tulip" / "3.png").write_bytes(b"no image either")
    source = ImageFolder.create(folder)
    with pytest.raises(DataError, match=r"2 of 5 .*rose/2\.png.*tulip/3\.png.*allow_missing=true") as caught:
        open_pixels(source, SMALL, cache, 0)
    with pytest.raises(DataError) as again:
        open_pixels(source, SMALL, cache, 2)
    assert str(again.value) == str(caught.value)


def test_repaired_images_are_read_again(folder):
    whole = (folder / "rose" / "2.png").read_bytes()
    (folder / "rose" / "2.png").write_bytes(b"no image")
    with pytest.raises(DataError):
        open_pixels(ImageFolder.create(folder), SMALL, "auto", 0)
    (folder / "rose" / "2.png").write_bytes(whole)
    assert open_pixels(ImageFolder.create(folder), SMALL, "auto", 0).read(np.arange(5)).shape == (5, 8, 8, 3)


def test_a_file_that_changes_between_hashing_and_decoding_is_refused(folder, user_cache):
    source = ImageFolder.create(folder)
    Image.new("RGB", (9, 9), "blue").save(folder / "rose" / "2.png")
    for cache in ("off", "auto"):
        with pytest.raises(DataError, match=r"rose/2\.png.* has changed since"):
            open_pixels(source, SMALL, cache, 0).read(np.arange(5))
    assert cache_files(user_cache) == []
    assert open_pixels(ImageFolder.create(folder), SMALL, "auto", 0).read(np.array([1])).max() == 255


def test_without_a_cache_a_file_that_is_overwritten_later_is_refused_too(folder):
    pixels = open_pixels(ImageFolder.create(folder), SMALL, "off", 0)
    assert pixels.read(np.arange(5)).shape == (5, 8, 8, 3)
    Image.new("RGB", (9, 9), "blue").save(folder / "rose" / "2.png")
    with pytest.raises(DataError, match=r"rose/2\.png.* has changed since"):
        pixels.read(np.arange(5))
    assert pixels.read(np.array([0, 2])).shape == (2, 8, 8, 3)


# Room


@pytest.fixture
def small_budget(monkeypatch) -> int:
    size = pixel_cache.HEADER_BYTES + 10 * 4 + 10 * 8 * 8 * 3
    monkeypatch.setattr(pixel_cache, "BUDGET_BYTES", 2 * size + 100)
    return size


def make(fingerprint: str, seconds_ago: int) -> Path:
    pixels = open_pixels(painted(fingerprint=fingerprint), SMALL, "auto", 0)
    assert isinstance(pixels, CachedPixels)
    os.utime(pixels.path, (time.time() - seconds_ago,) * 2)
    return pixels.path


def test_the_least_recently_used_cache_makes_room(small_budget):
    first, second = make("first", 200), make("second", 100)
    open_pixels(painted(fingerprint="first"), SMALL, "auto", 0)  # used again, now the more recent
    third = make("third", 0)
    assert (first.exists(), second.exists(), third.exists()) == (True, False, True)


def test_a_reader_keeps_its_pixels_when_the_file_is_deleted_to_make_room(small_budget):
    first = make("first", 200)
    in_use = open_pixels(painted(fingerprint="first"), SMALL, "auto", 0)
    os.utime(first, (time.time() - 300,) * 2)
    make("second", 100)
    make("third", 0)
    assert not first.exists()
    assert np.array_equal(in_use.read(np.arange(10)), expected(painted(), np.arange(10)))


def test_without_room_auto_decodes_with_a_warning_and_a_folder_is_an_error(small_budget, tmp_path, caplog, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1000, 1000, 0))
    with caplog.at_level(logging.WARNING):
        pixels = open_pixels(painted(), SMALL, "auto", 0)
    assert isinstance(pixels, DecodedPixels)
    assert "0.0 GB are free" in caplog.text
    with pytest.raises(DataError, match=r"Choose another data\.pixel_cache=FOLDER"):
        open_pixels(painted(), SMALL, str(tmp_path / "mine"), 0)


def test_images_beyond_the_budget_are_not_cached(small_budget, caplog):
    assert isinstance(open_pixels(painted(60), SMALL, "auto", 0), DecodedPixels)
    assert "more than the budget" in caplog.text


def test_a_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"data\.pixel_cache=.*file/inside"):
        open_pixels(painted(), SMALL, str(tmp_path / "file" / "inside"), 0)
    monkeypatch.setenv("DEEPBLOOM_CACHE", str(tmp_path / "file" / "inside"))
    assert isinstance(open_pixels(painted(), SMALL, "auto", 0), DecodedPixels)
    assert "decoded in every epoch" in caplog.text
