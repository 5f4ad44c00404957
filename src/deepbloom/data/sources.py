"""From settings to pictures."""

from deepbloom.config import DataConfig
from deepbloom.data.source import ImageSource


def load_source(config: DataConfig) -> ImageSource:
    """Return the pictures that ``config`` names; none of them is decoded yet.

    Raises
    ------
    DataError
        The pictures cannot be found, or not used for the task; see each source's ``create``.
    """
    if config.name == "flowers102":
        from deepbloom.data.flowers102 import Flowers102

        return Flowers102.create(config.root, config.allow_missing)
    if config.name == "imagefolder":
        from deepbloom.data.imagefolder import ImageFolder

        assert config.root is not None  # DataConfig demands it
        return ImageFolder.create(config.root)
    from deepbloom.data.synthetic import SyntheticFlowers

    return SyntheticFlowers.create(
        config.num_classes, config.images_per_class, config.seed, config.imbalance, config.shortcut_rate
    )
