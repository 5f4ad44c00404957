"""Hyperparameter search with Optuna. The study is stored, so re-running the same command resumes it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Union

from deepbloom.config.schema import check_range
from deepbloom.errors import ConfigError, require_package
from deepbloom.runs import folder as run_dir
from deepbloom.runs.identity import RECIPE_VERSION
from deepbloom.runs.parsing import FRACTION, Fields
from deepbloom.sweeps.grid import JobResult, Summary, SweepError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial
    from optuna.trial import Trial as OptunaTrial

DIVERGED = 3
Trial = Union["OptunaTrial", "FrozenTrial"]
Launch = Callable[[Sequence[Mapping[str, object]]], list[JobResult]]
"""Runs a job for each set of parameters."""
SEEDS = 2**32
"""Seeds of numpy's generator, from 0: the samplers of a study take one for each trial."""


def check_settings(storage: object, study_name: object, n_trials: object, n_jobs: object, seed: object) -> None:
    """Check the settings of a search as they were given.

    Raises
    ------
    ConfigError
        Optuna is not installed, or a setting has the wrong type or is out of range.
    """
    require_package("optuna", "hydra/sweeper=optuna")
    for name, text in (("storage", storage), ("study_name", study_name)):
        if not isinstance(text, str) or not text:
            raise ConfigError(f"hydra.sweeper.{name}={text} is no text: for a number write \"'{text}'\".")
    for name, value, low in (("n_trials", n_trials, 1), ("n_jobs", n_jobs, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"hydra.sweeper.{name}={value} is no whole number.")
        high = SEEDS - int(str(n_trials)) if name == "seed" else SEEDS - 1
        check_range(f"hydra.sweeper.{name}", value, low, high)


def open_study(storage: str, name: str, settings: Sequence[str]) -> "Study":
    """Return the study of this name, a new one where there is none.

    Parameters
    ----------
    storage : str
        A database's URL, such as ``sqlite:///outputs/search.db``.
    name : str
    settings : sequence of str
        What was asked for: fixed settings and the ranges that are searched.

    Raises
    ------
    ConfigError
        The storage cannot be opened, or the study was begun with other settings or by other code.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if storage.startswith("sqlite:///"):
            Path(storage.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    except Exception as error:  # whatever its database layer raises
        raise ConfigError(
            f"hydra.sweeper.storage={storage} cannot be opened: {str(error).splitlines()[0]}. "
            "Give one such as sqlite:///outputs/search.db."
        ) from error
    begun_with = study.user_attrs.setdefault("settings", list(settings))
    if begun_with != list(settings):
        changed = sorted(set(begun_with) ^ set(settings))
        raise ConfigError(
            f"The study {name!r} in {storage} was begun with other settings (differing: {', '.join(changed)}). "
            "For a new one give another hydra.sweeper.study_name."
        )
    begun_by = study.user_attrs.get("recipe_version")
    if begun_by not in (None, RECIPE_VERSION):
        raise ConfigError(
            f"The study {name!r} in {storage} was started with another recipe version of DeepBloom ({begun_by}, now "
            f"{RECIPE_VERSION}): their accuracies cannot be compared. Give another hydra.sweeper.study_name."
        )
    study.set_user_attr("settings", list(settings))
    study.set_user_attr("recipe_version", RECIPE_VERSION)
    return study


def search(
    study: "Study",
    space: Mapping[str, "BaseDistribution"],
    launch: Launch,
    stopped_by: Callable[[], int],
    n_trials: int,
    n_jobs: int,
    seed: int,
) -> Summary:
    """Run trials until the study has ``n_trials``, and return the outcome of each.

    The objective is the best validation accuracy; the test split has no influence. Interrupted trials come first: the
    study holds their parameters, so their runs resume from their directories. A diverged trial counts; one that failed
    in any other way stays open, and re-running the same command resumes it. ``stopped_by`` returns the signal that
    stopped the search, or 0; after a signal, no further trial starts.
    """
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if trial.params.keys() != space.keys():  # killed while it was suggested: nothing to resume
            study.tell(trial.number, state=TrialState.FAIL)
    open_trials: list[Trial] = list(study.get_trials(states=(TrialState.RUNNING,)))
    results: dict[int, JobResult] = {}
    while True:
        batch, open_trials = open_trials[:n_jobs], open_trials[n_jobs:]
        while len(batch) < n_jobs and (begun := len(begun_trials(study))) < n_trials:
            # Seeded by the trial's number, so that a resumed study makes the same suggestions.
            study.sampler = TPESampler(seed=seed + begun)
            batch.append(study.ask(dict(space)))
        if not batch:
            break
        results |= _run_batch(study, batch, launch)
        if stopped_by():
            break
    lines = _lines(study, results)
    error = _error(study, results, n_trials, stopped_by())
    if error is None:
        best = study.best_trial
        lines.append(f"best: trial {best.number}, validation accuracy {best.value:.4f}: {_overrides(best.params)}")
    return Summary(lines, error)


def begun_trials(study: "Study") -> "list[FrozenTrial]":
    """Return the trials that have parameters; a killed process may leave one without."""
    return [trial for trial in study.get_trials() if trial.params]


def finished_trials(study: "Study") -> "list[FrozenTrial]":
    """Return the trials that have an accuracy."""
    from optuna.trial import TrialState

    return study.get_trials(states=(TrialState.COMPLETE,))


def _run_batch(study: "Study", batch: "Sequence[Trial]", launch: Launch) -> dict[int, JobResult]:
    """Run the trials and report to the study; trials with equal parameters are one run."""
    from optuna.trial import TrialState

    distinct = {_overrides(trial.params): trial.params for trial in batch}
    by_parameters = dict(zip(distinct, launch(list(distinct.values())), strict=True))
    results = {trial.number: by_parameters[_overrides(trial.params)] for trial in batch}
    for number, result in results.items():
        if result.exit_code == 0:
            study.set_user_attr(run_key(number), str(result.folder))
            study.tell(number, validation_accuracy(result.folder))
        elif result.exit_code == DIVERGED:
            study.tell(number, state=TrialState.FAIL)
    return results


def run_key(number: int) -> str:
    """Return the user attribute of a study that names the run directory of a finished trial."""
    return f"run of trial {number}"


def validation_accuracy(folder: Path) -> float:
    """Return the best validation accuracy of a complete run."""
    return float(Fields(folder / run_dir.METRICS).take("val.top1_accuracy", FRACTION))


def _lines(study: "Study", results: Mapping[int, JobResult]) -> list[str]:
    from optuna.trial import TrialState

    before = {TrialState.COMPLETE: "done before", TrialState.FAIL: "diverged", TrialState.RUNNING: "not done"}
    lines = []
    for trial in begun_trials(study):
        result = results.get(trial.number)
        outcome, folder = (result.outcome, result.folder) if result else (before[trial.state], "")
        value = "" if trial.value is None else f"{trial.value:.4f}"
        reason = result.reason if result else ""
        line = f"trial {trial.number:<4} {outcome:<11}  {value:<6}  {_overrides(trial.params)}  {folder}  {reason}"
        lines.append(line.rstrip())
    return lines


def _error(study: "Study", results: Mapping[int, JobResult], n_trials: int, stopped_by: int) -> SweepError | None:
    """Return the error to end with unless all trials are done and one has an accuracy."""
    trials = begun_trials(study)
    left = n_trials - sum(trial.state.is_finished() for trial in trials)
    if left > 0:
        failed = [result.exit_code for result in results.values() if result.exit_code not in (0, DIVERGED, None)]
        message = f"{left} of {n_trials} trials are not done. Re-run the same command to resume them."
        return SweepError(message, 128 + stopped_by if stopped_by else (failed or [1])[0] or 1)
    if not finished_trials(study):
        return SweepError(f"All {len(trials)} trials diverged. Search smaller values of optimizer.lr.", DIVERGED)
    return None


def _overrides(parameters: Mapping[str, object]) -> str:
    return " ".join(f"{key}={value}" for key, value in parameters.items())
