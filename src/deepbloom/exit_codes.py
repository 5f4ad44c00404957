"""From errors and signals to the exit code of a process."""

import errno
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import TextIO, cast

from deepbloom import __version__, file_warnings
from deepbloom.errors import ConfigError, DeepBloomError, DistributedError, DivergedError, Interrupted
from deepbloom.signals import StopRequest
from deepbloom.sinks import LogFormatter, Screen, message

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
USER_CAN_FIX = (
    *NO_SPACE,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EMFILE,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
"""OS errors the user can fix."""


SAID_BY_RANK_0 = (ConfigError, DistributedError, DivergedError, Interrupted)
"""Errors that all processes of a distributed run have in common."""


def _follows() -> bool:
    """Return whether this is a process that torchrun started besides rank 0."""
    return os.environ.get("RANK", "0") != "0"


def guarded(work: Callable[[], object]) -> int:
    """Run ``work`` and return the exit code.

    0 done, 2 the user can fix it, 3 diverged, 4 a file disagrees, 130/143 stopped, 1 a bug.
    """
    shown, errors = Screen(sys.stdout, clean=True), Screen(sys.stderr, clean=False)
    with redirect_stdout(cast(TextIO, shown)), redirect_stderr(cast(TextIO, errors)):
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, force=True)
        logging.getLogger().handlers[0].setFormatter(LogFormatter("%(message)s"))
        logging.getLogger().setLevel(logging.WARNING)
        logging.getLogger("deepbloom").setLevel(logging.INFO)
        file_warnings.install()
        code = _run(work)
        shown.flush()
        errors.flush()
        return code


def _run(work: Callable[[], object]) -> int:
    try:
        with StopRequest():  # a signal at any moment leaves with its code, also while libraries are imported
            work()
    except DeepBloomError as error:
        if "RANK" in os.environ:  # torchrun sends SIGTERM to the others as soon as one has left
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not (_follows() and isinstance(error, SAID_BY_RANK_0)):
            _say(f"deepbloom: {error}")
        return error.exit_code
    except KeyboardInterrupt as error:
        if not _follows():
            _say("deepbloom: stopped.")
        return 128 + int(getattr(error, "signal_number", 2))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in USER_CAN_FIX:
            _say(f"deepbloom: {error}.{' Free space, or choose another place.' if error.errno in NO_SPACE else ''}")
            return 2
        _say(traceback.format_exc())
        _say(f"deepbloom: this is a bug in deepbloom {__version__}; please report the lines above.")
        return 1
    return 0


def _say(text: str) -> None:
    print(message(text), file=sys.stderr)
