"""The text of ``--help``, made from the table of commands, the settings' docstrings and the names in ``conf/``."""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING
from functools import lru_cache
from typing import Any

import yaml

from deepbloom.cli.choice import RULE
from deepbloom.config.commands import COMMANDS, load
from deepbloom.config.groups import choices, conf_dir, group_defaults, groups_of
from deepbloom.config.schema import Key, flatten, keys
from deepbloom.config.settings import RunConfig

WIDTH = 100


def overview() -> str:
    """Return the text of ``deepbloom --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {row.summary}" for name, row in COMMANDS.items()]
    return "\n".join(
        [
            "deepbloom COMMAND [key=value ...]",
            "",
            "Train, compare and explain image classifiers.",
            "",
            "Commands (deepbloom COMMAND --help lists the keys of each):",
            *lines,
            "",
            "Names to choose from, e.g. model=mini_resnet:",
            *_listing(choices()),
            "",
            "Start here:",
            "  deepbloom train model=mini_resnet train.epochs=5",
            "  deepbloom report",
        ]
    )


def command(name: str) -> str:
    """Return the text of ``deepbloom COMMAND --help``."""
    row = COMMANDS[name]
    lines = [f"deepbloom {name}{' [-m]' * row.multirun} [key=value ...]", "", row.summary, "", "Examples:"]
    lines += [f"  {example}" for example in row.examples]
    names = groups_of(row.settings) | {key: list(load(place)) for key, place in row.names.items()}
    note = "; a model may have other defaults" if "model" in names else ""
    lines += ["", f"Names to choose from, as KEY=NAME{note}:"] * bool(names)
    lines += _listing(names, group_defaults(row.settings))
    lines += _models() * ("model" in names and row.settings is RunConfig)
    listed = list(_listed_keys(row.settings))
    lines += ["", "Keys (default):"] * bool(listed)
    for key in listed:
        lines.append(f"  {_with_default(key)}")
        text = _docstrings(key.owner)[key.field.name].replace("``", "")
        lines += textwrap.wrap(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    multirun = " -m runs every combination of values that are separated by commas." * row.multirun
    return "\n".join([*lines, "", f"--cfg job shows the settings without running.{multirun}"])


def _listing(names: Mapping[str, Sequence[str]], defaults: Mapping[str, str | None] | None = None) -> list[str]:
    """Return wrapped lines with the names of each key; the one that a command starts from is marked."""
    lines = []
    for key, known in names.items():
        default = (defaults or {}).get(key)
        text = ", ".join(f"{name} (default)" if name == default else name for name in known)
        lines += textwrap.wrap(
            text, WIDTH, initial_indent=f"  {key:<10}  ", subsequent_indent=" " * 14, break_on_hyphens=False
        )
    return lines


def _models() -> list[str]:
    """Return what a run starts from, and a line on the size of each model."""
    start = ", ".join(
        f"{group}={name}" for group, name in group_defaults(RunConfig).items() if name and group != "logger"
    )
    text = f"A run starts from {start}, unless the model says otherwise. {RULE}"
    lines = ["", "Defaults:", *textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")]
    lines += ["", "Models, for 102 classes (modules that train; defaults of their own):"]
    for path in sorted((conf_dir() / "model").glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        trained = content.get("model", content)["trainable"]
        modules = trained if isinstance(trained, str) else ", ".join(trained)
        size = next(line[2:] for line in text.splitlines() if not line.startswith("# @"))
        about = "; ".join([modules, *_own_defaults(content)])
        lines += textwrap.wrap(
            f"{path.stem:<27}{size.rstrip('.')} ({about})", WIDTH, initial_indent="  ", subsequent_indent=" " * 29
        )
    return lines


def _own_defaults(content: Mapping[str, Any]) -> list[str]:
    """Return what the YAML file of a model sets beside the model, as ``KEY=VALUE``."""
    if "model" not in content:
        return []
    groups = [f"{key.split('/')[-1]}={name}" for entry in content.get("defaults", []) for key, name in entry.items()]
    beside = {key: value for key, value in content.items() if key not in ("model", "defaults")}
    return groups + [f"{key}={value}" for key, value in flatten(beside).items()]


def _listed_keys(schema: type) -> Iterator[Key]:
    """Yield the keys that hold a value. ``name`` is chosen as a group; changes to a run's settings are one entry."""
    changes = ""
    for key in keys(schema):
        if key.field.metadata.get("changes"):
            changes = f"{key.name}."
            yield key
        elif key.group is None and key.field.name != "name" and not (changes and key.name.startswith(changes)):
            yield key


def _with_default(key: Key) -> str:
    if key.group:
        return f"{key.name}.KEY=(that of the run)"
    value = key.field.default
    if value is MISSING:
        return f"{key.name}=(that of {key.name.partition('.')[0]}=NAME)"
    return f"{key.name}={'null' if value is None else str(value).lower() if isinstance(value, bool) else value}"


@lru_cache
def _docstrings(schema: type) -> dict[str, str]:
    """Return the string that stands below each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(schema))).body[0].body  # type: ignore[attr-defined]
    docs = {}
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
            docs[statement.target.id] = " ".join(following.value.value.split())  # type: ignore[union-attr,attr-defined]
    return docs
