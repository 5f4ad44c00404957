"""Which epoch is kept: curves worked out by hand."""

import math
from itertools import pairwise

import pytest

from deepbloom.engine.best_epoch import Choice, choose_epoch, standard_error


def choose(count: int, *accuracies: float) -> Choice:
    return choose_epoch([{"epoch": n, "val_accuracy": value} for n, value in enumerate(accuracies, 1)], count)


def best(count: int, *accuracies: float) -> int:
    return int(choose(count, *accuracies).best["epoch"])


def test_one_image_of_72_does_not_choose() -> None:
    """Epoch 1 of 4 is correct on 68 of 72 images, the others on 67."""
    assert best(72, 68 / 72, 67 / 72, 67 / 72, 67 / 72) == 4


def test_a_difference_beyond_the_noise_chooses() -> None:
    """The same shares of 10,000 images are no chance."""
    assert best(10_000, 68 / 72, 67 / 72, 67 / 72, 67 / 72) == 1


@pytest.mark.parametrize(
    ("accuracies", "kept"),
    [
        ((0.5, 0.8, 0.9), 3),  # learning
        ((0.9, 0.8), 1),  # what is lost is not noise
        ((0.9, 0.8, 0.88, 0.7), 3),
        ((0.5, 0.9, 0.9), 3),  # the later of equals
        ((0.0, 0.0), 2),
        ((1.0, 0.99, 0.9), 2),
        ((0.7,), 1),
    ],
)
def test_the_latest_epoch_within_the_noise_is_kept(accuracies: tuple[float, ...], kept: int) -> None:
    assert best(100, *accuracies) == kept


def test_accuracy_cannot_slip_away_step_by_step() -> None:
    """Each epoch is within the noise of the one before, but only one is within that of the first."""
    assert standard_error(0.9, 100) == pytest.approx(math.sqrt(92 / 104 * 12 / 104 / 104))  # 0.0313
    assert best(100, *(0.90 - 0.02 * n for n in range(8))) == 2


def test_the_choice_tells_its_uncertainty() -> None:
    choice = choose(96, 0.5, 0.75, 0.74, 0.72, 0.6)
    assert choice.standard_error == pytest.approx(math.sqrt(0.74 * 0.26 / 100))  # 72 of 96 and 2 of 4: 74 of 100
    assert choice.within == (2, 3, 4)  # from 0.706
    assert str(choice) == (
        "epoch 4 is kept: validation accuracy 0.7200; the highest, 0.7500 in epoch 2, has a standard error of 0.0439, "
        "and 3 epochs lie within it"
    )


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_an_accuracy_of_zero_or_one_is_uncertain_too(accuracy: float) -> None:
    assert 0 < standard_error(accuracy, 1000) < standard_error(accuracy, 10)


def test_a_run_keeps_the_weights_that_it_will_choose() -> None:
    """Only one epoch's weights are kept, so a choice is the one before or the epoch that has just ended."""
    accuracies = [0.80, 0.86, 0.84, 0.93, 0.92, 0.85, 0.90]
    kept = [best(100, *accuracies[: n + 1]) for n in range(len(accuracies))]
    assert kept == [1, 2, 3, 4, 5, 5, 5]
    assert all(now in (before, n) for n, (before, now) in enumerate(pairwise(kept), 2))
