"""Images named on the command line: what stays in memory, and what each network gets."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deepbloom.data import images
from deepbloom.data.images import read_image
from deepbloom.data.inputs import Readable, Unreadable, read_batches, stack_pixels
from deepbloom.data.preprocessing import Preprocessing, preprocess, to_inputs

SMALL, LARGE = Preprocessing(size=8), Preprocessing(size=12, interpolation="bicubic")


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    generator = np.random.default_rng(0)
    found = [tmp_path / f"{number}.jpg" for number in range(5)]
    for path in found:
        Image.fromarray(generator.integers(0, 256, (64, 96, 3), np.uint8)).save(path)
    found[3].write_bytes(b"no image")
    return found


def test_each_network_gets_each_image_in_order(paths: list[Path]) -> None:
    batches = list(read_batches(paths, [SMALL, LARGE], 2))
    assert [[type(image) for image in batch] for batch in batches] == [
        [Readable] * 2,
        [Readable, Unreadable],
        [Readable],
    ]
    for batch in batches:
        readable = [image for image in batch if isinstance(image, Readable)]
        for number, preprocessing in enumerate((SMALL, LARGE)):
            expected = torch.stack([preprocess(read_image(image.path), preprocessing) for image in readable])
            found = to_inputs(stack_pixels(readable, number), preprocessing, torch.device("cpu"))
            assert torch.equal(found, expected)


@pytest.mark.parametrize(("shown_side", "size"), [(0, None), (48, (48, 32)), (1600, (48, 32)), (None, (96, 64))])
def test_no_more_is_kept_than_is_shown(
    shown_side: int | None, size: tuple[int, int] | None, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "REDUCED_SIDE", 32)
    (batch,) = read_batches(paths[:2], [SMALL], 8, shown_side)
    assert [image.shown and image.shown.size for image in batch if isinstance(image, Readable)] == [size] * 2


def test_an_image_that_cannot_be_read_is_named(paths: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    (batch,) = read_batches([paths[3]], [SMALL], 2)
    assert isinstance(batch[0], Unreadable)
    assert "3.jpg" in caplog.text
