"""What a run leaves about itself while it is made: its log, and why it failed."""

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from deepbloom.errors import DeepBloomError, Interrupted, RunError
from deepbloom.progress import ProgressBar
from deepbloom.runs import files
from deepbloom.runs import folder as run_dir
from deepbloom.sinks import LogFormatter, message

log = logging.getLogger("deepbloom")


@contextmanager
def recorded(folder: Path, on_end: Callable[[str], None]) -> Iterator[None]:
    """Record a run in its directory: its log, and why it failed. A run refused at once leaves nothing.

    Parameters
    ----------
    folder : Path
        The run directory, held by this process.
    on_end : function
        Called with ``complete``, ``partial`` (interrupted) or ``failed``.
    """
    state = run_dir.read_state(folder)
    files.remove_leftovers(folder)
    (folder / run_dir.FAILED).unlink(missing_ok=True)
    with _log_file(folder):
        try:
            with _disk_errors(folder), logging_redirect_tqdm(tqdm_class=ProgressBar):
                yield
        except Interrupted as error:
            log.debug("%s", error)
            on_end("partial")
            raise
        except Exception as error:
            _record_failure(folder, error)
            on_end("failed")
            if state == "empty" and not run_dir.holds_state(folder) and getattr(error, "exit_code", 1) == 2:
                run_dir.discard(folder)
            raise
        on_end("complete")


@contextmanager
def log_level(level: int) -> Iterator[None]:
    """Set the level of DeepBloom's log for a while."""
    before = log.level
    log.setLevel(level)
    try:
        yield
    finally:
        log.setLevel(before)


def _record_failure(folder: Path, error: Exception) -> None:
    """Write the reason into the run directory, and a bug's traceback into its log, as far as the disk allows.

    A run that is complete although the disk failed a moment later is left as it is.
    """
    if (folder / run_dir.METRICS).exists():
        return
    reason = f"{type(error).__name__}: {error}\n"
    with suppress(OSError, RunError):
        files.write_bytes(folder / run_dir.FAILED, reason.encode("utf-8", "backslashreplace"))
        with open(folder / run_dir.LOG, "a", encoding="utf-8", newline="\n") as file:
            text = reason if isinstance(error, DeepBloomError) else "".join(traceback.format_exception(error))
            file.write(message(text.rstrip()) + "\n")


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turn OS errors into an error that says what is kept."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{error}. What was saved in {folder} before is unchanged. Free space or repair the disk, then run the "
            "same command to resume."
        ) from error


class _LogFile(logging.FileHandler):
    """A log that cannot be written stops nothing."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextmanager
def _log_file(folder: Path) -> Iterator[None]:
    """Write this run's log lines to its own file too, at level INFO at least."""
    handler = _LogFile(folder / run_dir.LOG, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        with log_level(min(log.getEffectiveLevel(), logging.INFO)):
            yield
    finally:
        log.removeHandler(handler)
        with suppress(OSError):
            handler.close()
