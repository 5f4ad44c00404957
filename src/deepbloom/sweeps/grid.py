"""Several training runs, each in its own process: one that fails or is killed does not stop the others."""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from deepbloom import errors
from deepbloom.config.schema import flatten
from deepbloom.config.settings import RunConfig
from deepbloom.data.sources import ImageSource
from deepbloom.engine.resolve import resolve
from deepbloom.errors import ConfigError, DeepBloomError, RunError
from deepbloom.runs import folder as run_dir
from deepbloom.runs.parsing import FRACTION, Fields
from deepbloom.sweeps.job import one_line, run_in_process

log = logging.getLogger("deepbloom")

OUTCOMES = {0: "done", 2: "refused", 3: "diverged", 130: "stopped", 137: "killed", 143: "stopped"}
TELLING = ("model.arch", "model.name", "seed")
"""Keys that name a run before others do."""


@dataclass(frozen=True)
class JobResult:
    """The outcome of one job."""

    folder: Path
    exit_code: int | None = None
    """None if the job did not start or has not ended."""
    seconds: float = 0.0
    """0 if this sweep did not run the job, or lost track of it."""
    reason: str = ""
    """The error that the job ended with."""
    before: bool = False
    """Whether the run was complete before the sweep."""

    @property
    def outcome(self) -> str:
        """The outcome in one or two words."""
        if self.exit_code is None:
            return "still running" if run_dir.is_running(self.folder) else "not started"
        if self.before:
            return "done before"
        return OUTCOMES.get(self.exit_code, f"failed ({self.exit_code})")

    def describe(self) -> str:
        """Return the run's test accuracy, or the error that it ended with."""
        return f"test accuracy {read_test_accuracy(self.folder):.4f}" if self.exit_code == 0 else self.reason


class SweepError(DeepBloomError):
    """Not every job of a sweep is done.

    ``exit_code`` is 130 or 143 if the sweep was stopped, otherwise that of the first job that is not done.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Summary(NamedTuple):
    """The end of a sweep: a line for every job, and the error to end with unless all jobs are done."""

    lines: list[str]
    error: SweepError | None


def submit(configs: Sequence[RunConfig]) -> list[RunConfig]:
    """Give every job its folder, and with it a name that settings and code of this moment decide.

    Raises
    ------
    ConfigError
        Jobs with different settings would share a folder.
    """
    given: dict[str, RunConfig] = {}
    for config in configs:
        if config.output_dir and given.setdefault(config.output_dir, config) != config:
            name = "-".join(f"${{{key}}}" for key in telling_keys(configs))
            raise ConfigError(
                f"Several jobs have the output_dir {config.output_dir}. Leave it out, or give "
                f"output_dir='FOLDER/{name}'."
            )
    sources: dict[str, ImageSource] = {}
    plans = [resolve(config, sources) for config in configs]
    return [
        replace(config, output_dir=str(run_dir.claim_folder(plan.config, plan.run_id)))
        for config, plan in zip(configs, plans, strict=True)
    ]


def telling_keys(configs: Sequence[RunConfig]) -> list[str]:
    """Return keys whose values tell all different jobs apart: names and the seed first, and no more than needed."""
    settings = [flatten(asdict(replace(config, output_dir=None))) for config in configs]
    names = dict.fromkeys(key for job in settings for key in job)
    chosen: list[str] = []
    different = 1
    for key in sorted(names, key=lambda key: (key not in TELLING, not key.endswith(".name"), key)):
        kinds = len({repr([job.get(name) for name in (*chosen, key)]) for job in settings})
        if kinds > different:
            chosen, different = [*chosen, key], kinds
    return chosen


def settle(configs: Sequence[RunConfig]) -> list[JobResult | None]:
    """Return the result of every job whose run is complete already; None for those that are to be run.

    A complete run of other settings or other images is a refused job: its results are not this job's.
    """
    sources: dict[str, ImageSource] = {}
    return [_settle(config, Path(str(config.output_dir)), sources) for config in configs]


def _settle(config: RunConfig, folder: Path, sources: dict[str, ImageSource]) -> JobResult | None:
    if run_dir.read_state(folder) != "complete":
        return None
    try:
        run_dir.check_folder(folder, config, resolve(config, sources).identity)
        read_test_accuracy(folder)
    except DeepBloomError as error:
        log.error("%s", error)
        return JobResult(folder, error.exit_code, reason=one_line(error))
    return JobResult(folder, 0, before=True)


def read_test_accuracy(folder: Path) -> float:
    """Return the test accuracy of a complete run.

    Raises
    ------
    RunError
        Its results are damaged.
    """
    return float(Fields(folder / run_dir.METRICS).take("test.top1_accuracy", FRACTION))


@dataclass
class Submission:
    """The jobs of a sweep as `submit` returned them, for a launcher to carry to another process or machine.

    Working directory and ``DEEPBLOOM_CACHE`` are those of the sweep, so that paths mean the same wherever a job runs.
    """

    jobs: list[RunConfig] = field(default_factory=list)
    folder: str = field(default_factory=os.getcwd)
    cache: str = field(default_factory=lambda: os.environ.get("DEEPBLOOM_CACHE", ""))
    stopped_by: int = 0
    """The signal that this process received while a job ran: no further job starts. 0 if there was none."""

    def run(self, number: int) -> JobResult:
        """Run one job in its own process.

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
        started = time.monotonic()
        ended = run_in_process(config)
        self.stopped_by = self.stopped_by or ended.stopped_by
        return JobResult(Path(str(config.output_dir)), ended.exit_code, time.monotonic() - started, ended.reason)

    def run_in_turn(self, first: int, count: int) -> list[JobResult]:
        """Run ``count`` jobs one after the other; fewer if this process is told to stop."""
        results: list[JobResult] = []
        for number in range(first, first + count):
            results.append(self.run(number))
            if self.stopped_by:
                break
        return results


