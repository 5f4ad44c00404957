"""The command line: a command's name leads to one function. Imports nothing heavy."""

import io
import os
import sys
from dataclasses import asdict, dataclass, field

from deepbloom import __version__
from deepbloom.cli.plain import plain_settings
from deepbloom.config.commands import COMMANDS, load
from deepbloom.errors import ConfigError, unknown
from deepbloom.exit_codes import guarded

FLAGS = ("-m", "--multirun", "-h", "--help", "--cfg job", "--version")


def main() -> None:
    """Run ``deepbloom`` and leave with its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files and classes may hold any bytes
    sys.exit(guarded(lambda: dispatch(sys.argv[1:])))


@dataclass
class Line:
    """A command line without its command: the flags that were given, and the overrides."""

    overrides: list[str] = field(default_factory=list)
    help: bool = False
    multirun: bool = False
    show_settings: bool = False
    version: bool = False


def parse(arguments: list[str], command: str) -> Line:
    """Separate flags from overrides.

    Raises
    ------
    ConfigError
        A flag is unknown, or ``--cfg`` comes without ``job`` or together with ``-m``.
    """
    line, words = Line(), iter(arguments)
    for word in words:
        if word in ("-h", "--help"):
            line.help = True
        elif word == "--version":
            line.version = True
        elif word in ("-m", "--multirun"):
            line.multirun = True
        elif word == "--cfg":
            line.show_settings = True
            if next(words, "") != "job":
                raise ConfigError("--cfg job shows the settings without running: add job.")
        elif word.startswith("-") and not os.path.exists(word):
            raise ConfigError(_unknown_option(command, [word, *words]))
        else:
            line.overrides.append(word)
    if line.multirun and line.show_settings:
        raise ConfigError("-m and --cfg exclude each other: give one of them.")
    return line


def _unknown_option(command: str, words: list[str]) -> str:
    from deepbloom.cli.advice import unknown_option

    advice = unknown_option(command, words) if command in COMMANDS else None
    return advice or f"Unknown option {words[0].partition('=')[0]!r}. Options: {', '.join(FLAGS)}."


def dispatch(arguments: list[str]) -> None:
    """Find the command, and run it or print what its flags ask for."""
    command, *rest = arguments or ["help"]
    if command in ("help", "-h", "--help") and rest and rest[0] in COMMANDS:
        command, rest = rest[0], ["--help"]
    if command.startswith("-"):
        command, rest = "help", arguments
    line = parse(rest, command)
    if line.version:
        print(f"deepbloom {__version__}")
    elif command == "help":
        from deepbloom.cli.help import overview

        print(overview())
    elif command not in COMMANDS:
        raise ConfigError(unknown("command", command, COMMANDS))
    elif line.help:
        from deepbloom.cli import help as help_text

        print(help_text.command(command))
    else:
        _run(command, line)


def _run(command: str, line: Line) -> None:
    if line.multirun:
        from deepbloom.cli.compose import multirun

        if not COMMANDS[command].multirun:
            raise ConfigError(f"-m is for deepbloom train; deepbloom {command} takes one value for each key.")
        summary = multirun(command, line.overrides)
        print(*summary.lines, sep="\n")
        if summary.error:
            raise summary.error
        return
    settings = plain_settings(command, line.overrides)
    if settings is None:
        from deepbloom.cli.compose import compose

        settings = compose(command, line.overrides)
    if line.show_settings:
        import yaml

        print(yaml.safe_dump(asdict(settings), sort_keys=False, allow_unicode=True), end="")
    else:
        load(COMMANDS[command].function)(settings)
