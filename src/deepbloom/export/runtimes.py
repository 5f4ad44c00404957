"""Exported files as predictors, under the runtime that each is for. Imports no torch."""

import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepbloom.device import available_cores
from deepbloom.engine.predictor import METADATA, Predictor, read_header
from deepbloom.errors import CheckpointError, ConfigError, DeepBloomError, require_package
from deepbloom.export.limits import MAX_BYTES
from deepbloom.export.onnx_file import read_onnx
from deepbloom.export.pte_file import FORWARD, read_pte

CONTROL_FLOW = re.compile(rb'type\s*=\s*["\'](TensorIterator|Loop|If)["\']')
STDERR = 2
SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class ExportedFile(Predictor):
    """A file for a runtime, which gives calibrated probabilities."""

    infer: Callable[[np.ndarray], np.ndarray]
    """From uint8 (B, S, S, 3) to probabilities (B, C), float32."""
    num_threads: int
    """How many threads the runtime takes."""

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Return logits, float32 of shape (B, C), as of the network: up to a constant of each image."""
        return np.asarray(self.temperature * np.log(np.maximum(self.infer(pixels), SMALLEST)))


def open_onnx(path: Path, threads: int = 0) -> ExportedFile:
    """Open an ONNX file with ONNX Runtime on the CPU; ``threads`` 0: one per available core.

    Raises
    ------
    CheckpointError
        The file is refused, damaged, or not written by DeepBloom.
    ConfigError
        The runtime is not installed.
    """
    content, metadata = read_onnx(path)
    require_package("onnxruntime", f"ckpt={path}", extra="onnx")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.log_severity_level = 3

    def start() -> Callable[[np.ndarray], np.ndarray]:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        (name,) = (entry.name for entry in session.get_inputs())
        output = session.get_outputs()[0].name
        return lambda pixels: np.asarray(session.run([output], {name: pixels})[0])

    return _open(path, metadata.get(METADATA), start, options.intra_op_num_threads)


def open_openvino(path: Path, threads: int = 0) -> ExportedFile:
    """Open an OpenVINO model, an .xml file with its .bin beside it, as `open_onnx` does."""
    _check_ir(path)
    require_package("openvino", f"ckpt={path}", extra="openvino")
    import openvino

    try:
        core = openvino.Core()
        model = core.read_model(path)
        header = model.get_rt_info([METADATA]).astype(str) if model.has_rt_info([METADATA]) else None
    except (RuntimeError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or no OpenVINO model: {_first_line(error)}") from error

    count = threads or available_cores()

    def start() -> Callable[[np.ndarray], np.ndarray]:
        settings = {
            "INFERENCE_NUM_THREADS": count,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = core.compile_model(model, "CPU", settings)
        return lambda pixels: np.array(compiled(pixels)[0])

    return _open(path, header, start, count)


def open_executorch(path: Path, threads: int = 0) -> ExportedFile:
    """Open an ExecuTorch program as `open_onnx` does; the runtime takes its own number of threads.

    Raises
    ------
    ConfigError
        The runtime is not installed, or ``threads`` is another number than it takes.
    """
    content, header = read_pte(path)
    require_package("executorch", f"ckpt={path}", extra="executorch")
    import torch

    with warnings.catch_warnings(), _quiet_native():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
        from executorch.extension.pybindings.portable_lib import _threadpool_get_thread_count
        from executorch.runtime import Runtime

        count = int(_threadpool_get_thread_count())
    if threads not in (0, count):
        raise ConfigError(f"{path} runs with {count} threads: ExecuTorch's number cannot be set to {threads}.")

    def start() -> Callable[[np.ndarray], np.ndarray]:
        program = Runtime.get().load_program(content)
        method = program.load_method(FORWARD)
        most = program.metadata(FORWARD).input_tensor_meta(0).sizes()[0]

        def infer(pixels: np.ndarray, held: Any = program) -> np.ndarray:  # a method crashes without its program
            parts = (torch.tensor(pixels[at : at + most]) for at in range(0, len(pixels), most))
            return np.concatenate([method.execute([part])[0].numpy() for part in parts])

        return infer

    with _quiet_native():
        return _open(path, header, start, count)


@contextmanager
def _quiet_native() -> Iterator[None]:
    """Keep from the screen what a runtime's native code says of the processor."""
    sys.stderr.flush()
    kept, nowhere = os.dup(STDERR), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDERR)
    try:
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)
        os.close(nowhere)


def _check_ir(path: Path) -> None:
    """Raise `CheckpointError` if an OpenVINO model is too large or runs graphs of its own."""
    try:
        size = max(file.stat().st_size for file in (path, path.with_suffix(".bin")))
        if size > MAX_BYTES:
            raise CheckpointError(f"{path} is refused: {size:,} bytes are more than {MAX_BYTES:,}.")
        found = CONTROL_FLOW.search(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"Cannot read {path} and the .bin beside it: {error.strerror or error}.") from error
    if found:
        raise CheckpointError(f"{path} is refused: the operator {found[1].decode()} runs a graph of its own.")


OPENERS: dict[str, Callable[[Path, int], ExportedFile]] = {
    ".onnx": open_onnx,
    ".xml": open_openvino,
    ".pte": open_executorch,
}
"""How files are opened, by suffix."""


def _open(
    path: Path, text: str | None, start: Callable[[], Callable[[np.ndarray], np.ndarray]], threads: int
) -> ExportedFile:
    try:
        header: dict[str, Any] = json.loads(text or "")
        classes, preprocessing = read_header(header)
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} was not written by deepbloom export: it does not say its classes and preprocessing."
        ) from error
    try:
        infer = start()
        shape = infer(np.zeros((1, preprocessing.size, preprocessing.size, 3), np.uint8)).shape
    except DeepBloomError:
        raise
    except Exception as error:  # runtimes have errors of their own
        raise CheckpointError(f"{path} cannot be run: {_first_line(error)}") from error
    if shape != (1, len(classes)):
        raise CheckpointError(f"{path} is damaged: it has {len(classes)} classes and gives an output of shape {shape}.")
    return ExportedFile(classes, preprocessing, header, infer, threads)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Exception from", "Check "))]  # places in OpenVINO's source
    return (said or lines or [type(error).__name__])[0][:300]
