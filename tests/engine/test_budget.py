"""A time budget becomes a number of epochs, once, and the run is that of those epochs."""

from pathlib import Path
from typing import Any

import pytest

from deepbloom import recipe
from deepbloom.config.settings import RunConfig
from deepbloom.data.resolution import CopySchedule
from deepbloom.engine import budget
from deepbloom.engine.budget import Speed, epochs_within
from deepbloom.engine.resolve import resolve
from deepbloom.errors import ConfigError

SPEED = Speed(features={128: 0.01, 192: 0.02, 224: 0.03}, step={128: 0.1, 192: 0.2}, validation=0.05, test=0.5)
COUNTS = (100, 10, 20)


def growing(epochs: int) -> CopySchedule:
    return CopySchedule(epochs, (128, 192)[-epochs:], copies=1)


@pytest.mark.parametrize(
    ("epochs", "cached", "seconds"),
    [
        # features of both copies and of validation 1 + 2 + 0.3; steps 10, 20, 20; validation 0.5 each; test 10
        (3, True, 3.3 + 50 + 1.5 + 10),
        # features of every epoch 1 + 2 + 2 and of every validation 0.3
        (3, False, 5.9 + 50 + 1.5 + 10),
        (1, True, 2.3 + 20 + 0.5 + 10),
    ],
)
def test_a_run_costs_its_parts(epochs: int, cached: bool, seconds: float) -> None:
    assert SPEED.run_seconds(growing(epochs), cached, COUNTS) == pytest.approx(seconds)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("schedule", [CopySchedule(7, (128, 192), 2), CopySchedule(11, (192,), 4), growing(2)])
def test_a_run_costs_what_its_epochs_and_copies_cost_one_by_one(schedule: CopySchedule, cached: bool) -> None:
    train, val, test = COUNTS
    copies = [schedule.copy(epoch) for epoch in range(1, schedule.epochs + 1)]
    prepared = schedule.shown() if cached else copies
    seconds = train * sum(SPEED.features[copy.resolution] for copy in prepared)
    seconds += train * sum(SPEED.step[copy.resolution] for copy in copies)
    seconds += val * (SPEED.features[224] * (1 if cached else len(copies)) + SPEED.validation * len(copies))
    assert SPEED.run_seconds(schedule, cached, COUNTS) == pytest.approx(seconds + test * SPEED.test)


def test_thousands_of_epochs_of_a_small_network_are_counted() -> None:
    quick = Speed({224: 1e-3}, {224: 2e-5}, 1e-5, 1e-3)
    found = epochs_within(3, quick, (600, 60, 100), lambda epochs: CopySchedule(epochs, (224,), min(4, epochs)), True)
    assert found == 14082  # (180 - 4 * 600 * 0.001 - 60 * 0.001 - 100 * 0.001) / (600 * 0.00002 + 60 * 0.00001)


@pytest.mark.parametrize("minutes", [0.6, 1.0, 2.0, 60.0])
@pytest.mark.parametrize("cached", [False, True])
def test_one_more_epoch_would_not_fit(minutes: float, cached: bool) -> None:
    epochs = epochs_within(minutes, SPEED, COUNTS, growing, cached)
    assert SPEED.run_seconds(growing(epochs), cached, COUNTS) <= 60 * minutes
    assert SPEED.run_seconds(growing(epochs + 1), cached, COUNTS) > 60 * minutes


def test_too_little_time_for_one_epoch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.minutes=0\.5: one epoch takes about 0\.55 minutes"):
        epochs_within(0.5, SPEED, COUNTS, growing, cached=True)  # 32.8 s


def settings(images: Path, **train: Any) -> RunConfig:
    data = {"name": "imagefolder", "root": str(images)}
    return recipe("resnet18_partial", model={"weights": "none"}, data=data, train={"batch_size": 8, **train})


def test_the_run_is_that_of_its_epochs(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = resolve(settings(images, minutes=2))
    epochs = plan.config.train.epochs
    assert plan.run_id == resolve(settings(images, epochs=epochs)).run_id
    assert any(f"train.minutes=2 gives {epochs} epochs" in note for note in plan.notes)

    monkeypatch.setattr(budget, "_measure", lambda plan: pytest.fail("the speed is measured again"))
    assert resolve(settings(images, minutes=2)).run_id == plan.run_id
    assert resolve(settings(images, minutes=4)).config.train.epochs > epochs


def test_a_damaged_measurement_is_made_again(images: Path) -> None:
    resolve(settings(images, minutes=2))
    for path in (budget.cache_folder() / "speed").iterdir():
        path.write_text("{", "utf-8")
    assert resolve(settings(images, minutes=2)).config.train.epochs >= 1


@pytest.mark.parametrize("wrong", [{"minutes": 2, "epochs": 3}, {"minutes": -1}, {"minutes": 1e-6}])
def test_wrong_budgets_are_refused(images: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"train\.(minutes|epochs)"):
        resolve(settings(images, **wrong))


@pytest.mark.parametrize("name", ["probe", "compile"])
def test_what_the_budget_does_not_count_is_refused(images: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"does not count the time of train.{name}"):
        settings(images, minutes=2, **{name: True})


def test_copies_are_compared_with_the_epochs_that_the_budget_gives(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "remembered_speed", lambda plan: Speed({192: 0.0, 224: 0.0}, {192: 1.0}, 0.0, 0.0))
    train = len(resolve(settings(images)).split.train)
    plan = resolve(settings(images, minutes=3.5 * train / 60, feature_copies=3))
    assert (plan.config.train.epochs, plan.schedule.copies) == (3, 3)
    with pytest.raises(ConfigError, match=r"train\.feature_copies=4 is more than 3 epochs can show"):
        resolve(settings(images, minutes=3.5 * train / 60, feature_copies=4))


def test_a_cache_folder_that_cannot_be_written_costs_a_measurement(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DEEPBLOOM_CACHE", str(tmp_path / "file"))
    assert resolve(settings(images, minutes=2)).config.train.epochs >= 1
    assert "Set DEEPBLOOM_CACHE" in caplog.text
