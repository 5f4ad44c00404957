"""A run's folder: the names of its files, writes that cannot be half done, its state, and one owner at a time."""

import csv
import hashlib
import io
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from deepbloom import __version__
from deepbloom.config import RunConfig
from deepbloom.errors import RunError

CONFIG = "config.yaml"
MODEL = "model.safetensors"
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
METRICS = "metrics.json"
HISTORY = "history.csv"
PREDICTIONS = "predictions.csv"
PLOTS = "plots"
LOG = "train.log"
FAILED = "failed.txt"
LOCK = ".lock"

# Where a run is done, and how fast, does not make it another run.
NOT_IDENTITY = {"output_dir", "train.num_workers", "train.resume", "train.checkpoint_seconds", "data.pixel_cache"}


def write_bytes(path: Path, content: bytes, previous: Path | None = None) -> None:
    """Write a file so that after a crash at any moment either the old or the new content is there, never a part.

    Parameters
    ----------
    path : Path
    content : bytes
    previous : Path, optional
        Where the old content is kept. After a crash between the two renames it is there, and nothing at ``path``.

    Raises
    ------
    RunError
        The folder cannot be written (full disk, no permission, gone); the file is as it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        kept = "What was there before is unchanged." if path.parent.is_dir() else f"{path.parent} is gone."
        raise RunError(
            f"Cannot write {path}: {error.strerror or error}. {kept} "
            "Free space or choose another output_dir=PATH, then start the same command again."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove what writes left behind that were killed; for the process that holds the folder."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


def load_settings(text: str) -> dict:
    """Return the settings in the text of a config.yaml: plain values only.

    Raises
    ------
    ValueError
        It is no YAML, no mapping, nested without end, or has aliases, by which a few lines can name billions of values.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, loader)):
            raise ValueError("it has aliases")
        content = yaml.load(text, loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from error
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not named settings")
    return content


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write ``content`` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Write ``rows`` under ``columns`` as CSV, atomically."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))


def make_folder(path: Path) -> Path:
    """Create a folder for output and prove that it can be written, before any work is done.

    Raises
    ------
    RunError
        It cannot be created or written.
    """
    probe = path / f".writable.{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunError(
            f"Cannot write into {path}: {error.strerror or error}. Choose another output_dir=PATH."
        ) from error
    return path


def _flatten(content: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def run_hash(config: RunConfig) -> str:
    """Return 8 hex digits that are equal exactly for settings that describe the same run."""
    identity = {
        key: float(value) if type(value) is int else value  # 20 and 20.0 are the same setting
        for key, value in _flatten(asdict(config)).items()
        if key not in NOT_IDENTITY
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def default_folder(config: RunConfig) -> Path:
    """Return ``outputs/MODEL-DATA-sSEED-HASH``; with ``train.resume=never``, the first such name that is free."""
    base = Path("outputs") / f"{config.model.name}-{config.data.name}-s{config.seed}-{run_hash(config)}"
    if config.train.resume == "auto":
        return base
    number = 1
    while (path := base if number == 1 else base.with_name(f"{base.name}-{number}")).exists():
        number += 1
    return path


def read_state(folder: Path) -> str:
    """Return ``complete``, ``failed``, ``partial`` (can go on) or ``empty``."""
    for name, state in ((METRICS, "complete"), (FAILED, "failed"), (LAST, "partial"), (CONFIG, "partial")):
        if (folder / name).exists():
            return state
    return "empty"


def open_run(config: RunConfig) -> tuple[Path, str]:
    """Return the run's folder and its state, after making sure that nothing of another run is overwritten.

    Raises
    ------
    RunError
        The folder holds a run with other settings, a run that is not to be resumed, or files that are no run.
    """
    folder = Path(config.output_dir) if config.output_dir else default_folder(config)
    state = read_state(folder)
    if state == "empty":
        if folder.is_dir() and any(entry.name != LOCK for entry in folder.iterdir()):
            raise RunError(f"{folder} holds files that are not a run's. Choose another output_dir=PATH.")
    elif config.train.resume == "never":
        raise RunError(f"{folder} already holds a run, and train.resume=never. Choose another output_dir=PATH.")
    else:
        _check_same_settings(folder, config)
    make_folder(folder)
    return folder, state


def _check_same_settings(folder: Path, config: RunConfig) -> None:
    try:
        stored = _flatten(load_settings((folder / CONFIG).read_text("utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{folder / CONFIG} cannot be read, so the run in it is left alone. Choose another output_dir."
        ) from error
    wanted = _flatten(asdict(config))
    differing = sorted(
        key for key in stored.keys() | wanted.keys() if key not in NOT_IDENTITY and stored.get(key) != wanted.get(key)
    )
    if differing:
        key = differing[0]
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise RunError(
            f"{folder} holds a run with other settings: {key} is {stored.get(key)!r} there and {wanted.get(key)!r} "
            f"now{more}. Choose another output_dir=PATH, or leave it out."
        )


def discard(folder: Path) -> None:
    """Remove the traces of a run that was refused before it began; anything else in the folder stays."""
    for name in (CONFIG, LOG, FAILED, LOCK):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # not empty: not ours alone
        folder.rmdir()


def write_config(folder: Path, config: RunConfig) -> None:
    """Write the whole resolved config."""
    write_bytes(folder / CONFIG, yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True).encode())


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the run's folder for this process; the hold ends with the process, however it ends.

    Raises
    ------
    RunError
        Another process is working in it.
    """
    import fcntl

    with open(folder / LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(
                f"Another process is training in {folder}. Wait for it, or choose another output_dir=PATH."
            ) from error
        if not (folder / LOCK).exists() or not os.path.samestat(os.fstat(file.fileno()), os.stat(folder / LOCK)):
            raise RunError(f"Another process has just removed {folder}. Start the same command again.")
        yield


def collect_versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    import platform

    names = ("torch", "torchvision", "timm", "numpy", "pillow", "hydra-core", "omegaconf")
    versions = {"deepbloom": __version__, "python": platform.python_version()}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def git_commit() -> str | None:
    """Return the commit of DeepBloom's own checkout, ``-dirty`` where files differ; None for an installed wheel."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        tracked = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", Path(__file__).name],
            capture_output=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() if tracked.returncode == 0 else None
