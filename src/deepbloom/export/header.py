"""The header of an int8 file: what the checkpoint says, and how sure the file itself is of validation images."""

import json
from pathlib import Path

import numpy as np

from deepbloom.calibration.rejection import Rejection
from deepbloom.export.opening import open_exported
from deepbloom.export.registry import Job
from deepbloom.metrics import softmax

FARTHEST = 2.0
"""The largest distance from training images: files give no embeddings, so none of their images counts as unlike."""


def own_header(job: Job, path: Path) -> str:
    """Return the header of an int8 file as JSON, with `Rejection` facts from the predictions of the file.

    int8 changes predictions and confidences, so those of the checkpoint show nothing of the file. Without validation
    images, or if a prediction is not finite, the header has none, and ``reject=auto`` is refused.

    Parameters
    ----------
    job : Job
    path : Path
        The file, with any header.
    """
    header = {key: value for key, value in job.trained.header.items() if key != "rejection"}
    sample = job.validation
    if sample is not None and sample.targets is not None:
        exported = open_exported(path)
        probabilities = softmax(exported.all_logits(sample.pixels, sample.indices), exported.temperature)
        if np.isfinite(probabilities).all():
            correct = probabilities.argmax(1) == sample.targets
            rejection = Rejection.from_validation(probabilities.max(1), correct, limit=FARTHEST)
            header["rejection"] = rejection.as_header()
    return json.dumps(header, ensure_ascii=True)
