"""Which epoch's weights are kept: the validation split is often too small for its accuracy alone to say."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Row = Mapping[str, float]
"""One of history.csv: of it are read ``epoch`` and ``val_accuracy``."""


@dataclass(frozen=True)
class Choice:
    """The epoch that is kept, and how sure the choice is.

    Attributes
    ----------
    best : Row
        Of the epoch that is kept.
    highest : Row
        Of the first epoch with the highest validation accuracy.
    standard_error : float
        Of that accuracy.
    within : tuple of int
        The epochs whose accuracy is at most one standard error below it.
    """

    best: Row
    highest: Row
    standard_error: float
    within: tuple[int, ...]

    def __str__(self) -> str:
        """The line of the log."""
        kept, highest = self.best["val_accuracy"], self.highest["val_accuracy"]
        count = len(self.within)
        return (
            f"epoch {int(self.best['epoch'])} is kept: validation accuracy {kept:.4f}; the highest, {highest:.4f} in "
            f"epoch {int(self.highest['epoch'])}, has a standard error of {self.standard_error:.4f}, and "
            f"{count} epoch{' lies' if count == 1 else 's lie'} within it"
        )


def choose_epoch(history: Sequence[Row], count: int) -> Choice:
    """Choose the latest epoch whose validation accuracy is within one standard error of the highest.

    The rule of one standard error is that of Breiman et al. (1984). Among epochs that the validation split cannot tell
    apart, later ones, at a lower learning rate, are more accurate on other images (docs/recipes.md).

    Parameters
    ----------
    history : sequence of rows
        At least one.
    count : int
        Number of validation images.
    """
    highest = max(history, key=lambda row: row["val_accuracy"])
    error = standard_error(highest["val_accuracy"], count)
    within = [row for row in history if row["val_accuracy"] >= highest["val_accuracy"] - error]
    return Choice(within[-1], highest, error, tuple(int(row["epoch"]) for row in within))


def standard_error(accuracy: float, count: int) -> float:
    """Return the standard error of an accuracy over ``count`` images, which is above zero for 0 and 1 as well.

    Two correct and two wrong predictions are added (Agresti and Coull 1998, https://doi.org/10.2307/2685469).
    """
    adjusted = (accuracy * count + 2) / (count + 4)
    return math.sqrt(adjusted * (1 - adjusted) / (count + 4))
