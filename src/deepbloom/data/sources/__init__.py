"""From settings to images."""

from deepbloom.config.settings import DataConfig
from deepbloom.data.dataset import ImageSource
from deepbloom.data.images import FileSource, leave_out_unreadable
from deepbloom.device import available_cores


def load_source(config: DataConfig) -> ImageSource:
    """Return the images that ``config`` names; with ``allow_missing``, without those absent or unreadable.

    Raises
    ------
    DataError
        The images cannot be found, or not used for the task; see each source's ``create``.
    """
    source = _create(config)
    if config.allow_missing and isinstance(source, FileSource):
        return leave_out_unreadable(source, available_cores())
    return source


def _create(config: DataConfig) -> ImageSource:
    if config.name == "flowers102":
        from deepbloom.data.sources.flowers102 import Flowers102

        return Flowers102.create(config.root, config.allow_missing)
    if config.name == "imagefolder":
        from deepbloom.data.sources.imagefolder import ImageFolder

        assert config.root is not None  # DataConfig demands it
        return ImageFolder.create(config.root)
    from deepbloom.data.sources.synthetic.source import SyntheticFlowers

    return SyntheticFlowers.create(
        config.num_classes, config.images_per_class, config.seed, config.imbalance, config.shortcut_rate
    )
