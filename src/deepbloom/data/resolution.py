"""The train resolution and the augmented copy of each epoch: functions of the epoch, without state."""

from dataclasses import dataclass

from deepbloom.config.settings import AugmentConfig

STAGES = 3
MULTIPLE = 16
"""Train resolutions are multiples of this many pixels, so that halved feature maps have few odd sides."""


@dataclass(frozen=True)
class AugmentedCopy:
    """One augmented copy of every training image."""

    number: int
    """Selects the random numbers, from 0."""
    resolution: int
    """Side of the square image, in pixels."""


def train_resolutions(config: AugmentConfig, full: int, epochs: int) -> tuple[int, ...]:
    """Return the train resolution of each stage of a run, in pixels, all different.

    With progressive resizing, the first epochs learn from small images at a fraction of the cost (Tan and Le 2021,
    https://arxiv.org/abs/2104.00298). Random crops zoom in, so images somewhat smaller than those of the test show
    objects at the same size (Touvron et al. 2019, https://arxiv.org/abs/1906.06423).
    """
    first, last = config.first_resolution or config.train_resolution, config.train_resolution
    shares = (first + (last - first) * stage / (STAGES - 1) for stage in range(STAGES))
    resolutions = (round(full * share / MULTIPLE) * MULTIPLE if share < 1 else full for share in shares)
    different = dict.fromkeys(min(max(resolution, MULTIPLE), full) for resolution in resolutions)
    return tuple(different)[-epochs:]


@dataclass(frozen=True)
class CopySchedule:
    """The augmented copy that each epoch shows."""

    epochs: int
    resolutions: tuple[int, ...]
    """Of each stage, in pixels. Stages are as equal as whole epochs allow; the last one is the longest."""
    copies: int = 0
    """Augmented copies per stage, shown in turn; 0 augments anew in every epoch."""

    def copy(self, epoch: int) -> AugmentedCopy:
        """Return the copy that ``epoch`` (from 1) shows."""
        stage, number = self.stage(epoch), epoch - 1
        if self.copies:
            place = number - sum(self.epochs_per_stage[:stage])
            number = stage * self.copies + place % self.copies
        return AugmentedCopy(number, self.resolutions[stage])

    def shown(self) -> list[AugmentedCopy]:
        """Return the different copies of the run, in the order in which they are first shown."""
        return list(dict.fromkeys(self.copy(epoch) for epoch in range(1, self.epochs + 1)))

    @property
    def epochs_per_stage(self) -> list[int]:
        """Epochs of each stage."""
        stages = [self.stage(epoch) for epoch in range(1, self.epochs + 1)]
        return [stages.count(stage) for stage in range(len(self.resolutions))]

    def describe(self) -> str:
        """Return a line for the log: the train resolution up to each epoch."""
        ends = [sum(self.epochs_per_stage[: stage + 1]) for stage in range(len(self.resolutions))]
        parts = [f"{pixels} pixels to epoch {end}" for pixels, end in zip(self.resolutions, ends, strict=True)]
        return "train resolution: " + ", ".join(parts)

    def stage(self, epoch: int) -> int:
        """Return the stage of ``epoch``, from 0; the last epoch belongs to the last stage."""
        return len(self.resolutions) - 1 - len(self.resolutions) * (self.epochs - epoch) // self.epochs
