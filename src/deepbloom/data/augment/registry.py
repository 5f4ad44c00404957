"""The registry: an operation is one function with its decorator, named in ``augment.ops``."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from deepbloom.config.schema import check_choice, check_range
from deepbloom.config.settings import AugmentConfig
from deepbloom.errors import ConfigError, unknown

Function = TypeVar("Function", bound=Callable[..., Any])

GEOMETRIC, PIXEL, BATCH = KINDS = ("geometric", "pixel", "batch")


@dataclass(frozen=True)
class Op:
    """A registered operation. `augmentation` describes the fields."""

    function: Callable[..., Any]
    kind: str
    random: bool
    changes_labels: bool
    columns: slice
    """Of the random numbers of each image."""
    ranges: dict[str, tuple[float, float]]


OPS: dict[str, Op] = {}


def augmentation(
    name: str, *, kind: str, random: bool, changes_labels: bool = False, numbers: int = 0, **ranges: tuple[float, float]
) -> Callable[[Function], Function]:
    """Register a function as the operation ``augment.ops.NAME``.

    Parameters
    ----------
    kind : str
        ``geometric``: ``function(uniform, **parameters)`` gets float64 numbers in [0, 1) of shape (B, ``numbers``) and
        returns float64 maps of shape (B, 2, 3) from output to input coordinates, which are x and y in [-1, 1]. The maps
        of all operations become one, and images are sampled once.
        ``pixel``: ``function(images, uniform, **parameters)`` gets float32 images in [0, 1] of shape (B, 3, T, T) and
        float32 numbers on their device, and returns new images.
        ``batch``: ``function(inputs, targets, stream, **parameters)`` gets network inputs, float targets of shape
        (B, C) and a CPU generator, and returns new inputs and targets.
    random : bool
        Two copies of an image may differ.
    changes_labels : bool
        The targets of the batch change with its images.
    numbers : int
        Uniform random numbers per image. Register new operations last: those registered before keep their numbers.
    **ranges : (float, float)
        Lowest and highest value of each parameter.
    """
    check_choice("kind of augmentation", kind, KINDS)

    def register(function: Function) -> Function:
        start = max((op.columns.stop for op in OPS.values()), default=0)
        OPS[name] = Op(function, kind, random, changes_labels, slice(start, start + numbers), ranges)
        return function

    return register


def chosen_ops(config: AugmentConfig) -> list[tuple[Op, dict[str, float]]]:
    """Return the operations of a config with their parameters.

    Raises
    ------
    ConfigError
        An operation or parameter is unknown or missing, or a value is out of range.
    """
    chosen = []
    for name, parameters in config.ops.items():
        if name not in OPS:
            raise ConfigError(unknown("augmentation (augment.ops)", name, OPS))
        op = OPS[name]
        if parameters.keys() != op.ranges.keys():
            raise ConfigError(
                f"augment.ops.{name} takes {', '.join(op.ranges) or 'no parameters'}, "
                f"but was given {', '.join(parameters) or 'none'}."
            )
        for parameter, value in parameters.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"augment.ops.{name}.{parameter}={value!r} must be a number.")
            check_range(f"augment.ops.{name}.{parameter}", value, *op.ranges[parameter])
        chosen.append((op, dict(parameters)))
    return chosen


def is_random(config: AugmentConfig) -> bool:
    """Return whether two augmented copies of an image may differ."""
    return any(op.random for op, _ in chosen_ops(config))


def changes_labels(config: AugmentConfig) -> bool:
    """Return whether the targets of a batch change with its images."""
    return any(op.changes_labels for op, _ in chosen_ops(config))
