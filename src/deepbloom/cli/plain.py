"""Command lines without groups, lists, quotes or interpolation: read here, as importing Hydra takes half a second."""

import os
import re
from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any, get_type_hints

from deepbloom.config.commands import COMMANDS
from deepbloom.config.schema import Key, check_read, defaults, expand_home, flatten, from_dict, keys, update_nested

TEXT = re.compile(r"""[^\\'"\[\]{}$,?\x00-\x1f]+""")
WHOLE = re.compile(r"0|[1-9]\d{0,17}", re.ASCII)
FRACTION = re.compile(r"(0|[1-9]\d{0,17})\.\d{1,17}", re.ASCII)
SWITCHES = {"true": True, "false": False}


def plain_settings(command: str, arguments: Sequence[str]) -> Any | None:
    """Return the settings that `cli.compose.compose` returns, or None where only that can read the overrides.

    Raises
    ------
    ConfigError
        As in `cli.compose.compose`.
    """
    schema = COMMANDS[command].settings
    if any(map(is_dataclass, get_type_hints(schema).values())):  # composed from YAML files
        return None
    known = {key.name: key for key in keys(schema)}
    content, given = defaults(schema), []
    for argument in arguments:
        name, _, text = argument.partition("=")
        value = _read(known[name], text) if name in known and not os.path.isfile(argument) else None
        if value is None or name in given:
            return None
        update_nested(content, name, value)
        given.append(name)
    return typed_settings(command, content, given)


def _read(key: Key, text: str) -> str | int | float | bool | None:
    """Return the value of a key; None where it is not plain."""
    if key.text:
        return text if TEXT.fullmatch(text) else None
    if key.kind in (int, float) and WHOLE.fullmatch(text):
        return int(text)
    if key.kind is float and FRACTION.fullmatch(text):
        return float(text)
    return SWITCHES.get(text) if key.kind is bool else None


def typed_settings(command: str, content: dict[str, Any], given: Sequence[str]) -> Any:
    """Return nested values as the command's dataclass, checked; ``given`` are the keys that the user gave."""
    if "ckpt" in content:
        from deepbloom.cli.checkpoints import choose_checkpoint

        content["ckpt"] = choose_checkpoint(command, expand_home(content["ckpt"]))
    schema = COMMANDS[command].settings
    paths = {key.name for key in keys(schema) if key.text == "path"}
    for key, value in flatten(content).items():
        if key in paths:  # a number comes from an interpolation
            update_nested(content, key, expand_home(str(value) if type(value) in (int, float) else value))
    settings: Any = from_dict(schema, content)
    check_read(settings, given)
    return settings
