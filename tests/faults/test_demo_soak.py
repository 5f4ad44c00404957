"""Many uploads: each prediction is that of the predict command, and nothing of an upload is kept."""

import gc
import io
import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepbloom.cli.main import dispatch
from demo_page import Page

CLIENTS = 8
IMAGES = 20
WARMUP = 40
WIDTH, HEIGHT = 600, 400


def noise(seed: int) -> bytes:
    """Return a JPEG file of noise, which no compression makes small."""
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=90)
    return file.getvalue()


@pytest.fixture
def traced() -> Iterator[None]:
    """Count the bytes that Python objects and NumPy arrays allocate."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


def count_kept() -> tuple[int, int]:
    """Return the live PIL images, whose pixels are not traced, and the traced bytes."""
    gc.collect()
    return sum(issubclass(type(thing), Image.Image) for thing in gc.get_objects()), tracemalloc.get_traced_memory()[0]


def check_uploads(page: Page, contents: list[bytes], expected: list[list], uploads: int) -> None:
    """Upload and compare each prediction of each network with the expected one; then look at what is left."""

    def upload(number: int) -> list:
        return [network["top5"] for network in page.predict(contents[number % len(contents)])["networks"]]

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(upload, range(WARMUP)))  # allocations that are made once
        images, traced_bytes = count_kept()
        handles = len(os.listdir("/dev/fd"))
        predictions = list(pool.map(upload, range(uploads)))
    assert predictions == [[network[number % len(contents)] for network in expected] for number in range(uploads)]
    images_now, traced_bytes_now = count_kept()
    assert images_now <= images, "images are kept"
    assert traced_bytes_now - traced_bytes < uploads * len(contents[0]) / 4, "the bytes of uploads are kept"
    assert len(os.listdir("/dev/fd")) <= handles + CLIENTS


@pytest.fixture(scope="module")
def contents() -> list[bytes]:
    """JPEG files of about 200 kB."""
    return [noise(number) for number in range(IMAGES)]


@pytest.fixture(scope="module")
def expected(page: Page, contents: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> list[list]:
    """The top 5 of the predict command for each image and each network of the page."""
    images = tmp_path_factory.mktemp("images")
    for number, content in enumerate(contents):
        (images / f"{number:03d}.jpg").write_bytes(content)
    predictions = []
    for checkpoint in page.checkpoints:
        folder = tmp_path_factory.mktemp("out")
        dispatch(["predict", f"ckpt={checkpoint}", f"image={images}", f"output_dir={folder}", "batch_size=1"])
        predictions.append([row["top5"] for row in json.loads((folder / "predictions.json").read_text())])
    assert predictions[0][0] != predictions[0][1]
    return predictions


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("uploads", [60, pytest.param(1000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_uploads_get_the_predictions_of_predict_and_are_not_kept(
    page: Page, contents: list[bytes], expected: list[list], uploads: int, tally: Callable
) -> None:
    check_uploads(page, contents, expected, uploads)
    tally("uploads to the demo predicted as by predict", uploads)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (bytes, "the bytes of uploads are kept"),
        (lambda content: Image.open(io.BytesIO(content)), "images are kept"),
    ],
)
def test_a_page_that_keeps_its_uploads_is_noticed(
    page: Page,
    contents: list[bytes],
    expected: list[list],
    monkeypatch: pytest.MonkeyPatch,
    keep: Callable[[bytes], object],
    message: str,
) -> None:
    """The negative control: the bytes or the images of each upload are kept."""
    from deepbloom.demo import app

    kept: list[object] = []
    original = app.predict_image

    def keeping(content: bytes, *arguments: Any) -> dict:
        kept.append(keep(content))
        return original(content, *arguments)

    monkeypatch.setattr(app, "predict_image", keeping)
    with pytest.raises(AssertionError, match=message):
        check_uploads(page, contents, expected, 20)
    assert len(kept) == WARMUP + 20
