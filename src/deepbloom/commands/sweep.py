"""Several training runs, each in a process of its own: one that fails or is killed does not stop the others."""

import json
import logging
import signal
import subprocess
import sys
import time
from dataclasses import asdict

from deepbloom import run_dir
from deepbloom.config import RunConfig, from_dict
from deepbloom.errors import ConfigError, DeepBloomError

log = logging.getLogger("deepbloom")


class SweepError(DeepBloomError):
    """Not every job of a sweep was done.

    Parameters
    ----------
    message : str
    exit_code : int
        That of the first job that was not done.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run_jobs(configs: list[RunConfig]) -> None:
    """Run the jobs in turn and print a table of what became of them.

    Each process gets its whole config through a pipe, so that editing a file changes no job that is waiting.

    Raises
    ------
    SweepError
        At least one job was not done.
    """
    folders = [config.output_dir for config in configs if config.output_dir]
    if len(set(folders)) < len(folders):
        raise ConfigError(
            "Several jobs have the same output_dir. Leave it out, or use output_dir='FOLDER/${model.name}'."
        )
    exit_codes, rows = [], []
    for number, config in enumerate(configs, start=1):
        name = config.output_dir or str(run_dir.default_folder(config))
        log.info("job %d of %d: %s", number, len(configs), name)
        started = time.monotonic()
        code = _run_in_process(config)
        exit_codes.append(code)
        rows.append((_outcome(code), f"{time.monotonic() - started:.0f} s", name))
        if code in (130, 143):  # stopped by the person: the rest is not wanted either
            break
    width = max(len(outcome) for outcome, _, _ in rows)
    print("\n".join(f"{outcome:<{width}}  {seconds:>8}  {name}" for outcome, seconds, name in rows))
    bad = [code for code in exit_codes if code != 0]
    if bad:
        left = len(configs) - exit_codes.count(0)
        raise SweepError(
            f"{left} of {len(configs)} jobs are not done. The same command goes on with them and leaves the others.",
            bad[0],
        )


def _run_in_process(config: RunConfig) -> int:
    """Train in a new process and return its exit code; SIGINT and SIGTERM are handed on to it, and it is waited for."""
    command = [sys.executable, "-m", "deepbloom.commands.sweep"]
    child: subprocess.Popen | None = None
    early: list[int] = []

    def hand_on(number: int, _: object) -> None:
        if child is None:
            early.append(number)
        else:
            child.send_signal(number)

    previous = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # In a session of its own, so that Ctrl-C in a terminal reaches it once, through this process.
        child = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
        for number in early:
            child.send_signal(number)
        child.communicate(json.dumps(asdict(config)))
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _outcome(code: int) -> str:
    known = {0: "done", 2: "refused", 3: "diverged", 130: "stopped", 137: "killed", 143: "stopped"}
    return known.get(code, f"failed ({code})")


def _run_one() -> int:
    from deepbloom.cli import guarded
    from deepbloom.commands.train import train

    return guarded(lambda: train(from_dict(RunConfig, json.load(sys.stdin))))


if __name__ == "__main__":
    sys.exit(_run_one())
