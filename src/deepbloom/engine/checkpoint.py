"""Checkpoints as data: safetensors with a JSON header and a digest. Nothing in them can be run or imported."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from deepbloom.data.images import read_image, upright_rgb
from deepbloom.data.preprocessing import Preprocessing, preprocess, to_inputs
from deepbloom.engine.evaluate import last_layer, record_inputs
from deepbloom.engine.predictor import EXPORTED, METADATA, Predictor, read_header
from deepbloom.errors import CheckpointError, ConfigError
from deepbloom.models.registry import create_model, get_architecture
from deepbloom.models.widths import Widths
from deepbloom.runs import files as atomic_files
from deepbloom.runs import folder as run_dir

FORMAT = 1
MODEL_KIND = "deepbloom model"
STATE_KIND = "deepbloom training state"
STATES = (run_dir.LAST, run_dir.PREVIOUS)


def content_digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """Return the SHA-256 of tensors on the CPU and a header, in hex."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any], previous: Path | None = None
) -> None:
    """Write named tensors and a JSON header into one file, atomically, with a SHA-256 over both.

    Parameters
    ----------
    path : Path
    tensors : mapping of str to Tensor
    header : mapping
    previous : Path, optional
        Where the file that was there before is kept.

    Raises
    ------
    RunError
        The file cannot be written; the one that was there before is unchanged.
    """
    here = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    content = {"header": header, "digest": content_digest(here, header)}
    metadata = {METADATA: json.dumps(content)}  # a single entry: safetensors writes several in random order
    atomic_files.write_bytes(path, save(here, metadata), previous)


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the header of a file written by `write_tensors`, its digest checked.

    Raises
    ------
    CheckpointError
        The file is absent, damaged, or not of this ``kind``.
    """
    if not path.is_file():
        raise CheckpointError(f"No checkpoint at {path}. Give a run directory or its {run_dir.MODEL}.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            content = json.loads((file.metadata() or {})[METADATA])
            # Copies: a mapped file cannot be replaced on Windows, and changes with the disk anywhere.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a mapping)
        header = content["header"]
        found = header["kind"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is damaged or not written by DeepBloom ({type(error).__name__}). Give a run directory or its "
            f"{run_dir.MODEL}; for a foreign state dict train with model.weights=PATH."
        ) from error
    if found != kind:
        raise CheckpointError(
            f"{path} is a {str(found)[:40]!r} file, but a {kind!r} file is needed. Give the run directory "
            f"{path.parent}, or its {run_dir.MODEL}."
        )
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {header.get('format')!r}; this version reads format {FORMAT}.")
    if content.get("digest") != content_digest(tensors, header):
        raise CheckpointError(f"{path} is damaged: its content does not match its digest. Copy or train it again.")
    return tensors, header


def model_header(
    arch: str, classes: tuple[str, ...], preprocessing: Preprocessing, **provenance: object
) -> dict[str, Any]:
    """Return the header of a model file: what is needed to rebuild the network, and where it comes from."""
    return {
        "kind": MODEL_KIND,
        "format": FORMAT,
        "arch": arch,
        "model": arch,
        "classes": list(classes),
        "preprocessing": asdict(preprocessing),
        **provenance,
    }


def find_model_file(run_or_file: str | Path) -> Path:
    """Return the model file of a run directory, or the file itself.

    Raises
    ------
    CheckpointError
        There is none.
    """
    path = Path(run_or_file)
    if not path.is_dir():
        if path.suffix.lower() in EXPORTED:
            raise CheckpointError(
                f"{path} is an exported file, which predict, eval, robustness and demo read. Give the run here."
            )
        return path
    if not (path / run_dir.MODEL).is_file():
        raise CheckpointError(f"{path} holds no {run_dir.MODEL}: no epoch of a run has been finished there.")
    return path / run_dir.MODEL


@dataclass(frozen=True)
class Trained(Predictor):
    """A network from a model file, whose header is that of `model_header`."""

    network: nn.Module
    """In eval mode."""
    gives_embeddings: ClassVar[bool] = True

    def place(self, device: torch.device) -> None:
        """Move the network to a device."""
        self.network.to(device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Return logits, float32 of shape (B, C), for resized images, uint8 of shape (B, S, S, 3)."""
        device = next(self.network.parameters()).device
        return np.asarray(self.network(to_inputs(pixels, self.preprocessing, device)).cpu())

    def embedded_logits(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return logits as `logits` does, and embeddings: the inputs of the last layer, float32 of shape (B, F)."""
        head = self.network.get_submodule(get_architecture(str(self.header["arch"])).head[0])
        with record_inputs(last_layer(head)) as embeddings:
            logits = self.logits(pixels)
        return logits, torch.cat(embeddings).numpy()

    def faster(self) -> "Trained":
        """Return the same network with BatchNorm folded into convolutions; this one is not changed."""
        from deepbloom.engine.folding import fold_batch_norms

        size, device = self.preprocessing.size, next(self.network.parameters()).device
        pixels = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
        folded = fold_batch_norms(self.network, to_inputs(pixels, self.preprocessing, device))
        return replace(self, network=folded.to(memory_format=torch.channels_last))

    @contextmanager
    def shared(self) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
        """Give a function like `logits` that several threads may call at once.

        On a CPU each call computes in its own thread alone, so threads that start within this context share the cores.
        """
        if next(self.network.parameters()).device.type != "cpu":
            with super().shared() as take_turns:
                yield take_turns
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield self.logits
        finally:
            torch.set_num_threads(threads)


def read_model(run_or_file: str | Path) -> Trained:
    """Return the network of a run directory, a model file, or of a run's last.ckpt, which holds its latest weights.

    It is rebuilt by registry name only.

    Raises
    ------
    CheckpointError
        The file is absent, damaged, of another kind, or its tensors do not fit the network it names or are not finite.
    """
    path = find_model_file(run_or_file)
    tensors, header = _read_state(path) if path.name in STATES else read_tensors(path, MODEL_KIND)
    if str(header.get("arch")).startswith("efficientnet_lite"):  # the names of version 0.1
        tensors = {name.replace("classifier.1.", "classifier."): tensor for name, tensor in tensors.items()}
    try:
        classes, preprocessing = read_header(header)
        widths = header.get("widths")
        _check_tensors(str(header["arch"]), len(classes), widths, tensors)
        with torch.random.fork_rng(devices=[]):
            network = create_model(str(header["arch"]), len(classes), header.get("trainable", ["all"]), widths=widths)
        network.load_state_dict(tensors)
    except (ConfigError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not describe a network of this version: {error}") from error
    return Trained(classes, preprocessing, header, network.eval())


def _read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights that a run's training state evaluates, and the header of the model file beside it."""
    tensors, state = read_tensors(path, STATE_KIND)
    _, header = read_tensors(find_model_file(path.parent), MODEL_KIND)
    if header.get("run_id") != state.get("run_id"):
        raise CheckpointError(f"{path} and {run_dir.MODEL} beside it are of two runs. Give {run_dir.MODEL} alone.")
    parts = {
        name.removeprefix(f"{part}/"): tensor
        for part in ("model", "averaged")  # averaged weights take the place of those that the optimizer moves
        for name, tensor in tensors.items()
        if name.startswith(f"{part}/")
    }
    return parts, {key: value for key, value in header.items() if key != "epoch"}


def _check_tensors(name: str, num_classes: int, widths: Widths | None, tensors: Mapping[str, Tensor]) -> None:
    """Raise `ValueError` unless the tensors are a network's, before memory is taken for the classes of a header.

    All of them must be finite.
    """
    with torch.device("meta"):
        wanted = create_model(name, num_classes, widths=widths).state_dict()
    differing = _shapes(wanted) ^ _shapes(tensors)
    if differing:
        key, shape = min(differing)
        raise ValueError(f"its tensors are not those of {name} for {num_classes} classes, such as {key} {list(shape)}")
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{key} is not finite")


def _shapes(tensors: Mapping[str, Tensor]) -> set[tuple[str, tuple[int, ...]]]:
    return {(name, tuple(tensor.shape)) for name, tensor in tensors.items()}


def load_model(run_or_file: str | Path) -> nn.Module:
    """Load a trained network.

    Parameters
    ----------
    run_or_file : str or Path
        A run directory or a ``model.safetensors``.

    Returns
    -------
    nn.Module
        In eval mode, on the CPU. ``classes`` holds the class names; ``temperature`` divides logits before a softmax, so
        that probabilities are calibrated; ``preprocess`` turns a path or a PIL image of any mode into a float32 tensor
        of shape (3, S, S), as ``deepbloom predict`` does.

    Raises
    ------
    CheckpointError
        The file is absent, damaged or of another kind.
    """
    trained = read_model(run_or_file)
    setattr(trained.network, "classes", trained.classes)  # noqa: B010 (nn.Module declares tensors and modules only)
    setattr(trained.network, "temperature", trained.temperature)  # noqa: B010
    setattr(trained.network, "preprocess", partial(_prepare, trained.preprocessing))  # noqa: B010
    return trained.network


def _prepare(preprocessing: Preprocessing, image: str | os.PathLike[str] | Image.Image) -> Tensor:
    upright = upright_rgb(image) if isinstance(image, Image.Image) else read_image(image)
    return preprocess(upright, preprocessing)
