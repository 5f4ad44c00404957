"""Weights from files: finding published ones, reading them safely, and copying them into a network."""

import argparse
import contextlib
import hashlib
import io
import itertools
import json
import logging
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from deepbloom.errors import WeightsError
from deepbloom.models.freezing import covers
from deepbloom.runs.folder import MODEL

log = logging.getLogger("deepbloom")

StateDict = dict[str, Tensor]

SUFFIXES = (".safetensors", ".pth", ".pt")
CONTAINERS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")
"""Keys under which programs save a state dict; of several in one file, the first here is read."""
WRAPPERS = ("module", "_orig_mod", "model", "network", "net", "backbone", "encoder")
"""Modules in which programs wrap a network, and which its parameters' names then begin with."""
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)
FETCH_TIMEOUT_SECONDS = 10.0
"""Seconds without a byte from the server after which a download fails."""
INSTEAD = "or choose model.weights=none or model.weights=PATH"


@dataclass(frozen=True)
class Weights:
    """Tensors by name, and the file that they were parsed from."""

    tensors: StateDict
    digest: str
    """SHA-256 of the bytes that were parsed, in hex."""
    source: str
    """The file, for messages."""
    header: dict[str, Any] = field(default_factory=dict)
    """Of a run's model file; empty for other files."""

    @property
    def widths(self) -> dict[str, Any]:
        """Those of a pruned network (`deepbloom.models.widths`), which its starting point takes too."""
        widths = self.header.get("widths")
        return widths if isinstance(widths, dict) else {}


def rename_by_order(state: StateDict, template: StateDict, source: str) -> StateDict:
    """Give the tensors of ``state`` the names of ``template``, first to first, without BatchNorm's batch counters.

    Raises
    ------
    WeightsError
        The two differ in number, or somewhere in shape or in the last part of the name.
    """
    tensors = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    wanted = {name: tensor for name, tensor in template.items() if not name.endswith("num_batches_tracked")}
    if len(tensors) != len(wanted):
        raise WeightsError(f"{source} holds {len(tensors)} tensors where the network has {len(wanted)}, {INSTEAD}.")
    for (name, tensor), (new_name, other) in zip(tensors.items(), wanted.items(), strict=True):
        if tensor.shape != other.shape or name.split(".")[-1] != new_name.split(".")[-1]:
            raise WeightsError(
                f"{source} does not fit the network: {name} {tuple(tensor.shape)} stands where {new_name} "
                f"{tuple(other.shape)} is expected. Install the published file again, {INSTEAD}."
            )
    return dict(zip(wanted, tensors.values(), strict=True))


def fetch_weights(url: str) -> Weights:
    """Return a published state dict from torch's hub cache; a file that is not there is downloaded first.

    Parameters
    ----------
    url : str
        The file name ends in the first digits of the file's SHA-256, which is checked: ``resnet18-f37072fd.pth``.

    Raises
    ------
    WeightsError
        The cached file is not the published one, or there is none and it cannot be fetched.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _impatient_sockets(), contextlib.redirect_stdout(sys.stderr):
                torch.hub.download_url_to_file(url, str(path), _published_hash(path), progress=sys.stderr.isatty())
        except (OSError, HTTPException, RuntimeError) as error:
            raise WeightsError(
                f"Cannot fetch {path.name} from {url}: {error}. Put the file into {path.parent}, {INSTEAD}."
            ) from error
    return read_weights(path, published=True)


def read_weights(path: Path, published: bool = False) -> Weights:
    """Read named tensors from an untrusted file, once; nothing in it is run.

    Parameters
    ----------
    path : Path
        A run directory, a ``.safetensors`` file, or a ``.pth`` or ``.pt`` file with a state dict, which may lie under
        one of the keys `CONTAINERS`.
    published : bool
        Check the file against the first digits of its SHA-256 that its name carries.

    Raises
    ------
    WeightsError
        The file is absent, of another kind, damaged, not the published one, or holds anything but tensors.
    """
    if (path / MODEL).is_file():
        path = path / MODEL
    if path.suffix not in SUFFIXES or not path.is_file():
        problem = "is not a file" if path.suffix in SUFFIXES else f"does not end in {', '.join(SUFFIXES[:-1])} or .pt"
        raise WeightsError(f"Cannot read weights from {str(path)!r}: it {problem}. Give an existing file, {INSTEAD}.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"Cannot read weights from {path}: {error.strerror}.") from error
    digest = hashlib.sha256(content).hexdigest()
    expected = _published_hash(path) if published else ""
    if not digest.startswith(expected):
        raise WeightsError(
            f"{path} is damaged or not the published file: its SHA-256 begins with {digest[: len(expected)]}, not "
            f"{expected}. Delete it and try again, {INSTEAD}."
        )
    try:
        if path.suffix == ".safetensors":
            loaded = safetensors.torch.load(content)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # timm saves its arguments beside the weights
                loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file leads the parser to
        raise WeightsError(
            f"Cannot read weights from {path} ({type(error).__name__}): it is damaged or holds more than tensors. Save "
            "it again with torch.save(model.state_dict(), PATH)."
        ) from error
    return Weights(_unwrap(loaded, path), digest, str(path), _read_header(path, content))


def _read_header(path: Path, content: bytes) -> dict[str, Any]:
    """Return the header of a run's model file; empty for other files."""
    if path.suffix != ".safetensors":
        return {}
    try:
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        return dict(json.loads(metadata["deepbloom"])["header"])
    except (KeyError, TypeError, ValueError):
        return {}


