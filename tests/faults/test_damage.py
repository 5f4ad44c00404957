"""Files that were damaged on disk: found at every load, and repaired or reported."""

import hashlib
import random
import signal
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from children import Child, at_step, kill
from safetensors.torch import load_file
from small_runs import outcome, settings

from deepbloom.cli import main as cli
from deepbloom.commands.train import train
from deepbloom.data.pixel_cache import HEADER_BYTES, CachedPixels, open_pixels
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.data.sources.imagefolder import ImageFolder
from deepbloom.engine.checkpoint import MODEL_KIND, STATE_KIND, read_tensors, write_tensors
from deepbloom.errors import CheckpointError, WeightsError
from deepbloom.models.weights import fetch_weights
from deepbloom.runs import folder as run_dir

Damage = Callable[[bytes], bytes]


def flip(place: int, bits: int) -> Damage:
    def damage(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[place % len(content)] ^= bits
        return bytes(changed)

    return damage


def truncate(share: float) -> Damage:
    return lambda content: content[: int(share * len(content))]


def flips(count: int) -> list[Damage]:
    draw = random.Random(7)
    return [flip(draw.randrange(10**9), draw.randrange(1, 256)) for _ in range(count)]


# Checkpoints


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    tensors = {"a": torch.arange(40.0).reshape(5, 8), "b": torch.tensor(3), "c": torch.zeros(3, dtype=torch.bfloat16)}
    write_tensors(tmp_path / "file", tensors, {"kind": "k", "format": 1, "text": "ä" * 20})
    return tmp_path / "file"


def test_no_length_and_no_flipped_byte_of_a_checkpoint_passes(small_file: Path, tally: Callable) -> None:
    """Every length, and every byte flipped: a typed error, or (in the blanks between JSON's signs) the same content."""
    content = small_file.read_bytes()
    tensors, header = read_tensors(small_file, "k")
    damages = [content[:length] for length in range(len(content))]
    damages += [flip(place, 1 << place % 8)(content) for place in range(len(content))]
    refused = 0
    for damaged in damages:
        small_file.write_bytes(damaged)
        try:
            found, found_header = read_tensors(small_file, "k")
        except CheckpointError:
            refused += 1
            continue
        assert found_header == header
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensors[name]) for name in found)
    assert refused > 0.99 * len(damages)
    tally("damaged files found", len(damages))


def test_without_the_digest_flipped_weights_would_pass(small_file: Path) -> None:
    content = small_file.read_bytes()
    small_file.write_bytes(flip(len(content) - 3, 1)(content))
    with pytest.raises(CheckpointError, match="digest"):
        read_tensors(small_file, "k")
    load_file(small_file)  # the format itself has no checksum


@pytest.mark.long
@pytest.mark.parametrize("name", [run_dir.MODEL, run_dir.LAST])
def test_200_flips_and_200_lengths_of_a_real_runs_files_are_found(
    name: str, trained_run: Path, tmp_path: Path, tally: Callable
) -> None:
    content = (trained_run / name).read_bytes()
    kind = MODEL_KIND if name == run_dir.MODEL else STATE_KIND
    path = tmp_path / name
    for damage in [*flips(200), *(truncate(number / 200) for number in range(200))]:
        path.write_bytes(damage(content))
        with pytest.raises(CheckpointError):
            read_tensors(path, kind)
        tally("damaged files found")


def stopped(images: Path, folder: Path) -> Any:
    """Return the settings of a run that was killed in the second epoch."""
    config = settings(images, folder)

    def work() -> None:
        with at_step(kill, 7):
            train(config)

    assert Child(work, folder.parent / "output").wait() == -signal.SIGKILL
    return config


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(flip(-1, 1), id="end"),
        pytest.param(flip(12, 4), id="head", marks=pytest.mark.long),
        pytest.param(truncate(0.0), id="empty", marks=pytest.mark.long),
        pytest.param(truncate(0.5), id="half"),
        pytest.param(None, id="gone"),
    ],
)
def test_an_automatic_resume_falls_back_to_the_state_before_and_says_so(
    damage: Damage | None, images: Path, tmp_path: Path, tally: Callable
) -> None:
    config = stopped(images, tmp_path / "run")
    last = tmp_path / "run" / run_dir.LAST
    if damage:
        last.write_bytes(damage(last.read_bytes()))
    else:
        last.unlink()
    _, before = read_tensors(tmp_path / "run" / run_dir.PREVIOUS, STATE_KIND)
    train(config)
    log = (tmp_path / "run" / run_dir.LOG).read_text()
    assert "resumes from the state saved before it" in log
    progress = before["progress"]
    assert f"resuming in epoch {progress['epoch']} after step {progress['step']}" in log
    whole = outcome(train(settings(images, tmp_path / "whole")))
    assert outcome(tmp_path / "run") == whole
    tally("damaged files found")


