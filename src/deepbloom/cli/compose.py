"""From overrides, or from Python values, to typed settings: the only module of the package that imports hydra."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from deepbloom.config.commands import COMMANDS
from deepbloom.config.groups import conf_dir, group_defaults, groups_of
from deepbloom.config.schema import (
    check_read,
    expand_home,
    flatten,
    from_dict,
    is_added,
    is_key,
    keys,
    text_keys,
    update_nested,
)
from deepbloom.config.settings import RunConfig
from deepbloom.errors import ConfigError, DeepBloomError, unknown

if TYPE_CHECKING:
    from deepbloom.sweeps.grid import Summary

_QUOTED = r"""(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")"""
_LIST = rf"""\[(?:{_QUOTED}|\$\{{[^}}]*\}}|[^\[\]])*\]"""
_ELEMENT = re.compile(rf"(?:\A|,)\s*({_QUOTED}|{_LIST}|(?:\$\{{[^}}]*\}}|[^,])*?)\s*(?=,|\Z)", re.DOTALL)


def recipe(name: str, /, **overrides: object) -> RunConfig:
    """Return the settings of ``deepbloom train model=NAME``.

    Parameters
    ----------
    name : str
        A model's name, such as ``mini_resnet``.
    **overrides : object
        Settings by key: names of groups (``data="imagefolder"``), dotted keys (``**{"data.root": "photos"}``) or nested
        dicts (``train={"epochs": 3}``). Values are Python objects and are never parsed.

    Raises
    ------
    ConfigError
        A key, a name or a value is wrong, or nothing reads the key in this combination.
    """
    groups, known, values = groups_of(RunConfig), {key.name for key in keys(RunConfig)}, flatten(overrides)
    chosen = {key: values.pop(key) for key in list(values) if key in groups}
    if chosen.setdefault("model", name) != name:
        raise ConfigError(f"recipe({name!r}) names the model already: leave out model={chosen['model']!r}.")
    for group, choice in chosen.items():
        if choice not in groups[group]:
            raise ConfigError(unknown(group, choice, groups[group]))
    for key in values:
        if not is_key(RunConfig, key):
            raise ConfigError(unknown("key", key, known | groups.keys()))
    with _initialized("train"), _readable_errors():
        composed = hydra_compose("train", [f"{group}={choice}" for group, choice in chosen.items()])
    return cast(RunConfig, _typed("train", composed, values))


def compose(command: str, arguments: Sequence[str]) -> Any:
    """Return the typed settings of ``command`` for overrides as typed on a command line.

    Raises
    ------
    ConfigError
        An override cannot be read, a key, a name or a value is wrong, or nothing reads the key in this combination.
    """
    overrides = _read(command, arguments, multirun=False)
    with _initialized(command), _readable_errors():
        composed = hydra_compose(command, [_for_hydra(command, override) for override in overrides])
    return typed(command, composed, overrides)


def multirun(command: str, arguments: Sequence[str]) -> "Summary":
    """Hand overrides with several values to the sweeper and launcher of `hydra_plugins.deepbloom_launcher`.

    Raises
    ------
    DeepBloomError
        As for `compose`, or the sweeper or launcher cannot start.
    """
    overrides = [_for_hydra(command, override) for override in _read(command, arguments, multirun=True)]
    with _initialized(command), _readable_errors():
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        return cast("Summary", hydra.multirun(command, lambda _: None, overrides, with_log_configuration=False))


def typed(command: str, composed: DictConfig, overrides: Sequence[Override]) -> Any:
    """Return a composed config as the command's dataclass, checked; ``overrides`` are those that a person gave."""
    given = [override.key_or_group for override in overrides if not override.is_delete()]
    return _typed(command, composed, {}, given)


def _typed(command: str, composed: DictConfig, values: dict[str, object], given: Iterable[str] = ()) -> Any:
    schema = COMMANDS[command].settings
    paths = text_keys(schema, "path")
    with _readable_errors():
        content = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    for key, value in flatten(content).items():
        if key in paths:
            update_nested(content, key, expand_home(value))
    for key, value in values.items():
        update_nested(content, key, value)
    settings: Any = from_dict(schema, content)
    check_read(settings, [*given, *values])
    return settings


@contextmanager
def _initialized(command: str) -> Iterator[None]:
    """Let Hydra find the YAML files and the settings of ``command``."""
    schema, store = COMMANDS[command].settings, ConfigStore.instance()
    store.store(name=f"{command}_schema", node=schema)
    if not (conf_dir() / f"{command}.yaml").exists():
        groups = [{group: name} for group, name in group_defaults(schema).items()]
        store.store(name=command, node={"defaults": [f"{command}_schema", *groups, "_self_"]})
    with initialize_config_dir(str(conf_dir().absolute()), job_name=command, version_base="1.3"):
        OmegaConf.clear_resolver("oc.env")  # values from the environment must not end up in a run's files
        yield


def _read(command: str, arguments: Sequence[str], multirun: bool) -> list[Override]:
    """Parse overrides, and refuse unknown keys and names with a suggestion, before Hydra does."""
    parser, schema = OverridesParser.create(), COMMANDS[command].settings
    groups, known, texts = groups_of(schema), {key.name for key in keys(schema)}, text_keys(schema)
    overrides = []
    for argument in arguments:
        try:
            override = parser.parse_override(quote_text(argument, texts, multirun))
        except HydraException as error:
            raise ConfigError(
                f"Cannot read {argument!r}: expected key=value. Quote a value that holds special characters: "
                """'key="value (1)"'."""
            ) from error
        overrides.append(override)
        key = override.key_or_group
        if multirun and (key.startswith(("hydra.", "hydra/"))):
            continue
        if key not in groups and not is_key(schema, key):
            raise ConfigError(unknown(f"key for deepbloom {command}", key, known | groups.keys()))
        if override.is_sweep_override():
            if not multirun:
                more = "add -m to run each of them" if COMMANDS[command].multirun else "give one"
                raise ConfigError(f"{argument} names several values: {more}.")
        elif key in groups and not override.is_delete():
            value = override.value()
            name = "null" if value is None else value.text if isinstance(value, QuotedString) else str(value)
            if name not in groups[key]:
                raise ConfigError(unknown(key, name, groups[key]))
    return overrides


def _for_hydra(command: str, override: Override) -> str:
    """Return the override; in a dict of changes, which starts empty, a key is added rather than changed."""
    adds = is_added(COMMANDS[command].settings, override.key_or_group)
    plain = not (override.is_add() or override.is_delete())
    return f"{'++' if adds and plain else ''}{override.input_line}"


def quote_text(argument: str, texts: Iterable[str], multirun: bool) -> str:
    """Return an override with the value of a text key quoted, so that Hydra takes it exactly as typed.

    Quoted values stay as they are, ``${...}`` remains an interpolation, and the elements of a list ``[a,b]`` are quoted
    one by one, unless a file or folder has exactly that name. In a multirun, commas separate values.
    """
    key, sign, value = argument.partition("=")
    if not sign or key.lstrip("+") not in texts:
        return argument
    values = _ELEMENT.findall(value) if multirun else [value]
    return f"{key}={','.join(map(_quote, values))}"


def _quote(value: str) -> str:
    if re.fullmatch(_QUOTED, value, re.DOTALL):
        return value
    if value.startswith("[") and value.endswith("]") and not os.path.lexists(value):
        return f"[{','.join(map(_quote, _ELEMENT.findall(value[1:-1]))) if value[1:-1].strip() else ''}]"
    literal = re.sub(r"\$\{(?![^{}]*\})", r"\\${", value)  # what is not closed is no interpolation
    return QuotedString(literal, Quote.single).with_quotes()


@contextmanager
def _readable_errors() -> Iterator[None]:
    """Raise what Hydra and OmegaConf find wrong as a `ConfigError` of one line."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise _readable(error) from error


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
