"""Several training runs, each in a process of its own: one that fails or is killed does not stop the others."""

import json
import logging
import subprocess
import sys
import time
from dataclasses import asdict

from deepbloom import run_dir
from deepbloom.config import RunConfig, from_dict
from deepbloom.errors import DeepBloomError

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
    exit_codes, rows = [], []
    for number, config in enumerate(configs, start=1):
        name = config.output_dir or str(run_dir.default_folder(config))
        log.info("job %d of %d: %s", number, len(configs), name)
        started = time.monotonic()
        finished = subprocess.run(
            [sys.executable, "-m", "deepbloom.commands.sweep"], input=json.dumps(asdict(config)), text=True
        )
        code = finished.returncode if finished.returncode >= 0 else 128 - finished.returncode
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


def _outcome(code: int) -> str:
    known = {0: "done", 2: "refused", 3: "diverged", 130: "stopped", 137: "killed", 143: "stopped"}
    return known.get(code, f"failed ({code})")


def _run_one() -> int:
    from deepbloom.cli import guarded
    from deepbloom.commands.train import train

    return guarded(lambda: train(from_dict(RunConfig, json.load(sys.stdin))))


if __name__ == "__main__":
    sys.exit(_run_one())
