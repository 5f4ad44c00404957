"""SIGINT and SIGTERM: a first one asks to stop at the next safe point, a second one leaves at once."""

import os
import signal
from types import FrameType

from deepbloom.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Raised where a signal arrives while nothing needs saving.

    Parameters
    ----------
    signal_number : int
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.signal_number = signal_number


class StopRequest:
    """Within this context, the first SIGINT or SIGTERM either raises `Stopped` or, while `deferred`, is remembered.

    Attributes
    ----------
    deferred : bool
        Set by code that saves its state at safe points and calls `check` there.
    """

    def __init__(self) -> None:
        self.deferred = False
        self.signal_number: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.signal_number is not None:
            os._exit(128 + number)
        self.signal_number = number
        if not self.deferred:
            raise Stopped(number)

    @property
    def requested(self) -> bool:
        return self.signal_number is not None

    def check(self, message: str) -> None:
        """Raise `Interrupted` with ``message`` if a signal has come."""
        if self.signal_number is not None:
            raise Interrupted(message, self.signal_number)
