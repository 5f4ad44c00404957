"""The only module that imports hydra and omegaconf: from the command line's overrides to one typed config."""

import os
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import get_type_hints

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from deepbloom.cli import help as help_text
from deepbloom.config.commands import COMMANDS
from deepbloom.config.settings import DataConfig
from deepbloom.errors import ConfigError, DeepBloomError, unknown

FLAGS_WITH_VALUE = (
    "--cfg",
    "-c",
    "--package",
    "-p",
    "--config-dir",
    "-cd",
    "--info",
    "-i",
    "--shell-completion",
    "-sc",
)
EXCLUSIVE = ("--run", "-r", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")
"""Each asks for something else than a multirun does."""
FLAGS = ("--multirun", "-m", "--run", "-r", "--resolve", "--hydra-help", "--version")


def run(command: str, arguments: list[str], task: Callable[[object], object]) -> None:
    """Compose the config of ``command`` and hand it, typed and checked, to ``task``; once per job in a multirun.

    Raises
    ------
    ConfigError
        An override, a key, a value or a name is wrong.
    """
    for name, schema in COMMANDS.items():
        ConfigStore.instance().store(name=f"{name}_schema", node=schema)
    OmegaConf.clear_resolver("oc.env")  # what the environment holds must not end up in a run's files
    os.environ["HYDRA_FULL_ERROR"] = "1"  # have errors raised, not printed
    _check_overrides(command, arguments)

    failures: list[Exception] = []

    def run_typed(composed: DictConfig) -> None:
        try:
            task(OmegaConf.to_object(composed))
        except Exception as error:  # raised below: Hydra would print lines of its own around it
            failures.append(error)

    if command in ("eval", "explain"):  # their data settings start empty: what is given is added to them
        arguments = [f"++{argument}" if argument.startswith("data.") else argument for argument in arguments]
    sys.argv = [f"deepbloom {command}", *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(help_text.conf_dir()), config_name=command)(run_typed)()
    except DeepBloomError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise _readable(error) from error
    if failures:
        failure = failures[0]
        raise _readable(failure) if isinstance(failure, OmegaConfBaseException) else failure


def _readable(error: Exception) -> DeepBloomError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DeepBloomError):
            return cause
        if isinstance(cause, MissingConfigException) and cause.missing_cfg_file and cause.options:
            group, _, name = cause.missing_cfg_file.partition("/")
            return ConfigError(unknown(group, name, cause.options))
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            return ConfigError(f"{cause.full_key}: {str(cause.msg).splitlines()[0]}.")
        cause = cause.__cause__
    return ConfigError(str(error).splitlines()[0])


def _known_keys(schema: type, prefix: str = "") -> set[str]:
    keys: set[str] = set()
    for name, kind in get_type_hints(schema).items():
        if name == "data" and not is_dataclass(kind):
            kind = DataConfig  # eval's data: any of these may differ from the run's
        keys.add(f"{prefix}{name}")
        if is_dataclass(kind):
            keys |= _known_keys(kind, f"{prefix}{name}.")  # type: ignore[arg-type]
    return keys


def _check_overrides(command: str, arguments: list[str]) -> None:
    """Refuse an override that cannot be read, an unknown key or an unknown name, before Hydra does."""
    parser, groups, keys = OverridesParser.create(), help_text.groups_of(command), _known_keys(COMMANDS[command])
    sweep = "-m" in arguments or "--multirun" in arguments
    if sweep and command != "train":
        raise ConfigError(f"-m is for deepbloom train; deepbloom {command} takes one value for each key.")
    modes = {argument.partition("=")[0] for argument in arguments} & {"-m", "--multirun", *EXCLUSIVE}
    if len(modes) > 1:
        raise ConfigError(f"{' and '.join(sorted(modes))} exclude each other: give one of them.")
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if before in FLAGS_WITH_VALUE:
            continue
        if argument.startswith("-"):
            flag = argument.partition("=")[0]
            if flag not in FLAGS_WITH_VALUE + FLAGS:
                raise ConfigError(unknown(f"option for deepbloom {command}", flag, FLAGS_WITH_VALUE + FLAGS))
            continue
        try:
            override = parser.parse_override(argument)
        except (OverrideParseException, HydraException) as error:
            raise ConfigError(
                f"Cannot read {argument!r}: expected key=value. Quote a value that holds special signs: "
                """'key="value (1)"'."""
            ) from error
        key = override.key_or_group
        if key.split(".")[0] == "hydra" or key.startswith("hydra/"):
            continue
        if key not in keys and key not in groups:
            raise ConfigError(unknown(f"key for deepbloom {command}", key, keys | groups.keys()))
        if override.is_sweep_override():
            if not sweep:
                raise ConfigError(f"{argument} names several values: add -m to train with each of them.")
            continue
        value = getattr(override.value(), "text", override.value())  # a quoted text holds it there
        if key in groups and value is not None and str(value) not in groups[key]:
            raise ConfigError(unknown(key, value, groups[key]))
