"""What a settings dataclass declares about its fields: which hold text as typed, and which choice reads them."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from deepbloom.errors import ConfigError, unknown

T = TypeVar("T")

Condition = tuple[str, Callable[[Any], bool]]
"""The settings that a field needs, as a person types them, and whether the dataclass that holds the field has them."""


def setting(
    default: Any = MISSING,
    *,
    path: bool = False,
    text: bool = False,
    only: Condition | None = None,
    any_key: bool = False,
    changes: type | None = None,
) -> Any:
    """Return a dataclass field; without a default, a YAML group fills it.

    Parameters
    ----------
    default : object
    path, text : bool
        The value is text, or a list of texts, exactly as typed: ``2024_06``, ``null`` or ``a (1), b.jpg``. In a path,
        ``~`` is the home folder.
    only : (str, callable) or None
        When the field is read. Giving it in any other combination is an error.
    any_key : bool
        The field is a dict whose keys the settings do not know, such as the operations of an augmentation.
    changes : type or None
        The field is a dict of those settings of this dataclass that differ from a run's.
    """
    metadata = {"path": path, "text": text or path, "only": only, "any_key": any_key, "changes": changes}
    if changes is not None:
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Key:
    """One key of a command.

    Attributes
    ----------
    name : str
        Such as ``data.root``.
    owner : type
        The dataclass that declares it.
    field : Field
    group : type or None
        The dataclass of the keys below it, such as ``data.``; None if it is a value.
    """

    name: str
    owner: type
    field: "Field[Any]"
    group: type | None


def keys(schema: type, prefix: str = "") -> Iterator[Key]:
    """Yield every key of a settings dataclass, each group before the keys below it."""
    kinds = get_type_hints(schema)
    for entry in fields(schema):
        kind: Any = kinds[entry.name]
        group: type | None = kind if is_dataclass(kind) else entry.metadata.get("changes")  # type: ignore[assignment]
        yield Key(f"{prefix}{entry.name}", schema, entry, group)
        if group:
            yield from keys(group, f"{prefix}{entry.name}.")


def is_key(schema: type, name: str) -> bool:
    """Return whether ``name`` is a key, or lies below one that takes any key."""
    return any(name == key.name or (_takes_any(key) and name.startswith(f"{key.name}.")) for key in keys(schema))


def is_added(schema: type, name: str) -> bool:
    """Return whether giving ``name`` adds a key to a dict rather than changing one that is there."""
    dicts = [key.name for key in keys(schema) if _takes_any(key) or key.field.metadata.get("changes")]
    return any(name.startswith(f"{entry}.") for entry in dicts)


def _takes_any(key: Key) -> bool:
    return bool(key.field.metadata.get("any_key"))


def text_keys(schema: type, kind: str = "text") -> frozenset[str]:
    """Return the names of the keys whose value is text as typed; with ``kind="path"``, of those that are paths."""
    return frozenset(key.name for key in keys(schema) if key.field.metadata.get(kind))


def from_dict(cls: type[T], content: Any, prefix: str = "") -> T:
    """Build a settings dataclass from nested plain values, as ``dataclasses.asdict`` gives them.

    Raises
    ------
    ConfigError
        A key is unknown or missing, a value is of another type than its field or out of range. Messages name keys with
        ``prefix`` in front.
    """
    if not isinstance(content, dict):
        raise ConfigError(f"{prefix.rstrip('.')}={str(content)[:60]!r} is not a group of settings.")
    known = get_type_hints(cls)
    for key in content:
        if key not in known:
            raise ConfigError(unknown("setting", f"{prefix}{key}", [f"{prefix}{name}" for name in known]))
    values = {key: _typed(known[key], value, f"{prefix}{key}") for key, value in content.items()}
    for entry in fields(cls):  # type: ignore[arg-type]
        required = entry.default is MISSING and entry.default_factory is MISSING
        if required and values.get(entry.name, "???") == "???":
            raise ConfigError(f"{prefix}{entry.name} has no value: give {prefix}{entry.name}=VALUE.")
    return cls(**values)


def _typed(kind: Any, value: Any, name: str) -> Any:
    if value == "???" and kind not in (bool, int, float):  # OmegaConf's sign for a value that is missing
        return value
    if is_dataclass(kind):
        return from_dict(kind, value, f"{name}.")  # type: ignore[arg-type]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (bool, int, float, str) and type(value) is not kind:
        raise ConfigError(f"{name}={value!r} must be of type {kind.__name__}.")
    if kind == (str | None) and not isinstance(value, str | None):
        raise ConfigError(f"{name}={value!r} must be text.")
    return value


def check_read(settings: Any, given: Iterable[str], prefix: str = "") -> None:
    """Raise `ConfigError` if nothing reads one of the keys that were ``given``.

    Parameters
    ----------
    settings : dataclass
    given : iterable of str
        Names of keys.
    prefix : str
        What stands before the keys of ``settings``, such as ``data.``; other keys are not checked.
    """
    for name in given:
        owner, parts = settings, name.removeprefix(prefix).split(".")
        for part in parts[:-1]:
            owner = getattr(owner, part, None)
        if not name.startswith(prefix) or not is_dataclass(owner):
            continue
        only = {entry.name: entry.metadata.get("only") for entry in fields(owner)}.get(parts[-1])
        if only and not only[1](owner):
            raise ConfigError(f"Nothing reads {name} here. Leave it out, or add {only[0]}.")


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat


def update_nested(content: dict[str, Any], name: str, value: Any) -> None:
    """Set the value of a dotted name in nested dicts."""
    *groups, last = name.split(".")
    for group in groups:
        content = content.setdefault(group, {})
    content[last] = os.fspath(value) if isinstance(value, os.PathLike) else value


def expand_home(value: Any) -> Any:
    """Return a path, or each path of a list, with ``~`` replaced by the home folder."""
    if isinstance(value, list):
        return [expand_home(entry) for entry in value]
    return os.path.expanduser(value) if isinstance(value, str) else value
