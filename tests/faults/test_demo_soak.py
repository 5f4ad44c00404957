"""Many uploads: every answer is that of predict, and memory does not grow."""

import ctypes
import gc
import io
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo_page import Page

AT_ONCE = 8
IMAGES = 20
WARMING = 40
GROWTH_BYTES = 16_000_000
"""The allocator's own ups and downs; the pixels of 23 uploads are more."""


def noise(seed: int) -> bytes:
    """Return a JPEG file of 600 x 400 pixels of noise, which no compression makes small."""
    pixels = np.random.default_rng(seed).integers(0, 256, (400, 600, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=90)
    return file.getvalue()


def memory_bytes() -> int:
    """Return what this process holds, without what its allocator keeps for later."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def check_uploads(page: Page, contents: list[bytes], expected: list[list], uploads: int) -> None:
    """Upload and compare every answer with that of each network for the image; then look at what is left."""

    def upload(number: int) -> list:
        return [network["top5"] for network in page.answer(contents[number % len(contents)])["networks"]]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(upload, range(WARMING)))  # what is set aside once is no growth
        before, handles = memory_bytes(), len(os.listdir("/proc/self/fd"))
        answers = list(pool.map(upload, range(uploads)))
    grown = memory_bytes() - before
    assert answers == [[network[number % len(contents)] for network in expected] for number in range(uploads)]
    assert grown < GROWTH_BYTES, f"{grown / 1e6:.1f} MB more after {uploads} uploads"
    assert len(os.listdir("/proc/self/fd")) <= handles + AT_ONCE


@pytest.fixture(scope="module")
def contents() -> list[bytes]:
    return [noise(number) for number in range(IMAGES)]


@pytest.fixture
def expected(page: Page, contents: list[bytes], deepbloom: Callable, tmp_path: Path) -> list[list]:
    """What predict says of every image, for each network of the page."""
    (tmp_path / "images").mkdir()
    for number, content in enumerate(contents):
        (tmp_path / "images" / f"{number:03d}.jpg").write_bytes(content)
    answers = []
    for place, checkpoint in enumerate(page.checkpoints):
        folder = tmp_path / f"out{place}"
        arguments = (f"ckpt={checkpoint}", f"image={tmp_path / 'images'}", f"output_dir={folder}", "batch_size=1")
        code, _, messages = deepbloom("predict", *arguments)
        assert code == 0, messages
        answers.append([row["top5"] for row in json.loads((folder / "predictions.json").read_text())])
    assert answers[0][0] != answers[0][1]
    return answers


@pytest.mark.parametrize("uploads", [60, pytest.param(1000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_uploads_are_answered_as_by_predict_without_growth(
    page: Page, contents: list[bytes], expected: list[list], uploads: int, tally: Callable
) -> None:
    check_uploads(page, contents, expected, uploads)
    tally("uploads to the demo answered as by predict", uploads)


def test_a_page_that_keeps_its_images_is_noticed(
    page: Page, contents: list[bytes], expected: list[list], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the pixels of every upload are kept."""
    from deepbloom.demo import app

    kept: list[np.ndarray] = []
    honest = app.answer

    def keeping(content: bytes, *arguments: object) -> dict:
        kept.append(np.array(Image.open(io.BytesIO(content))))
        return honest(content, *arguments)

    monkeypatch.setattr(app, "answer", keeping)
    with pytest.raises(AssertionError, match="MB more after 60 uploads"):
        check_uploads(page, contents, expected, 60)
    assert len(kept) == WARMING + 60