def _published_hash(path: Path) -> str:
    """Return the first digits of the SHA-256 in a file's name: ``f37072fd`` of ``resnet18-f37072fd.pth``."""
    return str(["", *re.findall(r"-([0-9a-f]{8,64})\.", path.name)][-1])


def load_weights(model: nn.Module, weights: Weights, head: Sequence[str]) -> bool:
    """Copy weights into ``model``, all of them or all but the head.

    Parameters
    ----------
    model : nn.Module
    weights : Weights
        Names may begin with `WRAPPERS`; tensors outside of these are left out.
    head : sequence of str
        Paths of the classifier. It stays as it is where ``weights`` has none of the same shape.

    Returns
    -------
    bool
        Whether the head was copied too.

    Raises
    ------
    WeightsError
        A tensor besides the head's is missing, unknown, of another shape or not finite.
    """
    own = model.state_dict()
    state = _without_wrappers(weights.tensors, own)
    if len(state) < len(weights.tensors):
        log.info("%s: %d tensors beside the network are left out.", weights.source, len(weights.tensors) - len(state))
    of_head = {name: tensor for name, tensor in own.items() if covers(head, name)}
    head_fits = all(name in state and state[name].shape == tensor.shape for name, tensor in of_head.items())
    if not head_fits:
        around = [path.partition(".")[0] for path in head]  # people replace head.fc as well as head
        state = {
            name: tensor
            for name, tensor in state.items()
            if not covers(head, name) and (name in own or not covers(around, name))
        } | of_head
    problems = {
        "missing": [name for name in own if name not in state and not name.endswith("num_batches_tracked")],
        "unknown": [name for name in state if name not in own],
        "of another shape": [name for name in own if name in state and state[name].shape != own[name].shape],
        "not finite": [name for name, tensor in state.items() if not torch.isfinite(tensor).all()],
    }
    found = [
        f"{len(names)} tensors are {problem} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for problem, names in problems.items()
        if names
    ]
    if found:
        raise WeightsError(
            f"{weights.source} does not fit the network: {'; '.join(found)}. Give weights of this network."
        )
    model.load_state_dict(dict(state))  # a plain dict: batch counters, which old files lack, then start at zero
    return head_fits


def _without_wrappers(state: StateDict, own: StateDict) -> StateDict:
    """Take off the wrappers' names with which most tensors have a name of the network's own."""
    prefixes = {""}
    for name in state:
        prefix = ""
        for part in itertools.takewhile(WRAPPERS.__contains__, name.split(".")[:-1]):
            prefix += f"{part}."
            prefixes.add(prefix)

    def known(prefix: str) -> int:
        return sum(f"{prefix}{name}" in state for name in own)

    best = max(sorted(prefixes, key=len), key=known)
    return {name.removeprefix(best): tensor for name, tensor in state.items() if name.startswith(best)}


def _unwrap(loaded: Any, path: Path) -> StateDict:
    while isinstance(loaded, dict):
        inner = [loaded[key] for key in CONTAINERS if isinstance(loaded.get(key), dict)]
        if not inner:
            break
        loaded = inner[0]
    if not isinstance(loaded, dict) or not loaded or not all(map(_is_named_tensor, loaded.items())):
        raise WeightsError(f"{path} holds no state dict: a mapping of parameter names to dense tensors.")
    return dict(loaded)


def _is_named_tensor(item: tuple[Any, Any]) -> bool:
    name, value = item
    dense = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return isinstance(name, str) and dense and value.dtype in DTYPES


@contextlib.contextmanager
def _impatient_sockets() -> Iterator[None]:
    """Without a time limit, torch's download waits for minutes where a network drops packets."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(FETCH_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)
