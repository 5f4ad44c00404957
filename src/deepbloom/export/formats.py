"""The registry of export formats: one function with a decorator per format."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deepbloom.engine.checkpoint import Trained
from deepbloom.errors import RunError, require_package
from deepbloom.export import quantize
from deepbloom.export.runtimes import METADATA
from deepbloom.runs import files

OPSET = 20


@dataclass
class Job:
    """What is exported, and into which folder."""

    trained: Trained
    precision: str
    folder: Path
    calibration: Callable[[], np.ndarray]
    """Gives training images that int8 is calibrated on, uint8 of shape (N, S, S, 3)."""
    control: Callable[[], np.ndarray]
    """Gives other images, on which int8 must agree with the checkpoint lest it falls back to weights alone."""
    notes: list[str]
    """What a person should know of the file."""

    @cached_property
    def header(self) -> str:
        """The checkpoint's header as JSON, which travels in the file."""
        return json.dumps(self.trained.header, ensure_ascii=True)


@dataclass(frozen=True)
class Format:
    """A way to write a network."""

    name: str
    packages: tuple[str, ...]
    extra: str
    write: Callable[[Job], Sequence[Path]]
    """Writes the files; the first is the one that is opened."""


FORMATS: dict[str, Format] = {}


def export_format(name: str, *packages: str, extra: str) -> Callable[[Callable[[Job], Sequence[Path]]], Any]:
    """Register a function that writes a format; it needs these packages, which the extra installs."""

    def register(write: Callable[[Job], Sequence[Path]]) -> Callable[[Job], Sequence[Path]]:
        FORMATS[name] = Format(name, packages, extra, write)
        return write

    return register


def check_packages(format_name: str, precision: str) -> None:
    """Raise `ConfigError` unless the packages of a format are installed."""
    found = FORMATS[format_name]
    extra_packages = ("nncf",) if format_name == "openvino" and precision == "int8" else ()
    for package in (*found.packages, *extra_packages):
        require_package(package, f"format={format_name} precision={precision}", extra=found.extra)


@export_format("onnx", "onnx", "onnxscript", "onnxruntime", extra="onnx")
def write_onnx(job: Job) -> Sequence[Path]:
    """Write ``model.onnx``: weights, preprocessing, class names and all that the checkpoint says in one file."""
    path = job.folder / "model.onnx"
    files.write_bytes(path, finished_onnx(job, graph_of(job), path).SerializeToString())
    return [path]


def finished_onnx(job: Job, model: Any, path: Path) -> Any:
    """Return an ONNX model in the precision that is asked for, with its metadata."""
    if job.precision == "fp16":
        model = quantize.halve_weights(model)
    elif job.precision == "int8":
        model = quantize.quantize_onnx(model, job, path)
    for key in list(model.metadata_props):
        model.metadata_props.remove(key)
    model.metadata_props.add(key=METADATA, value=job.header)
    return model


@export_format("openvino", "onnx", "onnxscript", "openvino", extra="openvino")
def write_openvino(job: Job) -> Sequence[Path]:
    """Write ``model.xml`` and ``model.bin``."""
    import openvino

    path, source = job.folder / "model.xml", job.folder / "source.onnx"
    files.write_bytes(source, graph_of(job).SerializeToString())
    try:
        model = openvino.Core().read_model(source)
        if job.precision == "int8":
            model = quantize.quantize_openvino(model, job)
        model.set_rt_info(job.header, [METADATA])
        openvino.save_model(model, path, compress_to_fp16=job.precision == "fp16")
    except RuntimeError as error:
        raise RunError(f"OpenVINO cannot write {path}: {str(error).strip().splitlines()[0][:300]}") from error
    finally:
        source.unlink(missing_ok=True)
    return [path, path.with_suffix(".bin")]


def graph_of(job: Job, with_maps: bool = False) -> Any:
    """Return the network as an ONNX model, from uint8 images of its size to calibrated probabilities.

    Raises
    ------
    RunError
        torch cannot express one of its operations in ONNX.
    """
    import logging
    import warnings

    import torch

    from deepbloom.export.graph import ImageClassifier, pooled_features

    trained = job.trained
    arch, size = str(trained.header["arch"]), trained.preprocessing.size
    network = trained.network.to("cpu").to(memory_format=torch.contiguous_format)
    features = pooled_features(network, arch, size) if with_maps else ""
    classifier = ImageClassifier(network, trained.preprocessing, trained.temperature, features).eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                classifier,
                (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
                input_names=["images"],
                output_names=["probabilities", "maps"] if features else ["probabilities"],
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=65536)}},
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # torch says in many ways that it cannot
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise RunError(f"The network {arch} cannot be written as ONNX: {reason}") from error
    finally:
        trained.place(torch.device("cpu"))
    assert program is not None
    return program.model_proto
