"""Two processes under torchrun (gloo) train what one process trains."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from deepbloom.cli.main import dispatch
from deepbloom.config.schema import flatten
from deepbloom.data.batches import epoch_order
from deepbloom.engine.distributed import Group
from deepbloom.runs import folder as run_dir

OPTIONS = ("train.batch_size=8", "train.num_threads=1", "train.precision=fp32", "data=imagefolder")


def command(processes: int, images: Path, folder: Path, *options: str) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    train = ["-m", "deepbloom", "train", f"output_dir={folder}", f"data.root={images}", *OPTIONS, *options]
    return [sys.executable, *launcher, *train]


def run(processes: int, images: Path, folder: Path, *options: str) -> list[dict[str, float]]:
    started = command(processes, images, folder, *options)
    if processes > 1:
        done = subprocess.run(started, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr[-3000:]
    else:
        dispatch(started[started.index("train") :])
    with open(folder / run_dir.HISTORY, newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_together_the_processes_take_every_image_of_a_step_once(size: int) -> None:
    for positions in epoch_order(count=50, batch_size=8, seed=0, epoch=1):
        shards = [positions[Group(rank, size).shard] for rank in range(size)]
        assert sorted(np.concatenate(shards)) == sorted(positions)


def test_two_processes_train_what_one_trains(images: Path, tmp_path: Path) -> None:
    options = ("model=resnet18_frozen", "model.weights=none", "train.epochs=2", "augment.first_resolution=0.5")
    alone = run(1, images, tmp_path / "alone", *options)
    together = run(2, images, tmp_path / "together", *options)
    assert len(together) == 2  # one writer
    for one, two in zip(alone, together, strict=True):
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr"):
            assert two[name] == pytest.approx(one[name], rel=1e-4), name
    ids = {json.loads((tmp_path / name / run_dir.METRICS).read_text())["run_id"] for name in ("alone", "together")}
    assert len(ids) == 2  # with BatchNorm that trains, two processes give another result
    tests = [json.loads((tmp_path / name / run_dir.METRICS).read_text())["test"] for name in ("alone", "together")]
    assert flatten(tests[1]) == pytest.approx(flatten(tests[0]), rel=1e-3)


FULL_DISK = """
import os
from deepbloom.cli.main import main
from deepbloom.engine.state import TrainState
from deepbloom.errors import RunError

def full(state):
    raise RunError("The disk is full.")

if os.environ["RANK"] == "0":
    TrainState.save = full
main()
"""


@pytest.mark.parametrize(
    ("error", "message"),
    [pytest.param("locked", "Another process works in", marks=pytest.mark.long), ("save", "The disk is full.")],
)
def test_an_error_of_rank_0_ends_both_processes_with_one_message(
    error: str, message: str, images: Path, tmp_path: Path
) -> None:
    script, folder = tmp_path / "train.py", tmp_path / "run"
    script.write_text(FULL_DISK)
    folder.mkdir()
    started = command(2, images, folder, "model=scratch_cnn", "train.epochs=2")
    if error == "save":
        started[started.index("-m", 3) : started.index("train")] = [str(script)]
    with run_dir.exclusive(folder) if error == "locked" else nullcontext():
        done = subprocess.run(started, capture_output=True, text=True, timeout=280, check=False)
    assert done.stderr.count("deepbloom: ") == 1, done.stderr[-3000:]
    assert f"deepbloom: {message}" in done.stderr
    assert set(re.findall(r"exitcode *: (-?\d+)", done.stderr)) == {"2"}


@pytest.mark.long
def test_two_stopped_processes_go_on_where_they_were(images: Path, tmp_path: Path) -> None:
    options = ("model=scratch_cnn", "train.epochs=6", "train.ema_decay=0.9", "train.checkpoint_seconds=0")
    whole = run(2, images, tmp_path / "whole", *options)
    started = command(2, images, tmp_path / "stopped", *options)
    child = subprocess.Popen(started, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    history = tmp_path / "stopped" / run_dir.HISTORY
    while not history.exists():
        time.sleep(0.05)
        assert child.poll() is None
    child.send_signal(signal.SIGTERM)
    child.wait(timeout=60)
    assert run_dir.read_state(tmp_path / "stopped") == "partial"
    gone_on = run(2, images, tmp_path / "stopped", *options)
    for row in (*whole, *gone_on):
        del row["seconds"], row["images_per_second"]
    assert gone_on == whole
