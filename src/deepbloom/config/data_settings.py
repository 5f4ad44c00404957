"""The settings of the images and of their split, typed and checked. Each field's docstring stands below it."""

import os
from dataclasses import dataclass, field

from deepbloom.config.schema import check_choice, check_range, setting
from deepbloom.errors import ConfigError

VERIFY = ("changed", "full")
FITS = ("squash", "crop", "pad")
SPLIT_KINDS = ("auto", "stratified", "official")


@dataclass
class SplitConfig:
    """How images are divided into train, validation and test."""

    kind: str = "auto"
    """``stratified``: all images merged and split by class. ``official``: the predefined split of the data.
    ``auto``: the predefined split of an image folder that has train and test; otherwise stratified."""
    test_fraction: float = setting(
        0.2,
        only=(
            "data.split.folds=0 data.split.kind=stratified",
            lambda split: not split.folds and split.kind != "official",
        ),
    )
    """Share of each class in the test split, in (0, 0.9]."""
    val_fraction: float = 0.1
    """Share of the remaining images in the validation split, which chooses the best epoch, in (0, 0.9]."""
    seed: int = 42
    """Seed of the split; independent of the training seed."""
    folds: int = 0
    """Number of cross-validation folds, at least 2, instead of ``test_fraction``; 0 makes a single split.
    ``data.split.folds=5 data.split.fold=0,1,2,3,4`` with -m tests every image exactly once."""
    fold: int = setting(0, only=("data.split.folds=K", lambda split: split.folds > 0))
    """The fold that is the test split, from 0."""

    def __post_init__(self) -> None:
        check_choice("data.split.kind", self.kind, SPLIT_KINDS)
        for name in ("test_fraction", "val_fraction"):
            check_range(f"data.split.{name}", getattr(self, name), 0, 0.9, open_low=True)
        if self.folds < 0 or self.folds == 1:
            raise ConfigError(f"data.split.folds={self.folds} is out of range: give at least 2, or 0 for one split.")
        if self.folds and self.kind == "official":
            raise ConfigError("data.split.folds replaces the predefined split: add data.split.kind=stratified.")
        if self.folds:
            check_range("data.split.fold", self.fold, 0, self.folds - 1)


SYNTHETIC = ("data=synthetic", lambda data: data.name == "synthetic")
FILES = ("data=imagefolder or data=flowers102", lambda data: data.name != "synthetic")


@dataclass
class DataConfig:
    """The source of the images, and their split."""

    name: str
    """``flowers102``, ``imagefolder`` or ``synthetic``."""
    root: str | None = setting(None, path=True, only=FILES)
    """Folder of the images. None: a per-user cache folder (flowers102); required for imagefolder."""
    allow_missing: bool = setting(False, only=FILES)
    """Leave out missing or unreadable images and empty class folders, and name them, instead of stopping."""
    verify: str = setting("changed", only=FILES)
    """``changed``: at each start, read only the files that are new or whose size, times or inode have changed.
    ``full``: read all."""
    labels: str | None = setting(None, path=True, only=FILES)
    """A CSV with ``image_id`` and ``suggested``, the correct class of these images: label_suspects.csv without the
    rows that you disagree with. None keeps the labels as they are."""
    exclude: str | None = setting(None, path=True, only=FILES)
    """A CSV with ``image_id``: images to leave out. None leaves out no image."""
    num_classes: int = setting(10, only=SYNTHETIC)
    """Number of species, 2 to 102 (synthetic)."""
    images_per_class: int = setting(100, only=SYNTHETIC)
    """Images of the largest class, 3 to 100,000 (synthetic). No class has fewer than 3."""
    imbalance: float = setting(1.0, only=SYNTHETIC)
    """Size of the largest class over that of the smallest, at least 1 (synthetic). Flowers102 has 6.5."""
    shortcut_rate: float = setting(0.0, only=SYNTHETIC)
    """Share of images whose background has a mark that reveals the class, in [0, 1] (synthetic)."""
    seed: int = setting(0, only=SYNTHETIC)
    """Seed of the images; the species are always the same (synthetic)."""
    fit: str = "squash"
    """How an image becomes square: ``squash`` stretches it, ``crop`` keeps the largest centered square, ``pad`` fills
    the missing part with the mean color. The network's file records it."""
    pixel_cache: str = setting("auto", path=True)
    """``auto``: decode once into the per-user cache folder; ``off``: decode in every epoch; or the cache folder."""
    split: SplitConfig = field(default_factory=SplitConfig)

    @property
    def title(self) -> str:
        """The images in words: the name of the user's folder, or that of the data."""
        folder = os.path.basename(os.path.abspath(os.path.expanduser(self.root))) if self.root else ""
        return folder or self.name if self.name == "imagefolder" else self.name

    def __post_init__(self) -> None:
        check_choice("data.verify", self.verify, VERIFY)
        check_choice("data.fit", self.fit, FITS)
        check_range("data.num_classes", self.num_classes, 2, 102)
        check_range("data.images_per_class", self.images_per_class, 3, 100_000)
        check_range("data.imbalance", self.imbalance, 1)
        check_range("data.shortcut_rate", self.shortcut_rate, 0, 1)
        check_range("data.seed", self.seed, 0, 2**32 - 1)
