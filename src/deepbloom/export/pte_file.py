"""ExecuTorch files from anywhere, read as data before a runtime sees them: FlatBuffers, no package needed.

Field numbers are those of https://github.com/pytorch/executorch/blob/main/schema/program.fbs.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deepbloom.engine.predictor import METADATA
from deepbloom.errors import CheckpointError
from deepbloom.export.limits import MAX_BYTES, MAX_NODES, read_limited

IDENTIFIER = b"ET12"
FORWARD = "forward"
"""The method that classifies images."""
BACKEND = "XnnpackBackend"
NAMESPACES = ("aten", "dim_order_ops", "executorch_prim")
"""Of operators that are not delegated: the standard ones, memory layout and arithmetic of sizes."""
TENSOR, STRING = 5, 6
"""Kinds of values."""
JUMP = 4
"""The kind of instruction that control flow is made of."""


@dataclass(frozen=True)
class _Table:
    """A table of a FlatBuffer."""

    content: bytes
    place: int

    def field(self, number: int) -> int:
        """Return the place of a field, 0 if it is absent."""
        table = self.place - self._number("<i", self.place)
        slot = 4 + 2 * number
        offset = self._number("<H", table + slot) if slot < self._number("<H", table) else 0
        return self.place + offset if offset else 0

    def byte(self, number: int) -> int:
        place = self.field(number)
        return self._number("<B", place) if place else 0

    def table(self, number: int) -> "_Table":
        return _Table(self.content, self._follow(self._required(number)))

    def text(self, number: int) -> str:
        place = self.field(number)
        return self._bytes(self._follow(place)).decode() if place else ""

    def tables(self, number: int) -> "Iterator[_Table]":
        return (_Table(self.content, self._follow(place)) for place in self._items(number, 4))

    def numbers(self, number: int, code: str) -> list[int]:
        """Return a vector of integers; ``code`` is that of `struct`."""
        return [self._number(code, place) for place in self._items(number, struct.calcsize(code))]

    def _items(self, number: int, size: int) -> range:
        field = self.field(number)
        start = self._follow(field) if field else 0
        count = self._number("<I", start) if field else 0
        if count > MAX_NODES:
            raise ValueError(f"a list of {count:,}")
        return range(start + 4, start + 4 + size * count, size)

    def _required(self, number: int) -> int:
        place = self.field(number)
        if not place:
            raise ValueError(f"no field {number}")
        return place

    def _follow(self, place: int) -> int:
        return place + self._number("<I", place)

    def _bytes(self, place: int) -> bytes:
        end = place + 4 + self._number("<I", place)
        if end > len(self.content):
            raise ValueError("a text ends behind the file")
        return self.content[place + 4 : end]

    def _number(self, code: str, place: int) -> int:
        if place < 0:
            raise ValueError("a place in front of the file")
        return int(struct.unpack_from(code, self.content, place)[0])


def read_pte(path: Path) -> tuple[bytes, str | None]:
    """Return the bytes of a file whose program is that of an image classifier, and its header as text, if it has one.

    The method `METADATA` returns it.

    What XNNPACK is given, weights and a graph in its own format, is checked by the runtime alone.

    Raises
    ------
    CheckpointError
        It is no ExecuTorch program, is too large, refers to other files, or has methods, operators, backends or control
        flow that no classifier needs.
    """
    content = read_limited(path)
    if content[4:8] != IDENTIFIER:
        raise CheckpointError(f"{path} is damaged or no ExecuTorch program.")
    header = None
    try:
        for plan in _root(content).tables(1):
            name = plan.text(0)
            if name not in (FORWARD, METADATA):
                raise CheckpointError(f"{path} is refused: it has a method {name!r}, which no image classifier needs.")
            _check_plan(plan, path)
            if name == METADATA:
                header = _text_of(plan)
    except (ValueError, IndexError, struct.error) as error:
        raise CheckpointError(f"{path} is damaged or no ExecuTorch program ({type(error).__name__}).") from error
    return content, header


def _root(content: bytes) -> _Table:
    return _Table(content, struct.unpack_from("<I", content)[0])


def _text_of(plan: _Table) -> str | None:
    """Return the text that a method returns."""
    values, (output,) = list(plan.tables(2)), plan.numbers(4, "<i")
    value = values[output]
    return value.table(1).text(0) if value.byte(0) == STRING else None


def _check_plan(plan: _Table, path: Path) -> None:
    for value in plan.tables(2):
        if value.byte(0) == TENSOR:
            _check_tensor(value.table(1), path)
    for operator in plan.tables(6):
        name = operator.text(0)
        if name.partition("::")[0] not in NAMESPACES:
            raise CheckpointError(f"{path} is refused: it has the operator {name!r}, which no image classifier needs.")
    for delegate in plan.tables(7):
        if delegate.text(0) != BACKEND:
            raise CheckpointError(f"{path} is refused: it is for {delegate.text(0)!r}, not for {BACKEND}.")
    for chain in plan.tables(5):
        if any(instruction.byte(0) == JUMP for instruction in chain.tables(2)):
            raise CheckpointError(f"{path} is refused: it has control flow, which no image classifier needs.")
    if sum(plan.numbers(8, "<Q")) > MAX_BYTES:
        raise CheckpointError(f"{path} is refused: it asks for more than {MAX_BYTES:,} bytes of memory.")


def _check_tensor(tensor: _Table, path: Path) -> None:
    if tensor.field(9) and tensor.table(9).byte(2):
        raise CheckpointError(f"{path} is refused: its weights lie in another file. Export it as one file.")
    sizes = tensor.numbers(2, "<i")
    if min(sizes, default=1) < 0 or math.prod(sizes) > MAX_BYTES:
        raise CheckpointError(f"{path} is refused: a tensor of shape {tuple(sizes)[:8]} is more than a file can hold.")
