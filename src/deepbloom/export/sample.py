"""The images that an export is calibrated and compared on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from deepbloom.config.export_settings import ExportConfig
from deepbloom.data.dataset import PreparedData, choose_images
from deepbloom.data.folders import find_images
from deepbloom.data.inputs import Readable, read_batches
from deepbloom.data.pixel_cache import Pixels
from deepbloom.engine.checkpoint import Trained
from deepbloom.engine.trained_data import prepare_trained_data
from deepbloom.errors import CheckpointError, DataError
from deepbloom.export.verify import Sample

CALIBRATION, CONTROL = 300, 200
"""Number of training images that int8 is calibrated on, and of validation images that it is tried on."""
OWN_IMAGES = "compared with the checkpoint on the images of image= rather than on the run's own"
CALIBRATED = f"calibrated, and {OWN_IMAGES}: without validation images the file holds no confidences for reject=auto"


@dataclass(frozen=True)
class Samples:
    """What an export reads."""

    sample: Sample
    calibration: Callable[[], np.ndarray]
    control: Callable[[], np.ndarray]
    notes: list[str] = field(default_factory=list)
    validation: Sample | None = None
    """The whole validation split; None with ``image=``."""


class GivenPixels(Pixels):
    """Images in memory, uint8 of shape (N, S, S, 3)."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return a new uint8 array of shape (B, S, S, 3)."""
        return np.array(self.pixels[indices])


def find_samples(config: ExportConfig, trained: Trained) -> Samples:
    """Return the images of ``image=``, or those of the run: its test split to compare, training images to calibrate.

    Raises
    ------
    DataError
        Neither can be read.
    """
    if config.image:
        return _own_images(config, trained)
    try:
        data = prepare_trained_data(config.ckpt, trained, config.data)
    except (CheckpointError, DataError) as error:
        raise type(error)(f"{error} Or name images to compare file and checkpoint on: image=FOLDER.") from error
    test, validation = (
        Sample(data.pixels, part, data.source.targets[part], name)
        for part, name in ((data.split.test, "test split"), (data.split.val, "validation split"))
    )
    return Samples(
        test,
        partial(_read, data, data.split.train, CALIBRATION),
        partial(_read, data, data.split.val, CONTROL),
        validation=validation,
    )


def _read(data: PreparedData, part: np.ndarray, count: int) -> np.ndarray:
    return data.pixels.read(choose_images(data, part, count, 0))


def _own_images(config: ExportConfig, trained: Trained) -> Samples:
    paths = find_images(config.image)
    readable = [
        image.pixels[0]
        for batch in read_batches(paths, [trained.preprocessing], 64)
        for image in batch
        if isinstance(image, Readable)
    ]
    if not readable:
        raise DataError(f"None of {len(paths)} images in image={config.image} can be read; see above.")
    pixels = np.stack(readable)
    sample = Sample(GivenPixels(pixels), np.arange(len(pixels)), None, "image=")
    note = CALIBRATED if config.precision == "int8" else OWN_IMAGES
    return Samples(sample, lambda: pixels[:CALIBRATION], lambda: pixels[:CONTROL], [note])
