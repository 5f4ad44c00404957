"""Which run ``ckpt`` means: the newest for ``last``, or an error that lists the newest."""

import os
from pathlib import Path
from typing import Any

from deepbloom.config.commands import COMMANDS
from deepbloom.config.schema import keys
from deepbloom.errors import ConfigError, name_some

LAST = "last"
FOLDER = "outputs"
"""Where runs lie unless ``output_dir`` says otherwise."""


def choose_checkpoint(command: str, ckpt: Any) -> Any:
    """Return ``ckpt``, with the newest complete run in place of ``last``.

    Raises
    ------
    ConfigError
        It is empty, names several without brackets, or is a folder of runs rather than a run.
    """
    if isinstance(ckpt, list):
        return [choose_checkpoint(command, entry) for entry in ckpt]
    if os.path.lexists(ckpt) and not os.path.isdir(ckpt):
        return ckpt
    several = any(key.name == "ckpt" and key.takes_list for key in keys(COMMANDS[command].settings))
    if several and "," in ckpt and not os.path.isdir(ckpt):
        raise ConfigError(f"There is no checkpoint {ckpt!r}. For several write 'ckpt=[{ckpt}]'.")
    from deepbloom.runs import folder as run_dir
    from deepbloom.runs.reading import RUN_FILES, newest_runs

    is_folder = os.path.isdir(ckpt)
    if ckpt and ckpt != LAST and not is_folder:
        return ckpt
    if is_folder and any((Path(ckpt) / name).exists() for name in (run_dir.MODEL, *RUN_FILES)):
        return ckpt
    folder = ckpt if is_folder else FOLDER
    runs = newest_runs(Path(folder))
    if ckpt == LAST and not is_folder and runs:
        return str(runs[0])
    problem = f"{ckpt} holds no run of its own." if is_folder else f"deepbloom {command} needs ckpt=RUN_OR_FILE."
    if not runs:
        raise ConfigError(f"{problem} There is no complete run in {folder}; deepbloom train makes one.")
    last = f" ckpt={LAST} takes the first." if folder.rstrip("/") == FOLDER else ""
    raise ConfigError(f"{problem} The newest runs: {name_some([str(run) for run in runs])}.{last}")