def last_start(config: RunConfig) -> tuple[int, int] | None:
    """Return a value that changes whenever a job starts in the run directory: inode and time of its config."""
    try:
        written = (Path(str(config.output_dir)) / run_dir.CONFIG).stat()
    except OSError:
        return None
    return written.st_ino, written.st_mtime_ns


def result_from_folder(config: RunConfig, start_before: tuple[int, int] | None) -> JobResult:
    """Return the outcome of a job that its launcher lost or never started, as the run directory shows it.

    If `last_start` is still ``start_before``, that before the sweep, the state is that of an earlier sweep.
    """
    folder = Path(str(config.output_dir))
    state = run_dir.read_state(folder)
    if run_dir.is_running(folder) or state == "empty" or last_start(config) == start_before:
        return JobResult(folder)
    if state == "complete":
        return JobResult(folder, 0)
    if state == "failed":
        reason = run_dir.failure_reason(folder)
        kind = getattr(errors, reason.partition(":")[0], None)
        return JobResult(folder, getattr(kind, "exit_code", 1), reason=reason)
    return JobResult(folder, 137)


def summarize(results: Sequence[JobResult], stopped_by: int = 0) -> Summary:
    """Return the outcome of every job; ``stopped_by`` is the signal that stopped the sweep, or 0."""
    width = max(len(result.outcome) for result in results)
    names = max(len(str(result.folder)) for result in results)
    lines = []
    for result in results:
        seconds = f"{result.seconds:.0f} s" if result.seconds else ""
        line = f"{result.outcome:<{width}}  {seconds:>7}  {result.folder!s:<{names}}  {result.describe()}"
        lines.append(line.rstrip())
    codes = [128 + stopped_by] if stopped_by else [result.exit_code for result in results if result.exit_code]
    left = sum(result.exit_code != 0 for result in results)
    message = f"{left} of {len(results)} jobs are not done. Re-run the same command to resume them."
    return Summary(lines, SweepError(message, codes[0] if codes else 1) if left else None)
