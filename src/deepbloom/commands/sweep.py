"""Several training runs, each in a process of its own: one that fails or is killed does not stop the others."""

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from deepbloom import run_dir
from deepbloom.config import RunConfig, from_dict
from deepbloom.errors import ConfigError, DeepBloomError, RunError
from deepbloom.provenance import code_version

log = logging.getLogger("deepbloom")

OUTCOMES = {0: "done", 2: "refused", 3: "diverged", 130: "stopped", 137: "killed", 143: "stopped"}
SECONDS_TO_LEAVE = 60.0
"""How long a job waits for a process of an earlier sweep that is saving its state in the same folder."""


@dataclass(frozen=True)
class JobResult:
    """What became of one job.

    Attributes
    ----------
    folder : Path
    exit_code : int or None
        None: it was not started.
    seconds : float
        0 where the run was complete before.
    """

    folder: Path
    exit_code: int | None = None
    seconds: float = 0.0

    @property
    def outcome(self) -> str:
        """In one or two words."""
        if self.exit_code is None:
            return "still running" if self.folder.is_dir() and run_dir.is_running(self.folder) else "not started"
        if self.exit_code == 0 and self.seconds == 0:
            return "done before"
        return OUTCOMES.get(self.exit_code, f"failed ({self.exit_code})")

    def describe(self) -> str:
        """Return the run's test accuracy, or one line that says why there is none."""
        if self.exit_code == 0:
            scores = json.loads((self.folder / run_dir.METRICS).read_text())
            return f"test accuracy {scores['test']['top1_accuracy']:.4f}"
        return run_dir.failure_reason(self.folder) if self.exit_code else ""


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


def submit(configs: Sequence[RunConfig]) -> list[RunConfig]:
    """Give every job its folder, and with it a name that settings and code of this moment decide.

    Raises
    ------
    ConfigError
        Jobs with different settings would share a folder.
    """
    given = [config.output_dir for config in configs if config.output_dir]
    if len(set(given)) < len(given):
        raise ConfigError(
            "Several jobs have the same output_dir. Leave it out, or use output_dir='FOLDER/${model.name}'."
        )
    return [replace(config, output_dir=str(run_dir.claim_folder(config))) for config in configs]


def run_jobs(configs: Sequence[RunConfig]) -> None:
    """Run the jobs in turn and print a table of what became of them.

    Raises
    ------
    SweepError
        At least one job was not done.
    """
    submission = Submission(submit(configs))
    results = submission.run_in_turn(0, len(configs))
    conclude(results + [JobResult(Path(str(config.output_dir))) for config in submission.jobs[len(results) :]])


@dataclass
class Submission:
    """The jobs of a sweep as they were submitted, for a launcher to carry to another process or machine.

    Attributes
    ----------
    jobs : list of RunConfig
        What `submit` returned.
    folder, cache : str
        Where the command was given, and its ``DEEPBLOOM_CACHE``: paths mean the same wherever a job runs.
    """

    jobs: list[RunConfig] = field(default_factory=list)
    folder: str = field(default_factory=os.getcwd)
    cache: str = field(default_factory=lambda: os.environ.get("DEEPBLOOM_CACHE", ""))

    def run(self, number: int) -> JobResult:
        """Run one job in a process of its own.

        Raises
        ------
        RunError
            The folder of the submission is not on this machine.
        """
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise RunError(
                f"{self.folder}, where the sweep was started, is not on this machine: {error.strerror}. "
                "Start it in a folder that all machines share."
            ) from error
        if self.cache:
            os.environ["DEEPBLOOM_CACHE"] = self.cache
        config = self.jobs[number]
        log.info("job %d of %d: %s", number + 1, len(self.jobs), config.output_dir)
        return run_job(config)

    def run_in_turn(self, first: int, count: int) -> list[JobResult]:
        """Run ``count`` jobs; fewer where a person stops one, for then the rest is not wanted either."""
        results: list[JobResult] = []
        for number in range(first, first + count):
            results.append(self.run(number))
            if results[-1].exit_code in (130, 143):
                break
        return results


def result_from_folder(config: RunConfig, seconds: float) -> JobResult:
    """Return what the run's folder says of a job that its launcher has lost."""
    folder = Path(str(config.output_dir))
    state = run_dir.read_state(folder)
    if state == "empty" or run_dir.is_running(folder):
        return JobResult(folder)
    return JobResult(folder, {"complete": 0, "failed": 1}.get(state, 137), seconds)


def run_job(config: RunConfig) -> JobResult:
    """Train in a process of its own, unless the run is complete already, and wait for it."""
    folder, started = Path(str(config.output_dir)), time.monotonic()
    try:
        if run_dir.read_state(folder) == "complete" and run_dir.check_folder(folder, config) == "complete":
            return JobResult(folder, 0)
    except RunError:
        pass  # the job itself says what is wrong
    code = _run_in_process(config)
    return JobResult(folder, code, time.monotonic() - started)


def conclude(results: Sequence[JobResult]) -> None:
    """Print what became of every job.

    Raises
    ------
    SweepError
        At least one was not done.
    """
    width = max(len(result.outcome) for result in results)
    names = max(len(str(result.folder)) for result in results)
    for result in results:
        seconds = f"{result.seconds:.0f} s" if result.seconds else ""
        print(f"{result.outcome:<{width}}  {seconds:>7}  {result.folder!s:<{names}}  {result.describe()}".rstrip())
    bad = [result.exit_code for result in results if result.exit_code]
    left = sum(result.exit_code != 0 for result in results)
    if left:
        raise SweepError(
            f"{left} of {len(results)} jobs are not done. The same command goes on with them and leaves the others.",
            bad[0] if bad else 1,
        )


def _run_in_process(config: RunConfig) -> int:
    """Train in a new process and return its exit code; SIGINT and SIGTERM are handed on to it, and it is waited for."""
    command = [sys.executable, "-m", "deepbloom.commands.sweep", code_version(), str(os.getpid())]
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


def _run_one(submitted_code: str = "", parent: str = "") -> None:
    """Train what stands in stdin. A job whose sweep was killed saves its state and leaves too.

    Parameters
    ----------
    submitted_code : str
        `code_version` of the sweep, and
    parent : str
        its process; nothing of each is checked where it is empty.
    """
    from deepbloom.commands.train import train

    config = from_dict(RunConfig, json.load(sys.stdin))
    if parent:
        _end_with(int(parent))
    if submitted_code and code_version() != submitted_code:
        raise RunError(
            f"DeepBloom's code has changed since this sweep was started ({submitted_code}, now {code_version()}). "
            "Start it again, so that all its jobs are of one code."
        )
    folder = run_dir.claim_folder(config)
    if folder.is_dir():
        with run_dir.exclusive(folder, SECONDS_TO_LEAVE):
            pass
    train(replace(config, output_dir=str(folder)))


def _end_with(parent: int) -> None:
    """Ask the system for a SIGTERM when the parent process ends, however it ends (Linux only)."""
    if sys.platform != "linux":
        return
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    from deepbloom.cli import guarded

    sys.exit(guarded(lambda: _run_one(*sys.argv[1:])))
