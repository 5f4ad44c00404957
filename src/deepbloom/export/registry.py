"""The registry of export formats: one function with a decorator per format."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deepbloom.config.export_settings import PRECISIONS
from deepbloom.config.schema import check_choice
from deepbloom.engine.checkpoint import Trained
from deepbloom.errors import ConfigError, require_package
from deepbloom.export.verify import Sample


@dataclass
class Job:
    """What is exported, and into which folder."""

    trained: Trained
    precision: str
    folder: Path
    calibration: Callable[[], np.ndarray]
    """Gives training images that int8 is calibrated on, uint8 of shape (N, S, S, 3)."""
    control: Callable[[], np.ndarray]
    """Gives other images, on which int8 must agree with the checkpoint lest it falls back to weights alone."""
    notes: list[str]
    """What a person should know of the file."""
    validation: Sample | None = None
    """The whole validation split, whose confidences an int8 file keeps; None where it is not at hand."""

    @cached_property
    def header(self) -> str:
        """The checkpoint's header as JSON, which travels in the file; for int8 see `own_header`."""
        return json.dumps(self.trained.header, ensure_ascii=True)

    @cached_property
    def expected(self) -> np.ndarray:
        """The checkpoint's predictions of the control images: int64, shape (N,)."""
        return np.concatenate([self.trained.logits(pixels).argmax(1) for pixels in self.control_batches()])

    def control_batches(self) -> list[np.ndarray]:
        """Return the control images in batches of about 32."""
        control = self.control()
        return np.array_split(control, max(1, len(control) // 32))


@dataclass(frozen=True)
class Format:
    """A way to write a network."""

    name: str
    packages: tuple[str, ...]
    extra: str
    precisions: tuple[str, ...]
    write: Callable[[Job], Sequence[Path]]
    """Writes the files; the first is the one that is opened."""


FORMATS: dict[str, Format] = {}
NOT_WRITTEN = {
    "litert": "its converter, litert-torch, needs torch below 2.15. Write format=onnx, and convert that file in a "
    "separate environment.",
}
"""Formats that are not written: why not, and what to do instead."""


def export_format(
    name: str, *packages: str, extra: str, precisions: tuple[str, ...] = PRECISIONS
) -> Callable[[Callable[[Job], Sequence[Path]]], Any]:
    """Register a function that writes a format in these precisions; the extra installs the packages that it needs."""

    def register(write: Callable[[Job], Sequence[Path]]) -> Callable[[Job], Sequence[Path]]:
        FORMATS[name] = Format(name, packages, extra, precisions, write)
        return write

    return register


def check_format(name: str, precision: str) -> None:
    """Raise `ConfigError` unless a format is written in a precision."""
    if name in NOT_WRITTEN:
        raise ConfigError(f"format={name} is not supported: {NOT_WRITTEN[name]}")
    check_choice("format", name, tuple(FORMATS))
    if precision not in FORMATS[name].precisions:
        written = " or ".join(FORMATS[name].precisions)
        raise ConfigError(f"format={name} supports precision={written}, not {precision}.")


def check_packages(format_name: str, precision: str) -> None:
    """Raise `ConfigError` unless the packages of a format are installed."""
    found = FORMATS[format_name]
    extra_packages = ("nncf",) if format_name == "openvino" and precision == "int8" else ()
    for package in (*found.packages, *extra_packages):
        require_package(package, f"format={format_name} precision={precision}", extra=found.extra)
