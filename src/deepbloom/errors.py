"""Errors that a person can act on: what failed, the value received, the valid choices, the fix."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib.util import find_spec

MAX_NAMED = 15
"""A message that lists more choices than this would bury its point."""


class DeepBloomError(Exception):
    """Base of every expected failure. The command line prints the message without a traceback.

    Attributes
    ----------
    exit_code : int
        What the process ends with.
    """

    exit_code = 2


class ConfigError(DeepBloomError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(DeepBloomError):
    """Images are absent, unreadable or unusable for the task."""


class WeightsError(DeepBloomError):
    """Pretrained weights cannot be found, fetched or fitted to the network."""


class CheckpointError(DeepBloomError):
    """A checkpoint or run directory is absent, damaged, of another kind or of another dataset."""


class RunError(DeepBloomError):
    """A run directory cannot be used for what was asked."""


class DivergedError(DeepBloomError):
    """The training loss became non-finite; the last good state is kept."""

    exit_code = 3


class DistributedError(DeepBloomError):
    """This process stopped because another one of its group could not go on."""


class Interrupted(DeepBloomError):
    """Stopped by a signal after the state was saved.

    Parameters
    ----------
    message : str
    signal_number : int
        The exit code is 128 plus this number: 130 for SIGINT, 143 for SIGTERM.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def unknown(what: str, value: object, choices: Iterable[str]) -> str:
    """Return the sentence for a name that is not among ``choices``, with a suggestion when one is close."""
    known = sorted(choices)
    close = get_close_matches(str(value), known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    if close and len(known) > MAX_NAMED:
        return f"Unknown {what} {str(value)!r}.{hint}"
    more = f", and {len(known) - MAX_NAMED} more" if len(known) > MAX_NAMED + 1 else ""
    shown = known if not more else known[:MAX_NAMED]
    return f"Unknown {what} {str(value)!r}.{hint} Choices: {', '.join(shown)}{more}."


def name_some(names: Sequence[str]) -> str:
    """Return the first three of ``names`` and the number of the others: ``a, b, c and 12 more``."""
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more:,} more" if more > 0 else "")


def require_package(name: str, setting: str) -> None:
    """Raise `ConfigError` unless the package that ``setting`` needs is installed; its extra bears its name."""
    if find_spec(name) is None:
        raise ConfigError(
            f"{setting} needs the package {name}, which is not installed: pip install 'deepbloom[{name}]'."
        )
