"""How long all attempts at a run took together, however they ended."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from deepbloom.runs.folder import ELAPSED


class Stopwatch:
    """Counts from its creation on; within `kept`, earlier attempts at the run count too."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._before = 0.0

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    @contextmanager
    def kept(self, folder: Path) -> Iterator[None]:
        """Write the seconds into the run directory once a second, so that a kill loses no more than one of them."""
        path = folder / ELAPSED
        with suppress(OSError, ValueError):
            self._before = max(0.0, float(path.read_text("ascii")))
        ended = Event()
        writer = Thread(target=self._write_every_second, args=(path, ended), daemon=True)
        writer.start()
        try:
            yield
        finally:
            ended.set()
            writer.join()

    def _write_every_second(self, path: Path, ended: Event) -> None:
        last = False
        while True:
            with suppress(OSError):  # a full disk: the seconds are no reason to stop
                path.write_bytes(f"{self.seconds:.3f}".encode())
            if last:
                return
            last = ended.wait(1)
