"""Values of text keys, quoted so that Hydra takes them as typed."""

import os
import re
from collections.abc import Mapping

from hydra.core.override_parser.types import Quote, QuotedString

from deepbloom.config.schema import Key, expand_home

_QUOTED = r"""(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")"""
_LIST = rf"""\[(?:{_QUOTED}|\$\{{[^}}]*\}}|[^\[\]])*\]"""
_ELEMENT = re.compile(rf"(?:\A|,)\s*({_QUOTED}|{_LIST}|(?:\$\{{[^}}]*\}}|[^,])*?)\s*(?=,|\Z)", re.DOTALL)


def quote_text(argument: str, known: Mapping[str, Key], multirun: bool) -> str:
    """Return an override with the value of a text key quoted, so that Hydra takes it exactly as typed.

    Three forms keep their meaning unless the key is a path and a file or folder has exactly that name: a quoted value
    stays as it is, ``${...}`` is an interpolation, and the elements of a list ``[a,b]`` are quoted one by one. Commas
    separate the values of a word, and in a multirun those of any text.
    """
    name, sign, value = argument.partition("=")
    key = known.get(name.lstrip("+"))
    if not sign or key is None or not key.text:
        return argument
    path = key.text == "path"
    whole = (key.text != "word" and not multirun) or (path and _exists(value))
    values = [value] if whole else _ELEMENT.findall(value)
    return f"{name}={','.join(_quote(value, path) for value in values)}"


def _exists(path: str) -> bool:
    return os.path.lexists(expand_home(path))


def _quote(value: str, path: bool) -> str:
    if path and _exists(value):
        return _quoted(re.sub(r"(\\*)\$\{", r"\1\1\\${", value))
    if re.fullmatch(_QUOTED, value, re.DOTALL):
        return value
    if _is_list(value):
        inside = value[1:-1]
        return f"[{','.join(_quote(part, path) for part in _ELEMENT.findall(inside)) if inside.strip() else ''}]"
    return _quoted(re.sub(r"\$\{(?![^{}]*\})", r"\\${", value))  # not an interpolation unless closed


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()


def _is_list(value: str) -> bool:
    """Return whether the bracket at the start is closed at the end: ``[a,b]``, but not ``[2024] roses/*.jp[g]``."""
    depth = 0
    for found in re.finditer(rf"{_QUOTED}|[\[\]]", value):
        depth += {"[": 1, "]": -1}.get(found[0], 0)
        if depth <= 0:
            return value.startswith("[") and found.end() == len(value)
    return value.startswith("[") and value.endswith("]")
