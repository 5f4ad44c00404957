"""The embeddings of a run's training images, in a file beside its model file."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepbloom.calibration.out_of_distribution import TrainingImages, normalize
from deepbloom.engine.checkpoint import FORMAT, find_model_file, read_tensors, write_tensors
from deepbloom.errors import CheckpointError
from deepbloom.runs import folder as run_dir

KIND = "deepbloom training images"


def write_training_images(folder: Path, images: TrainingImages, run_id: str) -> None:
    """Write ``training_images.safetensors``: embeddings in float16, classes and names."""
    header = {"kind": KIND, "format": FORMAT, "run_id": run_id, "image_ids": list(images.image_ids)}
    tensors = {
        "embeddings": torch.from_numpy(images.embeddings.astype(np.float16)),
        "targets": torch.from_numpy(images.targets),
    }
    write_tensors(folder / run_dir.TRAINING_IMAGES, tensors, header)


def read_training_images(ckpt: str | Path, model: dict[str, Any]) -> TrainingImages | None:
    """Return the training images of a checkpoint whose header is ``model``; None where the file is not beside it.

    Raises
    ------
    CheckpointError
        The file is damaged, or of another run.
    """
    path = find_model_file(ckpt).parent / run_dir.TRAINING_IMAGES
    if not path.is_file():
        return None
    tensors, header = read_tensors(path, KIND)
    if header.get("run_id") != model.get("run_id"):
        raise CheckpointError(f"{path} and the model file beside it are of two runs. Move the model file elsewhere.")
    try:
        embeddings, targets = tensors["embeddings"].numpy(), tensors["targets"].numpy()
        names = tuple(map(str, header["image_ids"]))
        if embeddings.ndim != 2 or targets.shape != (len(names),) or len(embeddings) != len(names):
            raise ValueError("its tensors do not fit each other")
        if not np.isfinite(embeddings).all() or not names:
            raise ValueError("its embeddings are not finite")
        if targets.min() < 0 or targets.max() >= len(model["classes"]):
            raise ValueError("it names a class that the model does not have")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} holds no training images of this version: {error}") from error
    return TrainingImages(normalize(embeddings), targets, names)
