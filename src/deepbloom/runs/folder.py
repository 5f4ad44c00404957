"""A run's folder: the names of its files, its state, and one owner at a time."""

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepbloom.config.settings import RunConfig
from deepbloom.errors import RunError
from deepbloom.runs import files
from deepbloom.runs.files import LOCK, SOFT_LOCK
from deepbloom.runs.identity import Identity
from deepbloom.runs.provenance import collect_versions, git_commit

CONFIG = "config.yaml"
MODEL = "model.safetensors"
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
METRICS = "metrics.json"
HISTORY = "history.csv"
PREDICTIONS = "predictions.csv"
PROBABILITIES = "probabilities.npz"
TRAINING_IMAGES = "training_images.safetensors"
PRUNED = "pruned.safetensors"
"""The starting point of a pruned run."""
PLOTS = "plots"
LOG = "train.log"
FAILED = "failed.txt"
PROVENANCE = "provenance.json"
ELAPSED = ".elapsed"
"""The seconds of all attempts so far."""
EXPLAIN, EXPLANATION, HEATMAPS = "explain", "explain.json", "heatmaps"
EXPORTED, COMPRESSED = "export.json", "compress.json"
ROBUST, ROBUSTNESS, ROBUST_IMAGES = "robustness", "robustness.json", "images.csv"

MAX_TEXT_BYTES = 200_000_000
"""Larger files are not read: the predictions for a million test images take half of it."""


