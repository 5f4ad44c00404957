"""What a settings dataclass declares about its fields: which hold text as typed, and which choice reads them."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, get_origin, get_type_hints

from deepbloom.errors import ConfigError, unknown

T = TypeVar("T")

KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "names with their settings, such as {rotate: {degrees: 20}}",
}

Condition = tuple[str, Callable[[Any], bool]]
"""The settings that a field needs, as the user types them, and whether the dataclass that holds the field has them."""


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
        Commas belong to the value: ``a (1), b.jpg``. In a path, ``~`` is the home folder.
    only : (str, callable) or None
        When the field is read. Giving it in any other combination is an error.
    any_key : bool
        The field is a dict whose keys the settings do not know, such as the operations of an augmentation.
    changes : type or None
        The field is a dict of those settings of this dataclass that differ from a run's.
    """
    metadata = {"path": path, "text": text, "only": only, "any_key": any_key, "changes": changes}
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
    kind : type
        What its annotation says.
    group : type or None
        The dataclass of the keys below it, such as ``data.``; None if it is a value.
    """

    name: str
    owner: type
    field: "Field[Any]"
    kind: Any
    group: type | None

    @property
    def takes_list(self) -> bool:
        """Whether the value may be a list of texts."""
        return self.kind is Any

    @property
    def text(self) -> str:
        """How text is read: exactly as typed (``path``, ``text``), or with commas between values (``word``).

        Empty for numbers and groups.
        """
        kinds = [kind for kind in ("path", "text") if self.field.metadata.get(kind)]
        return kinds[0] if kinds else "word" if self.kind in (str, str | None, Any) else ""


def keys(schema: type, prefix: str = "") -> Iterator[Key]:
    """Yield every key of a settings dataclass, each group before the keys below it."""
    kinds = get_type_hints(schema)
    for entry in fields(schema):
        kind: Any = kinds[entry.name]
        group: type | None = kind if is_dataclass(kind) else entry.metadata.get("changes")  # type: ignore[assignment]
        yield Key(f"{prefix}{entry.name}", schema, entry, kind, group)
        if group:
            yield from keys(group, f"{prefix}{entry.name}.")


def defaults(schema: type) -> dict[str, Any]:
    """Return the default of every key as nested values; ``???`` where there is none."""
    kinds = get_type_hints(schema)
    return {
        entry.name: defaults(kinds[entry.name])
        if is_dataclass(kinds[entry.name])
        else {}
        if entry.metadata.get("changes")
        else "???"
        if entry.default is MISSING
        else entry.default
        for entry in fields(schema)
    }


def as_list(value: Any) -> list[Any]:
    """Return the values of a key that takes one or several, such as ``ckpt`` and ``[a,b]``."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values:
        raise ConfigError("A list is empty: give at least one value.")
    return values


def takes_any(schema: type, name: str) -> bool:
    """Return whether ``name`` is, or lies below, a dict that takes any key."""
    dicts = [key.name for key in keys(schema) if key.field.metadata.get("any_key")]
    return any(name == entry or name.startswith(f"{entry}.") for entry in dicts)


def is_key(schema: type, name: str) -> bool:
    """Return whether ``name`` is a key, or lies below one that takes any key."""
    return takes_any(schema, name) or any(name == key.name for key in keys(schema))


def is_added(schema: type, name: str) -> bool:
    """Return whether giving ``name`` adds a key to a dict rather than changing one that is there."""
    dicts = [key.name for key in keys(schema) if key.field.metadata.get("any_key") or key.field.metadata.get("changes")]
    return any(name.startswith(f"{entry}.") for entry in dicts)


def from_dict(cls: type[T], content: Any, prefix: str = "") -> T:
    """Build a settings dataclass from nested plain values, as ``dataclasses.asdict`` gives them.

    Raises
    ------
    ConfigError
        A key is unknown or missing, a value is of another type than its field or out of range. Messages name keys with
        ``prefix`` in front.
    """
    if not isinstance(content, dict):
        first = f"{prefix}{fields(cls)[0].name}"  # type: ignore[arg-type]
        raise ConfigError(f"{prefix.rstrip('.')}={_shown(content)}: give its settings one by one, as in {first}=VALUE.")
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
    optional = kind == (str | None)
    plain = str if optional else get_origin(kind) or kind
    if plain in KINDS and type(value) is not plain and not (optional and value is None):
        raise ConfigError(f"{name}={_shown(value)}: give {KINDS[plain]}.")
    return value


def _shown(value: Any) -> str:
    """Return a value as the user types it, shortened."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)[:60]


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


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise `ConfigError` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ConfigError(unknown(name, value, choices))


def check_range(name: str, value: float, low: float, high: float = float("inf"), *, open_low: bool = False) -> None:
    """Raise `ConfigError` unless ``low <= value <= high`` (``low < value`` where ``open_low``)."""
    if not math.isfinite(value) or not (low < value if open_low else low <= value) or not value <= high:
        sign = "greater than" if open_low else "of at least"
        upper = "" if high == float("inf") else f" and at most {_digits(high)}"
        number = "number" if math.isfinite(value) else "finite number"
        raise ConfigError(f"{name}={_digits(value)} is out of range: give a {number} {sign} {_digits(low)}{upper}.")


def _digits(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def flatten(
    content: Mapping[str, Any], prefix: str = "", is_value: Callable[[str], bool] = lambda _: False
) -> dict[str, Any]:
    """Return nested values under their dotted names; a mapping whose name ``is_value`` stays whole."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and not is_value(name):
            flat |= flatten(value, f"{name}.", is_value)
        else:
            flat[name] = value
    return flat


def update_nested(content: dict[str, Any], name: str, value: Any) -> None:
    """Set the value of a dotted name in nested dicts."""
    *groups, last = name.split(".")
    for group in groups:
        content = content.setdefault(group, {})
    content[last] = _without_paths(value)


def _without_paths(value: Any) -> Any:
    """Return a path as text, also in a list."""
    if isinstance(value, list | tuple):
        return [*map(_without_paths, value)]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def expand_home(value: Any) -> Any:
    """Return a path, or each path of a list, with ``~`` replaced by the home folder."""
    if isinstance(value, list):
        return [expand_home(entry) for entry in value]
    return os.path.expanduser(value) if isinstance(value, str) else value
