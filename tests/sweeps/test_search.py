"""A search resumes where it was killed: the same trials, none lost, none run twice."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from deepbloom.errors import ConfigError
from deepbloom.runs import files as atomic_files
from deepbloom.runs import folder as run_dir
from deepbloom.sweeps.grid import JobResult, SweepError
from deepbloom.sweeps.search import begun_trials, open_study, search

optuna = pytest.importorskip("optuna")
SPACE = {
    "optimizer.lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
    "optimizer": optuna.distributions.CategoricalDistribution(["adamw", "sgd"]),
}


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


class Jobs:
    """Runs jobs as a launcher does, each leaving a complete run; dies when it has begun ``dies_at`` of them.

    The highest accuracy is at lr=0.01. While job ``stopped_at`` runs, the user stops the search.
    """

    def __init__(
        self, folder: Path, dies_at: int = 0, codes: Mapping[int, int] | None = None, stopped_at: int = 0
    ) -> None:
        self.folder, self.dies_at, self.codes, self.stopped_at = folder, dies_at, codes or {}, stopped_at
        self.begun: list[dict[str, object]] = []

    def __call__(self, batch: Sequence[Mapping[str, object]]) -> list[JobResult]:
        return [self._run(dict(parameters)) for parameters in batch]

    def stopped_by(self) -> int:
        return 2 if 0 < self.stopped_at <= len(self.begun) else 0

    def _run(self, parameters: dict[str, object]) -> JobResult:
        self.begun.append(parameters)
        if len(self.begun) == self.dies_at:
            raise Killed
        folder = self.folder / f"{parameters['optimizer']}-{parameters['optimizer.lr']}"
        folder.mkdir(parents=True, exist_ok=True)
        accuracy = 1 / (1 + abs(float(str(parameters["optimizer.lr"])) - 0.01))
        # A test accuracy that is best where validation is worst: the search must not look at it.
        atomic_files.write_json(
            folder / run_dir.METRICS, {"val": {"top1_accuracy": accuracy}, "test": {"top1_accuracy": 1 - accuracy}}
        )
        return JobResult(folder, self.codes.get(len(self.begun), 0), 1.0)


def trials_of(storage: str) -> list[tuple]:
    study = optuna.load_study(storage=storage, study_name="s")
    return [(trial.params, trial.value) for trial in begun_trials(study)]


def start(storage: str, jobs: Jobs, n_trials: int = 14, n_jobs: int = 1) -> None:
    summary = search(
        open_study(storage, "s", ["optimizer.lr=x"]),
        SPACE,
        jobs,
        jobs.stopped_by,
        n_trials=n_trials,
        n_jobs=n_jobs,
        seed=0,
    )
    print(*summary.lines, sep="\n")
    if summary.error:
        raise summary.error


def test_a_killed_search_goes_on_and_ends_as_one_never_killed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    killed, whole = f"sqlite:///{tmp_path / 'killed.db'}", f"sqlite:///{tmp_path / 'whole.db'}"
    first = Jobs(tmp_path, dies_at=5)
    with pytest.raises(Killed):
        start(killed, first)
    assert [value is None for _, value in trials_of(killed)] == [False] * 4 + [True]
    second = Jobs(tmp_path)
    start(killed, second)
    assert second.begun[0] == first.begun[-1], "the interrupted trial resumes with its parameters and so its folder"
    assert len(second.begun) == 14 - 4, "no trial is run twice"
    assert "best: trial" in capsys.readouterr().out
    start(whole, Jobs(tmp_path))
    assert trials_of(killed) == trials_of(whole)
    third = Jobs(tmp_path)
    start(killed, third)
    assert third.begun == []
    start(killed, third, n_trials=15)
    assert len(third.begun) == 1


def test_the_search_follows_validation_and_never_test(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    start(storage, Jobs(tmp_path))
    study = optuna.load_study(storage=storage, study_name="s")
    values = [value for _, value in trials_of(storage)]
    assert study.best_value == max(values)
    best = min((params["optimizer.lr"] for params, _ in trials_of(storage)), key=lambda lr: abs(lr - 0.01))
    assert study.best_params["optimizer.lr"] == best


def test_a_crashed_trial_stays_open_and_a_diverged_one_counts(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    jobs = Jobs(tmp_path, codes={2: 3, 3: 1})
    with pytest.raises(SweepError, match="1 of 4 trials are not done") as failure:
        start(storage, jobs, n_trials=4)
    assert failure.value.exit_code == 1
    again = Jobs(tmp_path)
    start(storage, again, n_trials=4)
    assert again.begun == [jobs.begun[2]]
    lines = capsys.readouterr().out.splitlines()[-5:]
    assert [line.split()[2] for line in lines[:4]] == ["done", "diverged", "done", "done"]


def test_a_person_who_stops_the_search_begins_no_further_trial(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, codes={2: 130}, stopped_at=2)
    with pytest.raises(SweepError) as failure:
        start(f"sqlite:///{tmp_path / 'study.db'}", jobs)
    assert failure.value.exit_code == 130
    assert len(jobs.begun) == 2


def test_a_trial_that_is_stopped_alone_stays_open_and_the_search_goes_on(tmp_path: Path) -> None:
    storage, jobs = f"sqlite:///{tmp_path / 'study.db'}", Jobs(tmp_path, codes={2: 143})
    with pytest.raises(SweepError, match="1 of 4 trials are not done") as failure:
        start(storage, jobs, n_trials=4)
    assert failure.value.exit_code == 143
    assert [value is None for _, value in trials_of(storage)] == [False, True, False, False]


def test_a_study_of_other_settings_is_not_mixed_with(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    open_study(storage, "s", ["seed=0"])
    open_study(storage, "s", ["seed=0"])
    with pytest.raises(ConfigError, match="seed=1"):
        open_study(storage, "s", ["seed=1"])


def test_a_study_of_other_code_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    open_study(storage, "s", ["seed=0"])
    monkeypatch.setattr("deepbloom.sweeps.search.RECIPE_VERSION", 99)
    with pytest.raises(ConfigError, match=r"another recipe version .*another hydra.sweeper.study_name"):
        open_study(storage, "s", ["seed=0"])


def test_a_storage_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("no database" * 100)
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_study(f"sqlite:///{tmp_path / 'study.db'}", "s", [])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.lr=interval(0.1,0.2)", optuna.distributions.FloatDistribution(0.1, 0.2)),
        ("optimizer.lr=tag(log,interval(1e-4,1e-2))", optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True)),
        ("train.epochs=int(interval(2,5))", optuna.distributions.IntDistribution(2, 5)),
        ("train.epochs=range(2,9,3)", optuna.distributions.IntDistribution(2, 8, step=3)),
        ("train.ema_decay=range(1,2,0.5)", optuna.distributions.CategoricalDistribution(["1.0", "1.5"])),
        ("model=a,b", optuna.distributions.CategoricalDistribution(["a", "b"])),
        ("train.batch_size=choice(8,16)", optuna.distributions.CategoricalDistribution(["8", "16"])),
    ],
)
def test_ranges_on_the_command_line_are_what_is_searched(override: str, expected: object) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from hydra_plugins.deepbloom_launcher import distribution

    assert distribution(OverridesParser.create().parse_override(override)) == expected


SMALL = ("model=scratch_cnn", "data.num_classes=2", "data.images_per_class=10", "hydra/sweeper=optuna")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("optimizer.lr=tag(log,interval(0,0.1))", "optimizer.lr=tag(log,interval(0,0.1)) cannot be searched"),
        ("optimizer.lr=interval(0.1,0.01)", "optimizer.lr=interval(0.1,0.01) cannot be searched"),
        ("optimizer.lr=interval(0,inf)", "its limits must be finite"),
        ("train.epochs=range(3,3)", "train.epochs=range(3,3) names no value"),
        ("train.epochs=range(1,9,0)", "train.epochs=range(1,9,0) cannot be read"),
        ("train.epochs=tag(log,range(0,9))", "cannot be searched"),
        ("hydra.sweeper.n_trials=abc", "hydra.sweeper.n_trials=abc is no whole number"),
        ("hydra.sweeper.n_trials=2.5", "hydra.sweeper.n_trials=2.5 is no whole number"),
        ("hydra.sweeper.n_trials=true", "hydra.sweeper.n_trials=True is no whole number"),
        ("hydra.sweeper.n_trials=0", "hydra.sweeper.n_trials=0 is out of range: give a number of at least 1"),
        ("hydra.sweeper.n_jobs=0", "hydra.sweeper.n_jobs=0 is out of range"),
        ("hydra.sweeper.seed=-1", "hydra.sweeper.seed=-1 is out of range"),
        ("hydra.sweeper.seed=4294967295", "hydra.sweeper.seed=4294967295 is out of range"),
        ("hydra.sweeper.storage=5", "hydra.sweeper.storage=5 is no text"),
        ("hydra.sweeper.study_name=null", "hydra.sweeper.study_name=None is no text"),
        ("hydra.sweeper.storage=sqlite:////dev/null/x.db", "hydra.sweeper.storage=sqlite:////dev/null/x.db cannot be"),
        ("+hydra.sweeper.pruner=none", "Nothing reads hydra.sweeper.pruner with hydra/sweeper=optuna"),
    ],
)
def test_a_mistake_in_a_search_is_refused_before_its_study_is_opened(
    argument: str, message: str, deepbloom: "Run", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ranges = [argument] if argument[0] in "ot" else [argument, "optimizer.lr=interval(0.1,0.2)"]
    code, _, err = deepbloom("train", "-m", *SMALL, *ranges)
    assert code == 2, err
    assert message in err
    assert list(tmp_path.iterdir()) == []


Run = Callable[..., tuple[int, str, str]]


@pytest.mark.long
def test_a_search_trains_and_a_second_start_finds_all_done_unless_the_images_changed(
    deepbloom: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = Path(shutil.copytree(images, tmp_path / "own"))
    arguments = (
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2",
        "optimizer.lr=tag(log,interval(1e-4,1e-2))",
        "model=scratch_cnn",
        "data=imagefolder",
        f"data.root={own}",
        "train.epochs=1",
        "train.batch_size=9",
    )
    code, out, err = deepbloom("train", "-m", *arguments)
    assert code == 0, err
    assert out.count("done") == 2
    assert len(list((tmp_path / "outputs").glob("*/metrics.json"))) == 2
    code, out, _ = deepbloom("train", "-m", *arguments)
    assert code == 0
    assert out.count("done before") == 2

    shutil.copy(own / "lime" / "01.png", own / "lime" / "00.png")
    code, _, err = deepbloom("train", "-m", *(*arguments, "hydra.sweeper.n_trials=3"))
    assert code == 2
    assert "has a trial whose run used other images" in err
