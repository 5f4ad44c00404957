"""One job of a sweep in its own process: the parent's side first, then the child's."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from deepbloom.config.schema import from_dict
from deepbloom.config.settings import RunConfig
from deepbloom.errors import RunError
from deepbloom.processes import module_command
from deepbloom.runs import folder as run_dir
from deepbloom.runs.identity import RECIPE_VERSION
from deepbloom.signals import handled

SECONDS_TO_LEAVE = 60.0
"""How long a job waits for a process of an earlier sweep that is saving its state in the same folder."""


class Ended(NamedTuple):
    """How a job's process ended: its exit code, its error, and the signal that this process received, or 0."""

    exit_code: int
    reason: str = ""
    stopped_by: int = 0


def run_in_process(config: RunConfig) -> Ended:
    """Train in a new process, forward SIGINT and SIGTERM to it, and wait for it."""
    child: subprocess.Popen[str] | None = None
    received: list[int] = []

    def send(number: int) -> None:
        if child is not None:
            with suppress(ValueError):  # Windows, where Ctrl-C reaches the child by itself
                child.send_signal(number)

    def forward(number: int, _: object) -> None:
        received.append(number)
        send(number)

    with tempfile.TemporaryDirectory() as folder, handled(forward):
        reason = Path(folder) / "reason"
        command = module_command("deepbloom.sweeps.job", str(RECIPE_VERSION), str(os.getpid()), str(reason))
        # In its own session, so that Ctrl-C in a terminal reaches it once, through this process.
        child = subprocess.Popen(command, stdin=subprocess.PIPE, encoding="utf-8", start_new_session=True)
        for number in received:
            send(number)
        child.communicate(json.dumps(asdict(config)))
        code = child.returncode if child.returncode >= 0 else 128 - child.returncode
        text = reason.read_text("utf-8", "replace") if reason.exists() else ""
        return Ended(code, text, received[0] if received else 0)


def run_submitted(submitted_recipe: str = "", parent: str = "", reason_file: str = "") -> None:
    """Train the run that stdin describes. A job whose sweep was killed saves its state and ends too.

    ``submitted_recipe`` is the sweep's `RECIPE_VERSION` and ``parent`` its process; an empty one is not checked. The
    error that the job ended with goes to ``reason_file``, if one is given.
    """
    try:
        _train_submitted(submitted_recipe, parent)
    except Exception as error:
        if reason_file:
            with suppress(OSError):
                Path(reason_file).write_bytes(one_line(error).encode("utf-8", "backslashreplace"))
        raise


def _train_submitted(submitted_recipe: str, parent: str) -> None:
    from deepbloom.commands.train import train

    config = from_dict(RunConfig, json.load(sys.stdin))
    if parent:
        _end_with(int(parent))
    if submitted_recipe and submitted_recipe != str(RECIPE_VERSION):
        raise RunError(
            f"DeepBloom was updated since this sweep was started (recipe version {submitted_recipe}, now "
            f"{RECIPE_VERSION}). Start it again, so that all its jobs are comparable."
        )
    folder = Path(str(config.output_dir))
    if folder.is_dir():
        with run_dir.exclusive(folder, SECONDS_TO_LEAVE):
            pass
    train(config)


def one_line(error: Exception) -> str:
    """Return the error's class and message in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _end_with(parent: int) -> None:
    """Ask the kernel for a SIGTERM when the parent process ends, however it ends (Linux only)."""
    if sys.platform != "linux":
        return
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
    if os.getppid() != parent:  # it has already ended
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    from deepbloom.exit_codes import guarded

    sys.exit(guarded(lambda: run_submitted(*sys.argv[1:])))
