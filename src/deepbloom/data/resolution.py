"""Which augmented view of the images an epoch shows, and how large it is: functions of the epoch, no state."""

from dataclasses import dataclass

from deepbloom.config.settings import AugmentConfig

STAGES = 3
MULTIPLE = 16
"""Sides are multiples of this many pixels, so that halved maps have few odd sides."""


@dataclass(frozen=True)
class View:
    """One view of every training image."""

    number: int
    """Which random numbers it is drawn with, from 0."""
    side: int
    """Of the square that is shown, in pixels."""


def training_sides(config: AugmentConfig, full: int, epochs: int) -> tuple[int, ...]:
    """Return the sides of training images in the equal parts of a run, in pixels, all different.

    Where they grow, small images teach the first epochs at a fraction of the cost (progressive learning: Tan and Le
    2021, https://arxiv.org/abs/2104.00298). Where crops zoom in, somewhat smaller images show things as large as they
    are in tests (Touvron et al. 2019, https://arxiv.org/abs/1906.06423).
    """
    first, last = config.first_side or config.last_side, config.last_side
    shares = (first + (last - first) * stage / (STAGES - 1) for stage in range(STAGES))
    sides = (round(full * share / MULTIPLE) * MULTIPLE if share < 1 else full for share in shares)
    different = dict.fromkeys(min(max(side, MULTIPLE), full) for side in sides)
    return tuple(different)[-epochs:]


@dataclass(frozen=True)
class ViewSchedule:
    """The views of a run, epoch by epoch."""

    epochs: int
    sides: tuple[int, ...]
    """Of the parts of the run, in pixels, at most one for an epoch; the parts are as equal as whole epochs allow, the
    last one the longest."""
    repeated: int = 0
    """Different views within a part of the run, shown in turn; 0 draws a new view in every epoch."""

    def view(self, epoch: int) -> View:
        """Return what ``epoch`` (from 1) shows."""
        stage, number = self.stage(epoch), epoch - 1
        if self.repeated:
            place = number - sum(self.epochs_of[:stage])
            number = stage * self.repeated + place % self.repeated
        return View(number, self.sides[stage])

    def shown(self) -> list[View]:
        """Return the different views of the run, in the order in which they are first shown."""
        return list(dict.fromkeys(self.view(epoch) for epoch in range(1, self.epochs + 1)))

    @property
    def epochs_of(self) -> list[int]:
        """Epochs of each part of the run."""
        stages = [self.stage(epoch) for epoch in range(1, self.epochs + 1)]
        return [stages.count(stage) for stage in range(len(self.sides))]

    def describe(self) -> str:
        """Return a line on the sides for a person: when which is shown."""
        ends = [sum(self.epochs_of[: stage + 1]) for stage in range(len(self.sides))]
        parts = [f"{side} pixels to epoch {end}" for side, end in zip(self.sides, ends, strict=True)]
        return "the sides of training images: " + ", ".join(parts)

    def stage(self, epoch: int) -> int:
        """Return the part of the run, from 0, that ``epoch`` belongs to; the last epoch belongs to the last part."""
        return len(self.sides) - 1 - len(self.sides) * (self.epochs - epoch) // self.epochs
