"""From overrides, or from Python values, to typed settings. Hydra is imported here and in `quoting` only; what needs no
composition, `plain` reads."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, InterpolationKeyError, OmegaConfBaseException

from deepbloom.cli.advice import is_stray, stray_word, unknown_key, unknown_name
from deepbloom.cli.choice import chosen_model
from deepbloom.cli.hydra_keys import SETTINGS, check_hydra_key, is_hydra_key, unread
from deepbloom.cli.plain import typed_settings
from deepbloom.cli.quoting import quote_text
from deepbloom.config.commands import COMMANDS
from deepbloom.config.groups import conf_dir, group_defaults, groups_of
from deepbloom.config.schema import (
    Key,
    defaults,
    flatten,
    is_added,
    is_key,
    keys,
    takes_any,
    update_nested,
)
from deepbloom.config.settings import RunConfig
from deepbloom.errors import ConfigError, DeepBloomError, unknown

if TYPE_CHECKING:
    from deepbloom.sweeps.grid import Summary


def recipe(name: str, /, **overrides: object) -> RunConfig:
    """Return the settings of ``deepbloom train model=NAME``.

    Parameters
    ----------
    name : str
        A model's name, such as ``mini_resnet``.
    **overrides : object
        Settings by key: names of groups (``data="imagefolder"``), dotted keys (``**{"data.root": "photos"}``) or nested
        dicts (``train={"epochs": 3}``). Values are Python objects and are never parsed; in a path, ``~`` is the home
        folder.

    Raises
    ------
    ConfigError
        A key, a name or a value is wrong, or nothing reads the key in this combination.
    """
    groups = groups_of(RunConfig)
    values = flatten(overrides, is_value=partial(takes_any, RunConfig))
    chosen = {key: values.pop(key) for key in list(values) if key in groups}
    if chosen.setdefault("model", name) != name:
        raise ConfigError(f"recipe({name!r}) names the model already: leave out model={chosen['model']!r}.")
    for group, choice in chosen.items():
        if choice not in groups[group]:
            raise ConfigError(unknown(group, choice, groups[group]) + unknown_name(group, str(choice)))
    for key in values:
        if not is_key(RunConfig, key):
            raise ConfigError(unknown_key("train", key))
    with _initialized("train"), _readable_errors():
        composed = hydra_compose("train", [f"{group}={choice}" for group, choice in chosen.items()])
    content = _plain(composed)
    for key, value in values.items():
        update_nested(content, key, value)
    return cast(RunConfig, typed_settings("train", content, list(values)))


def compose(command: str, arguments: Sequence[str]) -> Any:
    """Return the typed settings of ``command`` for overrides as typed on a command line.

    Raises
    ------
    ConfigError
        An override cannot be read, a key, a name or a value is wrong, or nothing reads the key in this combination.
    """
    overrides = _read(command, arguments, multirun=False)
    with _initialized(command), _readable_errors():
        composed = hydra_compose(command, _all_for_hydra(command, overrides))
    return typed(command, composed, overrides)


def multirun(command: str, arguments: Sequence[str]) -> "Summary":
    """Hand overrides with several values to the sweeper and launcher of `hydra_plugins.deepbloom_launcher`.

    Raises
    ------
    DeepBloomError
        As for `compose`, or the sweeper or launcher cannot start.
    """
    overrides = _all_for_hydra(command, _read(command, arguments, multirun=True))
    with _initialized(command), _readable_errors():
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        return cast("Summary", hydra.multirun(command, lambda _: None, overrides, with_log_configuration=False))


def typed(command: str, composed: DictConfig, overrides: Sequence[Override]) -> Any:
    """Return a composed config as the command's dataclass, checked; ``overrides`` are those that the user gave."""
    content = _plain(composed)
    given: list[str] = []
    for place, override in enumerate(overrides):
        key = override.key_or_group
        given += [] if override.is_delete() else _names(override)
        if isinstance(value := override.value(), dict) and takes_any(COMMANDS[command].settings, key):
            later = (other.key_or_group for other in overrides[place + 1 :])
            _replace(content, key, [*value, *(name.removeprefix(f"{key}.").partition(".")[0] for name in later)])
    return typed_settings(command, content, given)


def _names(override: Override) -> list[str]:
    """Return the keys that an override gives: its own, or, where its value is a dict, those in it."""
    key, value = override.key_or_group, override.value()
    return list(flatten(value, f"{key}.")) if isinstance(value, dict) else [key]


def _replace(content: dict[str, Any], key: str, kept: Sequence[object]) -> None:
    """Leave only ``kept`` in a dict that was given as a whole: Hydra merges it with the one that was there."""
    *above, last = key.split(".")
    for name in above:
        content = content[name]
    content[last] = {name: content[last][name] for name in dict.fromkeys(map(str, kept)) if name in content[last]}


