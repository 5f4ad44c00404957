"""Drawn flowers for tests, without a command."""

from deepbloom.config.data_settings import DataConfig
from deepbloom.data.sources.synthetic.source import SyntheticFlowers, load


def drawn_flowers(
    num_classes: int, images_per_class: int, seed: int = 0, imbalance: float = 1.0, shortcut_rate: float = 0.0
) -> SyntheticFlowers:
    return load(
        DataConfig(
            "synthetic",
            num_classes=num_classes,
            images_per_class=images_per_class,
            seed=seed,
            imbalance=imbalance,
            shortcut_rate=shortcut_rate,
        )
    )
