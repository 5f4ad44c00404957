"""SIGINT and SIGTERM: a first one asks to stop at the next safe point, a second one leaves at once."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from deepbloom.errors import Interrupted

Handler = Callable[[int, FrameType | None], object]


@contextmanager
def handled(handler: Handler) -> Iterator[None]:
    """Have ``handler`` called for SIGINT and SIGTERM, as far as the system has them, and then what was called before.

    Python allows handlers in the main thread alone: in any other nothing is changed.
    """
    main = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM") if hasattr(signal, name)] if main else []
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)  # None: not of Python


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
        self._handled = ExitStack()

    def __enter__(self) -> "StopRequest":
        self._handled.enter_context(handled(self._handle))
        return self

    def __exit__(self, *_: object) -> None:
        self._handled.close()

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
