"""Which view an epoch shows, and how large: by hand."""

import pytest

from deepbloom.config.settings import AugmentConfig
from deepbloom.data.resolution import AugmentedCopy, CopySchedule, train_resolutions
from deepbloom.errors import ConfigError


@pytest.mark.parametrize(
    ("first", "last", "full", "epochs", "sides"),
    [
        (0, 1, 224, 20, (224,)),
        (1, 1, 224, 20, (224,)),
        (0, 0.86, 224, 20, (192,)),  # 192.64, to a multiple of 16
        (0.6, 1, 224, 20, (128, 176, 224)),  # 134.4 and 179.2
        (0.5, 1, 260, 3, (128, 192, 260)),  # the full side is what the network asks for, whatever it is
        (0.6, 1, 224, 2, (176, 224)),  # no more sides than epochs
        (0.6, 1, 224, 1, (224,)),
        (0.8, 0.86, 224, 20, (176, 192)),  # 179.2, 185.92 and 192.64
        (0.5, 0.86, 224, 20, (112, 160, 192)),  # 152.32 in the middle
        (0.6, 1, 16, 20, (16,)),
        (0.5, 1, 8, 20, (8,)),  # never more than the full side
    ],
)
def test_sides_grow_in_equal_steps(first: float, last: float, full: int, epochs: int, sides: tuple[int, ...]) -> None:
    assert train_resolutions(AugmentConfig({}, first_resolution=first, train_resolution=last), full, epochs) == sides


@pytest.mark.parametrize(
    ("first", "last", "key"),
    [
        (0.4, 1, "first_resolution"),
        (0.9, 0.8, "first_resolution"),
        (0, 1.1, "train_resolution"),
        (0, 0, "train_resolution"),
    ],
)
def test_a_share_out_of_range_is_refused(first: float, last: float, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"augment\.{key}"):
        AugmentConfig({}, first_resolution=first, train_resolution=last)


@pytest.mark.parametrize(
    ("epochs", "stages"),
    [
        (3, [0, 1, 2]),
        (4, [0, 1, 2, 2]),
        (10, [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]),
    ],
)
def test_the_parts_of_a_run_are_as_equal_as_whole_epochs_allow(epochs: int, stages: list[int]) -> None:
    schedule = CopySchedule(epochs, (8, 12, 16))
    assert [schedule.stage(epoch) for epoch in range(1, epochs + 1)] == stages
    assert schedule.epochs_per_stage == [stages.count(stage) for stage in (0, 1, 2)]


def test_every_epoch_draws_a_new_view_unless_views_repeat() -> None:
    drawn = [CopySchedule(4, (8, 16)).copy(epoch) for epoch in (1, 2, 3, 4)]
    assert drawn == [AugmentedCopy(0, 8), AugmentedCopy(1, 8), AugmentedCopy(2, 16), AugmentedCopy(3, 16)]
    repeated = [CopySchedule(6, (8, 16), copies=2).copy(epoch) for epoch in (1, 2, 3, 4, 5, 6)]
    assert repeated == [
        AugmentedCopy(0, 8),
        AugmentedCopy(1, 8),
        AugmentedCopy(0, 8),
        AugmentedCopy(2, 16),
        AugmentedCopy(3, 16),
        AugmentedCopy(2, 16),
    ]
    assert CopySchedule(6, (8, 16), copies=2).shown() == [
        AugmentedCopy(0, 8),
        AugmentedCopy(1, 8),
        AugmentedCopy(2, 16),
        AugmentedCopy(3, 16),
    ]


def test_a_line_says_when_which_side_is_shown() -> None:
    line = CopySchedule(10, (128, 176, 224)).describe()
    assert line.endswith(": 128 pixels to epoch 3, 176 pixels to epoch 6, 224 pixels to epoch 10")


def test_a_single_size_repeats_its_views_in_turn() -> None:
    schedule = CopySchedule(5, (16,), copies=4)
    assert [schedule.copy(epoch).number for epoch in (1, 2, 3, 4, 5)] == [0, 1, 2, 3, 0]
