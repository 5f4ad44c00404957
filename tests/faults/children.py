"""Work in forked children, and faults planted at counted places: a signal, or an error of the disk."""

import errno
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from deepbloom.cli import main as cli
from deepbloom.engine import train as loop
from deepbloom.runs import files as atomic_files

Fault = Callable[[], None]


class Child:
    """A fork of this process that does ``work`` and leaves with the exit code of the command line.

    A fork has its libraries imported already, so that a hundred cost seconds. ``output`` gets stdout and stderr.
    """

    def __init__(self, work: Callable[[], object], output: Path) -> None:
        self.output = output
        self.pid = os.fork()
        if self.pid == 0:
            self._run(work)

    def _run(self, work: Callable[[], object]) -> None:
        code = 1
        try:
            os.setsid()
            file = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1, errors="backslashreplace")
            torch.set_num_threads(1)
            torch.set_num_threads = lambda _: None  # the threads of libgomp do not survive a fork: more would wait
            code = cli.guarded(work)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def wait(self, seconds: float = 150) -> int:
        """Return the exit code, or minus the signal that ended it; nothing of its session may be left."""
        deadline = time.monotonic() + seconds
        while True:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                break
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"still at work after {seconds} s: {self.said()}")
            time.sleep(0.002)
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return os.waitstatus_to_exitcode(status)
        raise AssertionError("a process was left behind")

    def said(self) -> str:
        return self.output.read_text(errors="replace")


def kill() -> None:
    """End this process as a power cut does."""
    os.kill(os.getpid(), signal.SIGKILL)


def full_disk() -> None:
    """Fail as a write does on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def counted(fault: Fault, number: int) -> tuple[Fault, list[int]]:
    """Return a function that does ``fault`` at its ``number``-th call (from 1), and the count of its calls."""
    calls = [0]

    def call() -> None:
        calls[0] += 1
        if calls[0] == number:
            fault()

    return call, calls


@contextmanager
def at_step(fault: Fault, number: int) -> Iterator[list[int]]:
    """Have the fault just before the weights change for the ``number``-th time."""
    call, calls = counted(fault, number)
    hook = register_optimizer_step_pre_hook(lambda *_: call())
    try:
        yield calls
    finally:
        hook.remove()


@contextmanager
def at_validation(fault: Fault, number: int) -> Iterator[list[int]]:
    """Have the fault within the ``number``-th validation."""
    call, calls = counted(fault, number)
    honest = loop.predict_logits

    def predict(network: Any, batches: Any, *arguments: Any) -> Any:
        def faulty() -> Iterator[Any]:
            for batch in batches:
                yield batch
                call()

        return honest(network, faulty(), *arguments)

    loop.predict_logits = predict
    try:
        yield calls
    finally:
        loop.predict_logits = honest


class _Torn:
    """A file of which only half of what is written arrives where the fault comes in the middle."""

    def __init__(self, file: Any, call: Fault) -> None:
        self.file, self.call = file, call

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        self.call()
        self.file.write(content[len(content) // 2 :])

    def __enter__(self) -> "_Torn":
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@contextmanager
def at_write(fault: Fault, number: int) -> Iterator[list[int]]:
    """Have the fault at the ``number``-th step of writing files: opening, half way, syncing, renaming.

    Counts over all files that `atomic_files.write_bytes` writes.
    """
    call, calls = counted(fault, number)
    honest = {name: getattr(os, name) for name in ("fsync", "replace")}

    def opened(path: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if mode != "wb":
            return open(path, mode, *rest, **named)
        call()
        return _Torn(open(path, mode, *rest, **named), call)

    def before(name: str) -> Callable[..., Any]:
        def work(*arguments: Any) -> Any:
            call()
            return honest[name](*arguments)

        return work

    atomic_files.open = opened  # type: ignore[attr-defined]
    for name in honest:
        setattr(os, name, before(name))
    try:
        yield calls
    finally:
        del atomic_files.open  # type: ignore[attr-defined]
        for name, function in honest.items():
            setattr(os, name, function)


PLACES = {"step": at_step, "validation": at_validation, "save": at_write}
