"""The command line: a command's name leads to one function, an error to an exit code. Imports nothing heavy."""

import errno
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from importlib import import_module

from deepbloom import __version__
from deepbloom.errors import ConfigError, DeepBloomError, unknown
from deepbloom.signals import StopRequest

COMMANDS = {
    "train": "Train a network, or several with -m, and test it once.",
    "eval": "Measure a trained network on its test part again.",
    "predict": "Name the flowers in images.",
    "gradcam": "Show where a network looks, as a heatmap over the image.",
    "explain": "Measure on the test part how far heatmaps can be believed.",
    "runs": "List runs and their state: complete, running, partial, failed or damaged.",
    "demo": "Open a page on this machine: drop an image, see answers and heatmaps.",
    "report": "Compare runs: a table, curves and figures.",
    "data": "Show what images there are, how they are split, and whether they can be read.",
    "doctor": "Show versions, device, where data and weights are, and what is missing.",
}
DISK_FAULTS = (
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
"""Nobody's bug: errors of the system that a person can do something about."""
PATH_KEYS = ("ckpt", "image", "output_dir", "runs", "masks", "data.root", "data.pixel_cache", "model.weights")
NAME_KEYS = ("target", "contrast")


def main() -> None:
    """Run ``deepbloom`` and leave with its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files and classes may hold any bytes
    sys.exit(guarded(lambda: dispatch(sys.argv[1:])))


def guarded(work: Callable[[], object]) -> int:
    """Run ``work`` and return the exit code: 0 done, 2 the user can fix it, 3 diverged, 130/143 stopped, 1 a bug."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr, force=True)
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("deepbloom").setLevel(logging.INFO)
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
        if isinstance(error, OSError) and error.errno in DISK_FAULTS:
            print(f"deepbloom: {error}. Free space, or choose another place.", file=sys.stderr)
            return 2
        traceback.print_exc()
        print(f"deepbloom: this is a bug in deepbloom {__version__}; please report the lines above.", file=sys.stderr)
        return 1
    return 0


def dispatch(arguments: list[str]) -> None:
    """Find the command and run it."""
    from deepbloom.cli import help as help_text

    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text.overview(COMMANDS))
        return
    if arguments[0] == "--version":
        print(f"deepbloom {__version__}")
        return
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        raise ConfigError(unknown("command", command, COMMANDS))
    if "--help" in rest or "-h" in rest:
        print(help_text.command(command, COMMANDS[command]))
        return
    if any(argument.startswith("--experimental-rerun") for argument in rest):
        raise ConfigError("--experimental-rerun reads a pickle, which could run anything; it is not offered here.")

    from deepbloom.cli import compose as hydra_app

    sweep = "-m" in rest or "--multirun" in rest
    rest = [argument if sweep and "," in argument else quote_path(argument) for argument in rest]
    hydra_app.run(command, rest, lambda config: _task(command)(config))


def _task(command: str) -> Callable[[object], object]:
    return import_module(f"deepbloom.commands.{command}").run


def quote_path(argument: str) -> str:
    """Quote the value of a key of paths or class names: blanks, brackets, commas and accents need no quoting by hand.

    Lists, quoted values and interpolations are left as they are.
    """
    key, sign, value = argument.partition("=")
    if not sign or key not in PATH_KEYS + NAME_KEYS or not value or value[0] in "'\"[" or "${" in value:
        return argument
    value = os.path.expanduser(value)
    if re.fullmatch(r"[\w./:-]+", value, flags=re.ASCII):
        return f"{key}={value}"
    escaped = value.replace("'", "\\'")
    return f"{key}='{escaped}'"
