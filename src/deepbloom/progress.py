"""How far a step is: a bar in a terminal, a line every 30 seconds in a pipe or a log."""

import io
import logging
import sys
import threading
from typing import Any

from tqdm import tqdm

log = logging.getLogger("deepbloom")

SECONDS_BETWEEN_LINES = 30.0


class ProgressBar(tqdm):  # type: ignore[misc]
    """A ``tqdm`` bar on standard error, or log lines where that is not a terminal. Takes the arguments of ``tqdm``.

    ``ProgressBar.write`` prints a line above the bar.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self.is_bar = sys.stderr.isatty()
        if not self.is_bar:
            seconds = SECONDS_BETWEEN_LINES
            options |= {"file": io.StringIO(), "delay": seconds, "mininterval": seconds, "maxinterval": 2 * seconds}
            options |= {"miniters": 1}
        super().__init__(*args, **{"leave": False, "unit": "step"} | options)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draw the bar, or log a line."""
        if self.is_bar:
            return bool(super().display(msg, pos))
        if msg is None and self.n:
            log.info("%s", describe(self.format_dict))
        return True


# A thread lock: a child process that is killed while it holds tqdm's lock for processes would stop all others.
ProgressBar.set_lock(threading.RLock())


def describe(state: dict[str, Any]) -> str:
    """Return a bar's ``format_dict`` in words: ``Decoding images: 120 of 400, 01:10 left``."""
    done = f"{state['n']} of {state['total']}" if state["total"] else f"{state['n']}"
    rate = state["rate"] or (state["n"] - state["initial"]) / max(state["elapsed"], 1e-9)
    left = f", {tqdm.format_interval((state['total'] - state['n']) / rate)} left" if state["total"] and rate else ""
    note = f", {state['postfix']}" if state["postfix"] else ""
    return f"{state['prefix'] or 'progress'}: {done} {state['unit']}s{note}{left}"
