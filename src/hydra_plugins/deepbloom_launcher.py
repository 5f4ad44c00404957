"""Hydra plugins for ``deepbloom train -m``: jobs are fixed when they are submitted, and each has its own process.

Hydra only finds plugins in the namespace package ``hydra_plugins``.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from deepbloom.errors import ConfigError
from deepbloom.processes import safe_path
from deepbloom.signals import Stopped

if TYPE_CHECKING:
    from deepbloom.sweeps.grid import Summary

log = logging.getLogger("deepbloom")


def refuse_unread(part: str, name: str, settings: Mapping[str, object]) -> None:
    """Raise `ConfigError` if a sweeper or launcher got settings that it does not read."""
    for key in settings:
        raise ConfigError(f"Nothing reads hydra.{part}.{key} with hydra/{part}={name}: leave it out.")


class SubmittedJob:
    """The task that launchers get. It runs the job as submitted and ignores the config that they compose.

    The joblib and submitit launchers read the YAML files again when a job starts, perhaps days later.
    """

    def __init__(self) -> None:
        from deepbloom.sweeps.grid import Submission

        self.submission = Submission()

    def __call__(self, _: DictConfig) -> Any:
        return self.submission.run(HydraConfig.get().job.num)


class ProcessLauncher(Launcher):
    """Runs the jobs one after the other on this machine."""

    def __init__(self, **unread: object) -> None:
        refuse_unread("launcher", "process", unread)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.task: Any = task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        results = self.task.submission.run_in_turn(initial_job_idx, len(job_overrides))
        return [JobReturn(_return_value=result, status=JobStatus.COMPLETED) for result in results]


class SubmittingSweeper(Sweeper):
    """Composes the settings of every job before the first one starts, so that a mistake shows at once."""

    hydra_context: Any
    config: Any
    launcher: Any

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config, self.task = hydra_context, config, SubmittedJob()
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context,
            task_function=self.task,
            config=config,
        )

    def launch(self, jobs: Sequence[Sequence[str]]) -> list[Any]:
        """Run jobs, each given as its overrides, and return a `deepbloom.sweeps.grid.JobResult` for each.

        Duplicates, as in ``seed=0,0``, and complete runs are skipped.
        """
        from deepbloom.sweeps.grid import settle, submit

        configs = submit([self.compose(overrides) for overrides in jobs])
        folders = [str(config.output_dir) for config in configs]
        first_of = {folder: folders.index(folder) for folder in folders}
        for number, folder in enumerate(folders):
            if first_of[folder] != number:
                log.info("%s is given twice; it is one run: %s", " ".join(jobs[number]), folder)
        results = dict(zip(first_of, settle([configs[number] for number in first_of.values()]), strict=True))
        left = [number for folder, number in first_of.items() if results[folder] is None]
        if left:
            launched = self._launch([configs[number] for number in left], [jobs[number] for number in left])
            results |= zip((folders[number] for number in left), launched, strict=True)
        return [results[folder] for folder in folders]

    def _launch(self, configs: Sequence[Any], jobs: Sequence[Sequence[str]]) -> list[Any]:
        """Hand the jobs to the launcher; read what it does not report from the run directories.

        Raises
        ------
        ConfigError
            The launcher that the user chose, or its settings, let no job start.
        """
        from deepbloom.sweeps.grid import last_start, result_from_folder
        from deepbloom.sweeps.job import one_line

        submission = self.task.submission
        first, starts = len(submission.jobs), [last_start(config) for config in configs]
        submission.jobs += configs
        results: list[Any] = []
        try:
            with safe_path():
                for returned in self.launcher.launch(jobs, initial_job_idx=first):
                    results.append(returned.return_value)
        except Stopped as stop:
            submission.stopped_by = stop.signal_number
        except Exception as error:  # a worker was killed, or the cluster is gone
            begun = results or [last_start(config) for config in configs] != starts
            if not (begun or isinstance(error, BrokenExecutor)) and (chosen := self.launcher_settings()):
                raise ConfigError(f"No job can start with {' '.join(chosen)}: {one_line(error)}") from error
            log.error("%s: %s", type(self.launcher).__name__, error)
        lost = list(zip(configs, starts, strict=True))[len(results) :]
        return results + [result_from_folder(config, start) for config, start in lost]

    def launcher_settings(self) -> list[str]:
        """Return the overrides that choose the launcher and its settings, as they were given."""
        given = [str(override) for override in self.config.hydra.overrides.hydra]
        return [override for override in given if override.lstrip("+").startswith(("hydra/launcher", "hydra.launcher"))]

    def compose(self, overrides: Sequence[str]) -> Any:
        """Return the settings of one job."""
        from deepbloom.cli.compose import typed

        job = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(job):
            del job["hydra"]
        return typed("train", job, self.parse(list(overrides)))

    def parse(self, arguments: list[str]) -> list[Override]:
        return OverridesParser.create(config_loader=self.hydra_context.config_loader).parse_overrides(arguments)


class GridSweeper(SubmittingSweeper):
    """Runs every combination of the given values."""

    def __init__(self, **unread: object) -> None:
        refuse_unread("sweeper", "grid", unread)

    def sweep(self, arguments: list[str]) -> "Summary":
        from deepbloom.sweeps.grid import summarize

        overrides = self.parse(arguments)
        for override in overrides:
            check_values(override)
        results = self.launch(BasicSweeper.split_arguments(overrides, None)[0])
        return summarize(list(dict.fromkeys(results)), self.task.submission.stopped_by)


class OptunaSweeper(SubmittingSweeper):
    """Searches for the best validation accuracy; see `deepbloom.sweeps.search`.

    ``storage`` is the URL of the study's database; ``n_trials`` counts earlier trials too; ``n_jobs`` run at a time.
    """

    def __init__(self, storage: str, study_name: str, n_trials: int, n_jobs: int, seed: int, **unread: object) -> None:
        from deepbloom.sweeps.search import check_settings

        refuse_unread("sweeper", "optuna", unread)
        check_settings(storage, study_name, n_trials, n_jobs, seed)
        self.storage, self.study_name = storage, study_name
        self.limits = {"n_trials": n_trials, "n_jobs": n_jobs, "seed": seed}

    def sweep(self, arguments: list[str]) -> "Summary":
        from deepbloom.sweeps import search

        overrides = self.parse(arguments)
        searched = {override.get_key_element(): override for override in overrides if override.is_sweep_override()}
        fixed = [argument for argument in arguments if argument.split("=")[0] not in searched]
        if not searched:
            raise ConfigError("A search needs a range, such as 'optimizer.lr=tag(log,interval(1e-4,1e-2))'.")
        space = {key: distribution(override) for key, override in searched.items()}
        study = search.open_study(self.storage, self.study_name, sorted(arguments))

        def overrides_of(trial: Mapping[str, object]) -> list[str]:
            return [*fixed, *(f"{key}={value}" for key, value in trial.items())]

        self.check_finished(
            (overrides_of(trial.params), study.user_attrs.get(search.run_key(trial.number), ""))
            for trial in search.finished_trials(study)
        )

        def launch(trials: Sequence[Mapping[str, object]]) -> list[Any]:
            return self.launch([overrides_of(trial) for trial in trials])

        return search.search(study, space, launch, lambda: self.task.submission.stopped_by, **self.limits)

    def check_finished(self, jobs: Iterable[tuple[list[str], str]]) -> None:
        """Check that the runs of a study's finished trials, as far as they exist, used the same images.

        With other images a trial's run has another name, so that the one of then is there and the one of now is not.

        Raises
        ------
        ConfigError
            One did not, or is damaged; `deepbloom.sweeps.grid.settle` logs which.
        """
        from deepbloom.sweeps.grid import settle, submit

        known = [(config, folder) for job, folder in jobs if (config := self.compose(job)).train.resume == "auto"]
        results = settle([submit([config])[0] for config, _ in known])
        if any(
            result.exit_code if result else folder and Path(folder).exists()
            for result, (_, folder) in zip(results, known, strict=True)
        ):
            raise ConfigError(
                f"The study {self.study_name!r} in {self.storage} has a trial whose run used other images or is "
                "damaged, so new trials cannot be compared with it. Choose another hydra.sweeper.study_name."
            )


def check_values(override: Override) -> None:
    """Raise `ConfigError` if an override is a range without steps, or names no value, so that it makes no job."""
    if not override.is_sweep_override():
        return
    if not override.is_discrete_sweep():
        raise ConfigError(f"{override.input_line} is a range to search: add hydra/sweeper=optuna, or list its values.")
    try:
        names_none = next(override.sweep_string_iterator(), None) is None
    except (ValueError, HydraException) as error:
        raise ConfigError(f"{override.input_line} cannot be read: {error}.") from error
    if names_none:
        raise ConfigError(f"{override.input_line} names no value, so there is no job to run.")


def distribution(override: Override) -> Any:
    """Return Optuna's distribution for a list of choices, a ``range`` (without its end) or an ``interval``.

    Raises
    ------
    ConfigError
        It holds no value, or Optuna does not take its limits.
    """
    try:
        return _distribution(override)
    except (ValueError, OverflowError, HydraException) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ConfigError(f"{override.input_line} cannot be searched: {reason}.") from error


def _distribution(override: Override) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, IntervalSweep):
        if not (math.isfinite(value.start or 0) and math.isfinite(value.end or 0)):
            raise ValueError("its limits must be finite")
        kind: Any = IntDistribution if isinstance(value.start, int) else FloatDistribution
        return kind(value.start, value.end, log="log" in value.tags)
    check_values(override)
    if isinstance(value, RangeSweep) and all(isinstance(number, int) for number in (value.start, value.step)):
        numbers = list(value.range())
        return IntDistribution(int(numbers[0]), int(numbers[-1]), step=int(value.step), log="log" in value.tags)
    return CategoricalDistribution(list(override.sweep_string_iterator()))


PROCESS = {"_target_": f"{__name__}.ProcessLauncher"}
GRID = {"_target_": f"{__name__}.GridSweeper"}
OPTUNA = {
    "_target_": f"{__name__}.OptunaSweeper",
    "storage": "sqlite:///outputs/search.db",
    "study_name": "search",
    "n_trials": 20,
    "n_jobs": 1,
    "seed": 0,
}
for group, name, node in (("launcher", "process", PROCESS), ("sweeper", "grid", GRID), ("sweeper", "optuna", OPTUNA)):
    ConfigStore.instance().store(group=f"hydra/{group}", name=name, node=node, provider="deepbloom")
