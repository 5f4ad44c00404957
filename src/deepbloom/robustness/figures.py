"""Samples of what a network saw under corruption."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepbloom.report.run_plots import open_figure
from deepbloom.robustness.corruptions import corrupt
from deepbloom.robustness.evaluate import Condition

SAMPLE_INCHES = 1.1


def draw_samples(image: np.ndarray, image_id: str, wanted: Sequence[Condition], seed: int, path: Path) -> None:
    """Draw one image, uint8 of shape (S, S, 3), under each condition: a row per corruption."""
    names = list(dict.fromkeys(condition.corruption for condition in wanted if condition.severity))
    severities = sorted({condition.severity for condition in wanted})
    rows = [[corrupt(image, name, level, seed, image_id) if level else image for level in severities] for name in names]
    sheet = np.vstack([np.hstack(row) for row in rows])
    side = len(image)
    with open_figure(path, SAMPLE_INCHES * len(severities) + 1.8, SAMPLE_INCHES * len(names) + 0.4) as figure:
        axis = figure.add_subplot()
        axis.imshow(sheet)
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0, labeltop=True, labelbottom=False)
        titles = [f"severity {level}" if level else "as it is" for level in severities]
        axis.set_xticks([side * (column + 0.5) for column in range(len(severities))], titles)
        axis.set_yticks([side * (row + 0.5) for row in range(len(names))], [name.replace("_", " ") for name in names])