def read_text(path: Path, errors: str = "strict") -> str:
    """Return the UTF-8 text of a run's file. A pipe, which would never end, and a giant are an `OSError`."""
    with open(path, encoding="utf-8", errors=errors, newline="", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "It is not a regular file", str(path))
        if status.st_size > MAX_TEXT_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return file.read()


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def load_settings(text: str) -> dict[str, Any]:
    """Return the settings in the text of a config.yaml: plain values only.

    Raises
    ------
    ValueError
        It is not YAML, not a mapping, nested too deeply, or has aliases: with them a few lines name billions of values.
    """
    import yaml  # predict has no use for it, and starts faster without

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, loader)):
            raise ValueError("it has aliases")
        content = yaml.load(text, loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from error
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not named settings")
    return content


def default_folder(config: RunConfig, run_id: str) -> Path:
    """Return ``outputs/MODEL-DATA-sSEED-HASH``, with ``-fFOLD`` behind the seed where there are folds."""
    split = config.data.split
    fold = f"-f{split.fold}" if split.folds else ""
    return Path("outputs") / f"{config.model.label}-{config.data.name}-s{config.seed}{fold}-{run_id}"


def failure_reason(folder: Path) -> str:
    """Return the first line of what a failed run says about itself; empty where it says nothing."""
    try:
        return read_text(folder / FAILED, "replace").partition("\n")[0][:500].strip()
    except OSError:
        return ""


def claim_folder(config: RunConfig, run_id: str) -> Path:
    """Return the run directory: ``output_dir``, or else the default one.

    With ``train.resume=never`` it is the first free one of that name. It is created at once, so that two processes that
    start at the same moment get one each.
    """
    if config.output_dir:
        return Path(config.output_dir)
    base = default_folder(config, run_id)
    if config.train.resume == "auto":
        return base
    files.make_folder(base.parent)
    number = 1
    while True:
        path = base if number == 1 else base.with_name(f"{base.name}-{number}")
        try:
            path.mkdir()
            return path
        except FileExistsError:
            number += 1


def read_state(folder: Path) -> str:
    """Return ``complete``, ``failed``, ``partial`` (can be resumed) or ``empty``."""
    for name, state in ((METRICS, "complete"), (FAILED, "failed"), (LAST, "partial"), (CONFIG, "partial")):
        if (folder / name).exists():
            return state
    return "empty"


def name_output(path: Path) -> str:
    """Return what names the results of a model file: its run, or for an exported one the run and the export's folder.

    ``outputs/A/model.safetensors`` gives ``A``, ``outputs/A/export-onnx-fp32/model.onnx`` gives ``A-export-onnx-fp32``.
    """
    place = path.resolve().parent
    return place.name if path.name == MODEL else f"{place.parent.name}-{place.name}".strip("-")


def holds_state(folder: Path) -> bool:
    """Return whether there is a state to resume from."""
    return (folder / LAST).exists() or (folder / PREVIOUS).exists()


def check_folder(folder: Path, config: RunConfig, identity: Identity) -> str:
    """Return the state of ``folder`` after making sure that this run may be written there.

    Call it again once the folder is held (`exclusive`): its state may have changed.

    Raises
    ------
    RunError
        The folder holds another run, a run that is not to be resumed, or files that are not a run's.
    """
    state = read_state(folder)
    _refuse_links(folder)
    if state == "empty":
        if folder.is_dir() and not all(map(_is_of_a_beginning, folder.iterdir())):
            raise RunError(f"{folder} holds files that are not a run's. Choose another output_dir=PATH.")
        return state
    if config.train.resume == "never":
        raise RunError(f"{folder} already holds a run, and train.resume=never. Choose another output_dir=PATH.")
    stored = read_provenance(folder).get("identity")
    if not isinstance(stored, dict):
        if state != "complete" and not holds_state(folder):
            return state  # killed before anything was trained
        raise RunError(
            f"{folder / PROVENANCE} is damaged or missing, so nothing shows which settings, images and weights the run "
            f"was started with. Choose another output_dir=PATH, or delete {folder} to train again."
        )
    epochs, wanted = stored.get("train.epochs"), identity.as_dict().get("train.epochs")
    more = wanted - epochs if isinstance(epochs, int) and isinstance(wanted, int) else 0
    if state == "complete" and more > 0 and not identity.difference({**stored, "train.epochs": wanted}):
        raise RunError(
            f"{folder} is complete after {epochs} epochs, and its schedule ended with them. To train longer, start a "
            f"new run from its weights: train.epochs={more} model.weights={folder} output_dir=ANOTHER_PATH. "
            "Or leave out output_dir to train all epochs anew."
        )
    if differs := identity.difference(stored):
        raise RunError(f"{folder} holds a run with {differs}. Choose another output_dir=PATH, or leave it out.")
    return state


def _refuse_links(folder: Path) -> None:
    """Raise `RunError` where the folder holds what could lead a run's writes elsewhere, or make them wait forever."""
    for entry in list(os.scandir(folder)) if folder.is_dir() else []:
        if not entry.is_file(follow_symlinks=False) and not entry.is_dir(follow_symlinks=False):
            raise RunError(
                f"{entry.path} is a link, or no file: a run is not written where such things are. Remove it, or choose "
                "another output_dir=PATH."
            )


def _is_of_a_beginning(path: Path) -> bool:
    """Whether a run has such a file before its settings are written: one that begins now, or was killed then."""
    temporary = path.name.startswith(".writable.") or path.match(".*.tmp")
    return temporary or path.name in (LOCK, SOFT_LOCK, LOG, PROVENANCE, ELAPSED, PRUNED)


def discard(folder: Path) -> None:
    """Remove the traces of a run that was refused before it began; anything else in the folder stays."""
    for name in (CONFIG, LOG, FAILED, PROVENANCE, ELAPSED, LOCK, SOFT_LOCK):
        with suppress(OSError):  # the log and the lock, which are open: Windows keeps them
            (folder / name).unlink()
    with suppress(OSError):  # not empty: not ours alone
        folder.rmdir()


def write_settings(folder: Path, config: RunConfig, identity: Identity) -> None:
    """Write the whole resolved config, and the identity that a resumed run is checked against."""
    import yaml

    facts = {"run_id": identity.run_id, "identity": identity.as_dict(), "git_commit": git_commit()}
    files.write_json(folder / PROVENANCE, read_provenance(folder) | facts | {"versions": collect_versions()})
    text = yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)
    files.write_bytes(folder / CONFIG, text.encode())


def read_provenance(folder: Path) -> dict[str, object]:
    """Return the content of provenance.json; empty where it is missing or damaged."""
    try:
        content = json.loads(read_text(folder / PROVENANCE))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def note(folder: Path, key: str, value: object) -> None:
    """Add a fact to the run's provenance."""
    files.write_json(folder / PROVENANCE, read_provenance(folder) | {key: value})


def count(folder: Path, key: str) -> int:
    """Add one to a number in the run's provenance and return it: 1 at the first call."""
    before = read_provenance(folder).get(key)
    note(folder, key, before + 1 if isinstance(before, int) else 1)
    return before + 1 if isinstance(before, int) else 1


@contextmanager
def exclusive(folder: Path, wait_seconds: float = 0.5) -> Iterator[None]:
    """Hold the run directory for this process.

    Raises
    ------
    RunError
        Another process is working in it.
    """
    try:
        with files.locked(folder, wait_seconds):
            yield
    except files.LockedError as error:
        raise RunError(f"{error} Wait for it, or choose another output_dir=PATH.") from error


def is_running(folder: Path) -> bool:
    """Return whether a process works in the run directory."""
    return files.is_locked(folder)
