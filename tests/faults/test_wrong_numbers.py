"""Wrong numbers that nobody would notice: each promise, and what happens where its protection is taken away."""

import math
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from children import Child, at_step, counted, kill
from small_runs import settings

from deepbloom.cli import main as cli
from deepbloom.commands.train import train
from deepbloom.engine import checkpoint, trained_data
from deepbloom.engine import state as state_module
from deepbloom.engine import train as loop
from deepbloom.engine.checkpoint import MODEL_KIND, STATE_KIND, read_tensors
from deepbloom.errors import CheckpointError
from deepbloom.runs import folder as run_dir


def is_finite(path: Path, kind: str) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in read_tensors(path, kind)[0].values())


@pytest.mark.parametrize("checked", [True, False])
def test_a_loss_that_is_not_finite_stops_with_3_and_keeps_the_last_good_state(
    checked: bool,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tally: Callable,
) -> None:
    """The control takes the checks away: training continues, and weights that are NaN replace the good ones."""
    honest, factor = loop.training_loss, [1.0]
    poison, _ = counted(lambda: factor.__setitem__(0, math.nan), 6)

    def poisoned(*arguments: Any) -> tuple:
        poison()
        loss, logits = honest(*arguments)
        return loss * factor[0], logits

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_loss", poisoned)
        if not checked:
            patch.setattr(math, "isfinite", lambda value: True)
            patch.setattr(np, "isfinite", lambda values: np.ones_like(values, bool))
            patch.setattr(torch.Tensor, "isfinite", lambda tensor: torch.ones_like(tensor, dtype=torch.bool))
        code = cli.guarded(lambda: train(settings(images, tmp_path / "run")))
    assert is_finite(tmp_path / "run" / run_dir.LAST, STATE_KIND) is checked
    if checked:
        assert code == 3
        assert "the loss is nan at epoch 2, step 2" in capsys.readouterr().err
        _, header = read_tensors(tmp_path / "run" / run_dir.LAST, STATE_KIND)
        assert (header["progress"]["epoch"], header["progress"]["step"]) == (2, 1)
        assert header["progress"]["best_epoch"] == 1
        assert is_finite(tmp_path / "run" / run_dir.MODEL, MODEL_KIND)
        tally("wrong numbers refused")


def other_classes(images: Path) -> None:
    (images / "lime").rename(images / "lemon")


def other_images(images: Path) -> None:
    shutil.copy(images / "lime" / "00.png", images / "lime" / "01.png")


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize(
    ("change", "named"),
    [("data.split.seed=7", "another split"), (other_classes, "classes"), (other_images, "other images")],
)
def test_evaluation_on_other_data_is_refused(
    checked: bool,
    change: str | Callable,
    named: str,
    deepbloom: Callable,
    trained_run: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tally: Callable,
) -> None:
    """The control takes the comparison away: a figure is written, of images that have trained the network."""
    line = ["eval", f"ckpt={trained_run}", f"output_dir={tmp_path / 'out'}"]
    if callable(change):
        change(shutil.copytree(images, tmp_path / "other"))
        line.append(f"data.root={tmp_path / 'other'}")
    else:
        line.append(change)
    if not checked:
        monkeypatch.setattr(trained_data, "check_same_data", lambda *_: None)
    code, _, err = deepbloom(*line)
    assert code == (2 if checked else 0), err
    assert not checked or named in err
    assert (tmp_path / "out" / run_dir.METRICS).exists() is not checked
    if checked:
        tally("wrong numbers refused")


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("falls_back", [True, False])
def test_an_automatic_resume_falls_back_to_the_state_before(
    falls_back: bool, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable
) -> None:
    """The control reads the newest state only: the run cannot resume."""
    config = settings(images, tmp_path / "run")

    def work() -> None:
        with at_step(kill, 7):
            train(config)

    assert Child(work, tmp_path / "output").wait() == -signal.SIGKILL
    damage(tmp_path / "run" / run_dir.LAST)
    if not falls_back:
        monkeypatch.setattr(
            state_module, "_read_newest", lambda folder: read_tensors(folder / run_dir.LAST, STATE_KIND)
        )
    assert cli.guarded(lambda: train(config)) == (0 if falls_back else 2)
    assert (tmp_path / "run" / run_dir.METRICS).exists() is falls_back
    if falls_back:
        tally("damaged files found")


@pytest.mark.parametrize("falls_back", [False, True])
def test_a_file_that_is_named_is_never_replaced_by_another(
    falls_back: bool,
    deepbloom: Callable,
    trained_run: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tally: Callable,
) -> None:
    """The control reads what lies beside it: another network answers under the name of the damaged one."""
    named, beside = tmp_path / run_dir.MODEL, tmp_path / "before.safetensors"
    for path in (named, beside):
        shutil.copy(trained_run / run_dir.MODEL, path)
    damage(named)

    def read_either(path: Path, kind: str) -> tuple:
        try:
            return read_tensors(path, kind)
        except CheckpointError:
            return read_tensors(beside, kind)

    if falls_back:
        monkeypatch.setattr(checkpoint, "read_tensors", read_either)
    line = ["predict", f"ckpt={named}", f"image={images / 'lime'}", f"output_dir={tmp_path / 'out'}"]
    code, _, err = deepbloom(*line)
    assert code == (0 if falls_back else 2)
    assert ("is damaged" in err) is not falls_back
    assert (tmp_path / "out" / "predictions.csv").exists() is falls_back
    if not falls_back:
        tally("damaged files found")
