"""``deepbloom.train`` as a library's function: it works in any thread, and leaves the process as it was."""

import logging
import os
import random
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepbloom import recipe
from deepbloom.commands.train import train


def process_state() -> dict[str, Any]:
    names = (None, "deepbloom")
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.random.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "python": random.getstate(),
        "environment": dict(os.environ),
        "handlers": [list(logging.getLogger(name).handlers) for name in names],
        "levels": [logging.getLogger(name).level for name in names],
        "filters": list(warnings.filters),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "folder": os.getcwd(),
    }


@pytest.mark.usefixtures("trained_run")  # libraries that were imported by then set variables of their own
@pytest.mark.parametrize("in_thread", [False, True])
def test_training_leaves_the_callers_process_as_it_was(in_thread: bool, images: Path, tmp_path: Path) -> None:
    settings = recipe(
        "scratch_cnn",
        output_dir=tmp_path / "run",
        data="imagefolder",
        train={"epochs": 1, "batch_size": 8, "num_threads": 2, "precision": "fp32"},
        **{"data.root": images},
    )
    torch.set_num_threads(1)  # an earlier test may have run a command, which takes all cores
    before = process_state()
    assert before["threads"] == 1
    if in_thread:
        with ThreadPoolExecutor(1) as executor:
            folder = executor.submit(train, settings).result()
    else:
        folder = train(settings)
    assert (folder / "metrics.json").is_file()
    assert process_state() == before
