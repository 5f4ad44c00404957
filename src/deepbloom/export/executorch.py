"""ExecuTorch programs, for phones: the network for XNNPACK, and the header as what a method returns."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from deepbloom.engine.predictor import METADATA
from deepbloom.errors import RunError
from deepbloom.export.graph import ImageClassifier
from deepbloom.export.registry import Job, export_format
from deepbloom.runs import files

MOST_IMAGES = 8
"""Largest batch, for which memory is planned. Below 16: there torch takes other depthwise convolutions."""


@export_format("executorch", "executorch", "torchao", extra="executorch", precisions=("fp32",))
def write_executorch(job: Job) -> Sequence[Path]:
    """Write ``model.pte``: a program with the method ``forward`` and one that returns the header as text.

    ``forward`` maps uint8 (B, S, S, 3) to calibrated probabilities (B, C), with B up to `MOST_IMAGES`.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    trained, size = job.trained.faster(), job.trained.preprocessing.size
    network = trained.network.to(memory_format=torch.contiguous_format)
    classifier = ImageClassifier(network, trained.preprocessing, trained.temperature).eval()
    images = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=MOST_IMAGES)
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # what torchao registers is deprecated
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.export.export(classifier, (images,), dynamic_shapes={"images": {0: batch}})
            lowered = to_edge_transform_and_lower(
                exported, partitioner=[XnnpackPartitioner()], constant_methods={METADATA: job.header}
            )
            content = lowered.to_executorch().buffer
    except Exception as error:  # torch and ExecuTorch say in many ways that they cannot
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        arch = trained.header["arch"]
        raise RunError(f"The network {arch} cannot be written for ExecuTorch: {reason}") from error
    job.notes.append(f"A batch has at most {MOST_IMAGES} images. The method {METADATA} returns the JSON as text")
    path = job.folder / "model.pte"
    files.write_bytes(path, content)
    return [path]
