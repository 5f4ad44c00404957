"""Long trainings keep their memory, file handles, threads and processes."""

import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import Child
from small_runs import settings

from deepbloom.commands.train import train
from deepbloom.engine.state import Progress

ALLOWED_BYTES = 12 * 2**20
"""The allocator's own ups and downs; one batch of activations kept per epoch would be more in 200 epochs."""


def resources() -> tuple[int, int, int, int]:
    """Return resident bytes, open handles, threads and child processes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    handles = len(os.listdir("/proc/self/fd"))
    return pages * os.sysconf("SC_PAGE_SIZE"), handles, threading.active_count(), len(children)


def check_leaks(epochs: int, config: Any, leak: Callable[[], None]) -> None:
    """Compare the second half of a training with the end of the first: after that, nothing may grow."""
    seen = []
    honest = Progress.start_epoch

    def start_epoch(progress: Progress) -> None:
        honest(progress)
        leak()
        seen.append(resources())

    Progress.start_epoch = start_epoch
    train(config)
    half, end = seen[epochs // 2], seen[-1]
    assert len(seen) == epochs
    assert end[0] - half[0] < ALLOWED_BYTES, f"{(end[0] - half[0]) / 2**20:.1f} MB more"
    assert end[1:] == half[1:], f"handles, threads, processes: {half[1:]} became {end[1:]}"


@pytest.mark.parametrize("model", ["tiny", "tiny_partial"])
@pytest.mark.parametrize(
    ("epochs", "pixel_cache"),
    [(20, "auto"), pytest.param(200, "auto", marks=pytest.mark.long), pytest.param(200, "off", marks=pytest.mark.long)],
)
def test_training_leaks_nothing(
    epochs: int, pixel_cache: str, model: str, images: Path, tmp_path: Path, tally: Callable
) -> None:
    config = settings(images, tmp_path / "run", model, pixel_cache, epochs=epochs, num_workers=2)
    child = Child(lambda: check_leaks(epochs, config, lambda: None), tmp_path / "output")
    assert child.wait(280) == 0, child.said()[-2000:]
    tally("epochs without a leak", epochs)


@pytest.mark.parametrize("leak", ["memory", "handle", "thread"])
def test_a_leak_is_noticed(leak: str, images: Path, tmp_path: Path) -> None:
    """The control of the test above."""
    kept: list = []

    def leaking() -> None:
        if leak == "memory":
            kept.append(mmap.mmap(-1, ALLOWED_BYTES // 2))  # not from what the allocator has kept
            kept[-1].write(b"x" * (ALLOWED_BYTES // 2))
        elif leak == "handle":
            kept.append(open(os.devnull))  # noqa: SIM115
        else:
            threading.Thread(target=threading.Event().wait, daemon=True).start()

    config = settings(images, tmp_path / "run", epochs=12)
    child = Child(lambda: check_leaks(12, config, leaking), tmp_path / "output")
    assert child.wait() == 1
    assert "AssertionError" in child.said()
