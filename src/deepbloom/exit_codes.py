"""From errors and signals to the exit code of a process."""

import errno
import logging
import sys
import traceback
from collections.abc import Callable

from deepbloom import __version__, file_warnings
from deepbloom.errors import DeepBloomError
from deepbloom.signals import StopRequest

USER_CAN_FIX = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EMFILE,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
"""OS errors the user can fix."""


def guarded(work: Callable[[], object]) -> int:
    """Run ``work`` and return the exit code: 0 done, 2 the user can fix it, 3 diverged, 130/143 stopped, 1 a bug."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr, force=True)
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("deepbloom").setLevel(logging.INFO)
    file_warnings.install()
    try:
        with StopRequest():  # a signal at any moment leaves with its code, also while libraries are imported
            work()
    except DeepBloomError as error:
        print(f"deepbloom: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        number = getattr(error, "signal_number", 2)
        print("deepbloom: stopped.", file=sys.stderr)
        return 128 + number
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        sys.stderr.close()
        return 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno in USER_CAN_FIX:
            print(f"deepbloom: {error}. Free space, or choose another place.", file=sys.stderr)
            return 2
        traceback.print_exc()
        print(f"deepbloom: this is a bug in deepbloom {__version__}; please report the lines above.", file=sys.stderr)
        return 1
    return 0