def test_two_damaged_states_stop_with_what_to_do(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Also the control of the test above: without the state before, there is nothing to fall back to."""
    config = stopped(images, tmp_path / "run")
    for name in (run_dir.LAST, run_dir.PREVIOUS):
        path = tmp_path / "run" / name
        path.write_bytes(truncate(0.5)(path.read_bytes()))
    assert cli.guarded(lambda: train(config)) == 2
    assert run_dir.PREVIOUS in capsys.readouterr().err
    (tmp_path / "run" / run_dir.PREVIOUS).unlink()
    assert cli.guarded(lambda: train(config)) == 2
    assert f"delete {tmp_path / 'run'} to train again" in capsys.readouterr().err


@pytest.mark.parametrize("given", [".", run_dir.MODEL])
def test_a_checkpoint_that_is_named_never_falls_back(
    given: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    stopped(images, tmp_path / "run")
    model = tmp_path / "run" / run_dir.MODEL
    model.write_bytes(flip(-9, 1)(model.read_bytes()))
    assert (tmp_path / "run" / run_dir.PREVIOUS).exists()
    arguments = ["predict", f"ckpt={tmp_path / 'run' / given}", f"image={images}"]
    assert cli.guarded(lambda: cli.dispatch(arguments)) == 2
    assert "is damaged" in capsys.readouterr().err


def test_a_complete_run_keeps_one_state_only(images: Path, tmp_path: Path) -> None:
    folder = train(settings(images, tmp_path / "run"))
    assert (folder / run_dir.LAST).exists()
    assert not (folder / run_dir.PREVIOUS).exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.pop("progress"),
        lambda header: header.pop("scaler"),
        lambda header: header["progress"].update(epoch="one"),
        lambda header: header["progress"].update(unknown=1),
        lambda header: header["progress"].update(best_val_loss=[]),
        lambda header: header["progress"].update(history={}),
        lambda header: header["progress"].update(step=-1.5),
        lambda header: header["progress"].update(count="4"),
        lambda header: header.update(progress=[]),
    ],
)
def test_a_state_of_another_shape_is_refused(
    change: Callable, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = stopped(images, tmp_path / "run")
    tensors, header = read_tensors(tmp_path / "run" / run_dir.LAST, STATE_KIND)
    change(header)
    write_tensors(tmp_path / "run" / run_dir.LAST, tensors, header)
    assert cli.guarded(lambda: train(config)) == 2
    assert "Traceback" not in capsys.readouterr().err


# The pixel cache


SMALL = Preprocessing(size=8)


def check_pixels(images: Path, folder: Path, damages: list[Damage], tally: Callable) -> None:
    source = ImageFolder.create(images)
    made = open_pixels(source, SMALL, str(folder), 0)
    assert isinstance(made, CachedPixels)
    indices = np.arange(len(source))
    right, path, content = made.read(indices), made.path, made.path.read_bytes()
    for damage in damages:
        path.unlink()
        path.write_bytes(damage(content))
        again = open_pixels(source, SMALL, str(folder), 0)
        assert np.array_equal(again.read(indices), right)
        open_pixels(source, SMALL, str(folder), 0)
        header, rest = content[:HEADER_BYTES].rstrip(), content[HEADER_BYTES:]
        assert path.read_bytes()[: len(header)] == header  # a flipped blank behind it does no harm
        assert path.read_bytes()[HEADER_BYTES:] == rest
        tally("damaged files found")


def test_a_damaged_pixel_cache_is_made_again(images: Path, tmp_path: Path, tally: Callable) -> None:
    check_pixels(images, tmp_path / "cache", [*flips(10), truncate(0.3), truncate(0.99)], tally)


@pytest.mark.long
def test_a_pixel_cache_with_any_flip_or_length_is_made_again(images: Path, tmp_path: Path, tally: Callable) -> None:
    damages = [*flips(200), *(truncate(number / 50) for number in range(50))]
    check_pixels(images, tmp_path / "cache", damages, tally)


def test_without_the_checksum_damaged_pixels_would_be_trained_on(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ImageFolder.create(images)
    made = open_pixels(source, SMALL, str(tmp_path), 0)
    assert isinstance(made, CachedPixels)
    right, content = made.read(np.arange(len(source))), made.path.read_bytes()
    made.path.unlink()
    made.path.write_bytes(flip(-1, 1)(content))
    last = np.array([len(source) - 1])
    expected = right[last].copy()
    checksum = zlib.crc32(expected)
    monkeypatch.setattr(zlib, "crc32", lambda _: checksum)
    damaged = open_pixels(source, SMALL, str(tmp_path), 0).read(last)
    assert (damaged != expected).sum() == 1


# Weights from the hub


def test_damaged_weights_in_the_hub_cache_are_never_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save({"weight": torch.zeros(9)}, tmp_path / "file")
    content = (tmp_path / "file").read_bytes()
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    path = tmp_path / "checkpoints" / name
    path.write_bytes(content)
    url = f"http://localhost:9/{name}"
    assert fetch_weights(url).tensors["weight"].shape == (9,)
    for damage in [*flips(200), *(truncate(number / 20) for number in range(20))]:
        path.write_bytes(damage(content))
        with pytest.raises(WeightsError, match="damaged or not the published file"):
            fetch_weights(url)
        tally("damaged files found")
