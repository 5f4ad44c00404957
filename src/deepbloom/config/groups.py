"""The YAML files of ``conf/``: the names that each group offers, and which of them a command starts from."""

from dataclasses import is_dataclass
from pathlib import Path
from typing import get_type_hints

import yaml

from deepbloom.config.schema import keys
from deepbloom.config.settings import RunConfig


def conf_dir() -> Path:
    """Return the folder of the YAML files: inside an installed package, or beside ``src/`` in a checkout."""
    package = Path(__file__).parents[1]
    return package / "conf" if (package / "conf").is_dir() else package.parents[1] / "conf"


def choices() -> dict[str, list[str]]:
    """Return the names in every group, e.g. ``{"model": ["mini_resnet", ...]}``."""
    folders = sorted(folder for folder in conf_dir().iterdir() if folder.is_dir())
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}


def groups_of(schema: type) -> dict[str, list[str]]:
    """Return those of `choices` that a command with these settings takes; an experiment changes several groups."""
    found = choices()
    names = found.keys() if schema is RunConfig else {key.name for key in keys(schema)}
    return {group: found[group] for group in found if group in names}


def group_defaults(schema: type) -> dict[str, str | None]:
    """Return the file that each group starts from: that of ``conf/train.yaml``, none for a dict of changes."""
    train = yaml.safe_load((conf_dir() / "train.yaml").read_text(encoding="utf-8"))["defaults"]
    defaults = {group: name for entry in train if isinstance(entry, dict) for group, name in entry.items()}
    kinds = get_type_hints(schema)
    return {group: defaults[group] if is_dataclass(kinds.get(group)) else None for group in groups_of(schema)}
