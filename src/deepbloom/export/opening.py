"""From ``ckpt=`` to what gives predictions."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepbloom.config.schema import as_list
from deepbloom.engine.ensemble import Ensemble, Mirrored
from deepbloom.engine.predictor import EXPORTED, Predictor
from deepbloom.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from deepbloom.export.runtimes import ExportedFile


def is_exported(ckpt: str | Path) -> bool:
    """Return whether ``ckpt`` names an exported file by its suffix."""
    return Path(ckpt).suffix.lower() in EXPORTED and not Path(ckpt).is_dir()


def find_file(ckpt: str | Path) -> Path:
    """Return the exported file, or the model file of a run directory, that ``ckpt`` names.

    Raises
    ------
    CheckpointError
        There is none.
    """
    if not is_exported(ckpt):
        from deepbloom.engine.checkpoint import find_model_file

        return find_model_file(ckpt)
    if not Path(ckpt).is_file():
        raise CheckpointError(f"No exported file at {ckpt}. deepbloom export writes one.")
    return Path(ckpt)


def open_exported(path: str | Path) -> "ExportedFile":
    """Return the predictor of an exported file, without importing torch unless its runtime does.

    Raises
    ------
    CheckpointError
        The file cannot be used.
    ConfigError
        Its runtime is not installed.
    """
    from deepbloom.export.runtimes import OPENERS

    found = find_file(path)
    return OPENERS[found.suffix.lower()](found, 0)


def open_predictor(ckpt: str, device: str = "auto", threads_of_run: bool = False) -> Predictor:
    """Return the predictor of a run directory, a model file or an exported file.

    Parameters
    ----------
    ckpt : str
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``mps``. Exported files run on the CPU.
    threads_of_run : bool
        Take as many threads as the run took, where they are there: the last bits of scores depend on their number.

    Raises
    ------
    CheckpointError
        The file cannot be used.
    ConfigError
        The device is not available, or the runtime of an exported file is not installed.
    """
    if is_exported(ckpt):
        if device not in ("auto", "cpu"):
            raise ConfigError(f"device={device}: {ckpt} runs on the CPU. Give device=cpu, or the run as ckpt.")
        return open_exported(ckpt)
    from deepbloom.device import available_cores, choose_device, use_cores
    from deepbloom.engine.checkpoint import read_model

    place = choose_device(device)
    use_cores()
    trained = read_model(ckpt)
    threads = trained.header.get("num_threads")
    if threads_of_run and type(threads) is int and threads > 0:
        use_cores(min(threads, available_cores()))
    trained.place(place)
    return trained


def open_ensemble(ckpt: Any, device: str = "auto", mirror: bool = False, threads_of_run: bool = False) -> Ensemble:
    """Return the predictors of one or several checkpoints; for parameters and errors see `open_predictor`.

    With ``mirror``, each sees images and their mirror images.
    """
    names = tuple(str(name) for name in as_list(ckpt))
    opened = (open_predictor(name, device, threads_of_run) for name in names)
    members = (Mirrored(one.classes, one.preprocessing, one.header, one) if mirror else one for one in opened)
    return Ensemble(names, tuple(members))
