"""Odd files among images: each is read or refused, and none stops the others."""

import csv
import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from children import Child
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_images import ORIENTATIONS, Size, encode, make, rotated, scans, upright
from PIL import Image
from small_runs import settings as run_settings

from deepbloom.cli import main as cli
from deepbloom.commands.train import train
from deepbloom.data import images as image_files
from deepbloom.data.images import MAX_PIXELS, decode, read_image
from deepbloom.errors import DataError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Size | None]:
    return make(tmp_path_factory.mktemp("odd") / "corpus")


def test_the_corpus_is_large_and_has_both_kinds(corpus: dict[Path, Size | None]) -> None:
    assert len(corpus) >= 90
    assert sum(size is None for size in corpus.values()) >= 40
    assert len({os.fsencode(path) for path in corpus}) == len(corpus)


def test_every_odd_file_is_read_or_refused_(corpus: dict[Path, Size | None], tmp_path: Path, tally: Callable) -> None:
    def work() -> None:
        os.chdir(tmp_path)
        wrong = []
        for path, size in corpus.items():
            try:
                image = read_image(path)
                found = image.size
                assert image.mode == "RGB"
            except DataError:
                found = None
            if found != size:
                wrong.append(f"{path.name!r}: {found}, expected {size}")
        assert not wrong, "\n".join(wrong)

    child = Child(work, tmp_path / "output")
    assert child.wait(200) == 0, child.said()
    assert not (tmp_path / "canary").exists()
    tally("odd files tried", len(corpus))


def test_the_largest_image_allowed_is_read_and_one_more_row_is_not(tmp_path: Path) -> None:
    width = 20_000
    for rows, name in ((MAX_PIXELS // width, "largest.png"), (MAX_PIXELS // width + 1, "larger.png")):
        Image.new("1", (width, rows)).save(tmp_path / name)
    assert read_image(tmp_path / "largest.png").size == (width, MAX_PIXELS // width)
    with pytest.raises(DataError, match="80,000,000"):
        read_image(tmp_path / "larger.png")


def test_without_the_limit_of_pixels_a_bomb_would_be_decoded(
    corpus: dict[Path, Size | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = (path for path in corpus if path.name == "too many pixels.png")
    with pytest.raises(DataError, match="80,000,000"):
        read_image(path)
    monkeypatch.setattr(image_files, "MAX_PIXELS", 10**9)
    assert read_image(path).size == (20_000, 4_001)


def test_a_small_file_of_many_scans_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = scans(1000, 1000)
    assert len(bomb) < 100_000
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", lambda *_, **__: pytest.fail("decoded"))
        with pytest.raises(DataError, match="more than 100 scans"):
            decode(bomb)  # as the demo does
    assert decode(scans(1000, 90)).size == (1000, 1000)
    monkeypatch.setattr(image_files, "MAX_SCANS", 10**9)
    assert decode(bomb).size == (1000, 1000)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_rotated_image_is_read_as_its_upright_twin(orientation: int, kind: str, tmp_path: Path) -> None:
    (tmp_path / "rotated").write_bytes(rotated(orientation, kind))
    found = np.asarray(read_image(tmp_path / "rotated"), np.int16)
    assert np.abs(found - np.asarray(upright(), np.int16)).mean() < 6


def test_predict_gives_a_row_for_each_odd_file_and_answers_for_the_good_ones(
    images: Path, corpus: dict[Path, Size | None], tmp_path: Path
) -> None:
    run = train(run_settings(images, tmp_path / "run", epochs=1))
    folder = next(iter(corpus)).parent

    def work() -> None:
        os.chdir(tmp_path)
        cli.dispatch(["predict", f"ckpt={run}", f"image={folder}", "output_dir=out"])

    child = Child(work, tmp_path / "output")
    assert child.wait() == 0, child.said()[-3000:]
    assert "Traceback" not in child.said()
    with open(tmp_path / "out" / "predictions.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    for path, size in corpus.items():
        if path.is_dir():  # searched, and not named
            continue
        row = rows[str(path)]
        assert bool(row["error"]) is (size is None), row
        assert bool(row["prediction"]) is (size is not None)
    assert not (tmp_path / "canary").exists()


def test_training_on_a_folder_with_odd_files_names_them_or_leaves_them_out(
    images: Path, corpus: dict[Path, Size | None], tmp_path: Path
) -> None:
    root = tmp_path / "data"
    for folder in images.iterdir():
        (root / folder.name).mkdir(parents=True)
        for path in folder.iterdir():
            (root / folder.name / path.name).symlink_to(path)
    odd = root / os.fsdecode(b"odd \xff <script>\n")
    odd.symlink_to(next(iter(corpus)).parent)
    config = run_settings(root, tmp_path / "run", epochs=1)
    child = Child(lambda: train(config), tmp_path / "output")
    assert child.wait() == 2
    assert "cannot be read" in child.said()
    assert "data.allow_missing=true" in child.said()
    config.data.allow_missing = True

    child = Child(lambda: train(config), tmp_path / "output")
    assert child.wait() == 0, child.said()[-3000:]
    assert "Traceback" not in child.said()
    assert "Logging error" not in child.said()
    assert "odd \\udcff <script>\\n" in (tmp_path / "run" / "metrics.json").read_text()


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), st.data())
def test_no_change_of_a_image_makes_its_decoder_do_anything_else(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    fuzz(tmp_path_factory, kind, data)


@pytest.mark.long
@settings(deadline=None, max_examples=6000)
@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), st.data())
def test_thousands_of_changed_images_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    fuzz(tmp_path_factory, kind, data)


def fuzz(tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject) -> None:
    content = bytearray(encode(upright(), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(content)))
        stop = data.draw(st.integers(start, min(len(content), start + 8)))
        content[start:stop] = data.draw(st.binary(max_size=12))
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(content)
    with suppress(DataError):
        assert read_image(path).mode == "RGB"


def test_a_decoder_that_fails_in_its_own_way_is_answered_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The control of the tests above: whatever a decoder raises becomes a `DataError`, and only there."""
    (tmp_path / "x.png").write_bytes(encode(upright(), "PNG"))
    monkeypatch.setattr(Image, "open", lambda *_, **__: io.BytesIO().seek(-1))
    with pytest.raises(DataError):
        read_image(tmp_path / "x.png")
