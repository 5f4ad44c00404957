"""Small images that are easy to learn, and the settings of a short run on them."""

from pathlib import Path

import numpy as np
from PIL import Image

COLORS = {"azure": (40, 90, 220), "crimson": (210, 30, 60), "lime": (120, 220, 40)}
SMALL = ("train.num_threads=1", "train.batch_size=8", "train.epochs=2", "train.precision=fp32")


def draw_images(root: Path, per_class: int = 12) -> Path:
    """Write noisy images of three colors, one folder each: easy to tell apart, none like another."""
    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            noise = rng.normal(0, 40, (40, 48, 3))
            Image.fromarray((np.array(color) + noise).clip(0, 255).astype(np.uint8)).save(
                root / name / f"{number:02d}.png"
            )
    return root
