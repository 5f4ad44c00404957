"""ONNX files from anywhere, read as data before a runtime sees them: protobuf's wire format, no package needed.

Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepbloom.errors import CheckpointError
from deepbloom.export.limits import MAX_BYTES, MAX_NODES, read_limited

DOMAINS = (b"", b"ai.onnx")
FORBIDDEN = (b"If", b"Loop", b"Scan", b"SequenceMap", b"StringConcat", b"RegexFullMatch", b"StringSplit")
"""Operators that run other graphs or are for text: no image classifier of this tool has one."""
EXTERNAL = 1


def read_onnx(path: Path) -> tuple[bytes, dict[str, str]]:
    """Return the bytes of a file that is safe to give to a runtime, and its metadata.

    Raises
    ------
    CheckpointError
        It is no ONNX file, is too large, refers to other files, or has operators that no classifier needs.
    """
    content = read_limited(path)
    metadata: dict[str, str] = {}
    try:
        for number, value in _fields(memoryview(content)):
            if number == 7:
                _check_graph(value, path)
            elif number == 25:
                raise CheckpointError(f"{path} is refused: it defines functions of its own.")
            elif number == 14:
                pair = {key: bytes(text).decode() for key, text in _fields(value)}
                metadata[pair[1]] = pair.get(2, "")
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged or no ONNX file ({type(error).__name__}).") from error
    return content, metadata


def _check_graph(graph: memoryview, path: Path) -> None:
    nodes = 0
    for number, value in _fields(graph):
        if number == 1:
            nodes += 1
            _check_node(value, path)
        elif number == 5:
            _check_tensor(value, path)
        elif number == 15:
            raise CheckpointError(f"{path} is refused: it has sparse tensors.")
    if nodes > MAX_NODES:
        raise CheckpointError(f"{path} is refused: {nodes:,} operators are more than {MAX_NODES:,}.")


def _check_node(node: memoryview, path: Path) -> None:
    found = {4: b"", 7: b""}
    for number, value in _fields(node):
        if number in found:
            found[number] = bytes(value)
        elif number == 5:
            for inner, tensor in _fields(value):
                if inner in (6, 11):
                    raise CheckpointError(f"{path} is refused: an operator runs a graph of its own.")
                if inner in (5, 10):
                    _check_tensor(tensor, path)
    if found[7] not in DOMAINS or found[4] in FORBIDDEN:
        name = b".".join(filter(None, (found[7], found[4]))).decode("ascii", "backslashreplace")
        raise CheckpointError(f"{path} is refused: it has the operator {name}, which no image classifier needs.")


def _check_tensor(tensor: memoryview, path: Path) -> None:
    elements = 1
    for number, value in _fields(tensor):
        if number == 13 or (number == 14 and value == EXTERNAL):
            raise CheckpointError(f"{path} is refused: its weights lie in another file. Export it as one file.")
        if number == 1:
            elements *= math.prod(_varints(value)) if isinstance(value, memoryview) else value
    if elements > MAX_BYTES:
        raise CheckpointError(f"{path} is refused: a tensor of {elements:,} numbers is more than a file can hold.")


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field: an integer, or the bytes of a text, a message or packed numbers."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if size is None:
            if kind != 2:
                raise ValueError(f"a field of kind {kind}")
            size, place = _varint(message, place)
        if place + size > len(message):
            raise ValueError("a field ends behind the file")
        yield key >> 3, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value, place, shift = value | (byte & 127) << shift, place + 1, shift + 7
        if byte < 128:
            return value, place
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _varints(message: memoryview) -> Iterator[int]:
    place = 0
    while place < len(message):
        value, place = _varint(message, place)
        yield value