def _plain(composed: DictConfig) -> dict[str, Any]:
    with _readable_errors():
        return cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))


@contextmanager
def _initialized(command: str) -> Iterator[None]:
    """Let Hydra find the YAML files and the settings of ``command``."""
    schema, store = COMMANDS[command].settings, ConfigStore.instance()
    store.store(name=f"{command}_schema", node=defaults(schema))
    if not (conf_dir() / f"{command}.yaml").exists():
        groups = [{group: name} for group, name in group_defaults(schema).items()]
        store.store(name=command, node={"defaults": [f"{command}_schema", *groups, "_self_"]})
    with initialize_config_dir(str(conf_dir().absolute()), job_name=command, version_base="1.3"):
        OmegaConf.clear_resolver("oc.env")  # values from the environment must not end up in a run's files
        yield


def _read(command: str, arguments: Sequence[str], multirun: bool) -> list[Override]:
    """Parse overrides, and refuse unknown keys and names with a suggestion, before Hydra does."""
    parser, schema = OverridesParser.create(), COMMANDS[command].settings
    known = {key.name: key for key in keys(schema)}
    overrides = []
    if any(map(is_stray, arguments)):
        raise ConfigError(stray_word(command, arguments))
    for argument in arguments:
        try:
            override = parser.parse_override(quote_text(argument, known, multirun))
        except HydraException as error:
            raise ConfigError(
                f"Cannot read {argument!r}: expected key=value. Quote a value that holds special characters: "
                f"""'{argument.partition("=")[0]}="VALUE"'."""
            ) from error
        overrides.append(override)
        if multirun and is_hydra_key(override.key_or_group):
            check_hydra_key(override)
        else:
            _check(command, argument, override, known, multirun)
    return overrides


def _check(command: str, argument: str, override: Override, known: Mapping[str, Key], multirun: bool) -> None:
    """Raise `ConfigError` if a key or the name of a group is unknown, or the key takes no such value."""
    schema, key = COMMANDS[command].settings, override.key_or_group
    groups = groups_of(schema)
    for name in [key, *_names(override)]:
        if name not in groups and not is_key(schema, name):
            raise ConfigError(unknown_key(command, name, argument.partition("=")[2]))
    if override.is_delete():
        if key not in groups and takes_any(schema, key) and key not in known:
            return
        raise ConfigError(f"{argument}: only an operation can be removed, as in ~augment.ops.flip. Leave out {key}.")
    several = override.is_sweep_override()
    if several and not multirun:
        more = "add -m to run each of them" if COMMANDS[command].multirun else "give one"
        if key in known and known[key].takes_list:
            more = f"for a list write '{key}=[{argument.partition('=')[2]}]'"
        raise ConfigError(f"{argument} names several values: {more}.")
    if several:
        return
    value = override.value()
    if key in groups:
        name = "null" if value is None else value.text if isinstance(value, QuotedString) else str(value)
        if name not in groups[key]:
            raise ConfigError(unknown(key, name, groups[key]) + unknown_name(key, name))
    elif isinstance(value, list) and key in known and known[key].text and not known[key].takes_list:
        raise ConfigError(f"{argument}: {key} takes one value, not a list.")


def _all_for_hydra(command: str, overrides: Sequence[Override]) -> list[str]:
    chosen = chosen_model(overrides) if command == "train" else []
    return [*(_for_hydra(command, override) for override in overrides), *chosen]


def _for_hydra(command: str, override: Override) -> str:
    """Return the override; in a dict of changes, which starts empty, a key is added rather than changed."""
    adds = is_added(COMMANDS[command].settings, override.key_or_group)
    plain = not (override.is_add() or override.is_delete())
    return f"{'++' if adds and plain else ''}{override.input_line}"


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
            return ConfigError(unknown(group, name, cause.options) + unknown_name(group, name))
        if isinstance(cause, InterpolationKeyError):
            name = str(cause.msg).split("'")[1]
            return ConfigError(f"{cause.full_key}: ${{{name}}} is the value of another key, and there is no {name!r}.")
        if isinstance(cause, ConfigKeyError | ConfigAttributeError) and str(cause.full_key).startswith(SETTINGS):
            return ConfigError(unread(str(cause.full_key)))
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            return ConfigError(f"{cause.full_key}: {str(cause.msg).splitlines()[0]}.")
        cause = cause.__cause__
    if removed := re.match(r"Could not delete from config\. '(.+)' does", str(error)):
        return ConfigError(f"~{removed[1]}: the recipe has no such operation. Leave it out.")
    return ConfigError(str(error).splitlines()[0])
