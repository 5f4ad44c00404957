"""Errors the user can fix: what failed, the value received, the valid choices, the fix."""

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from importlib.util import find_spec

FEW, MAX_NAMED = 6, 15
"""Choices that a message lists beside those near what was typed, and where none is near."""
NEAR = 0.75
"""Least share of letters in common, of `difflib`, for a name to be meant."""
SYNONYMS = {"gpu": "cuda", "float32": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16"}


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


class DisagreementError(DeepBloomError):
    """An exported file does not give the predictions of its checkpoint."""

    exit_code = 4


class DistributedError(DeepBloomError):
    """This process stopped because another one of its group could not continue."""


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
    """Return the sentence for a name that is not among ``choices``: those near it, or all where they are few."""
    known = sorted(choices)
    near = closest(str(value), known)
    hint = f" Did you mean {one_of(near)}?" if near else ""
    if len(known) <= (FEW if near else MAX_NAMED):
        hint += f" Choices: {', '.join(known)}."
    elif not near:
        hint = f" None of the {len(known):,} choices is near it."
    return f"Unknown {what} {str(value)!r}.{hint}"


def closest(value: str, choices: Iterable[str]) -> list[str]:
    """Return up to three of ``choices`` that ``value`` may be meant for, best first; case does not matter.

    A choice is compared as a whole, by what follows its last dot, and by what stands before its first underscore.
    """
    known = list(choices)
    if SYNONYMS.get(value.lower()) in known:
        return [SYNONYMS[value.lower()]]
    matcher = SequenceMatcher(autojunk=False)
    scores: dict[str, float] = {}
    for choice in known:
        name = choice.lower()
        spellings = {(value.lower(), name)}
        if "." in name:
            spellings.add((value.lower().rpartition(".")[2], name.rpartition(".")[2]))
        else:
            spellings.add((value.lower(), name.partition("_")[0]))
        for typed, spelling in spellings:
            matcher.set_seqs(typed, spelling)
            if matcher.quick_ratio() >= NEAR:
                scores[choice] = max(matcher.ratio(), scores.get(choice, 0))
    limit = max(NEAR, max(scores.values(), default=0) - 0.1)
    near = sorted((choice for choice in scores if scores[choice] >= limit), key=lambda choice: -scores[choice])
    return near[:3]


def one_of(names: Sequence[str]) -> str:
    """Return ``'a', 'b' or 'c'``."""
    quoted = [repr(name) for name in names]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def name_some(names: Sequence[str]) -> str:
    """Return the first three of ``names`` and the number of the others: ``a, b, c and 12 more``."""
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more:,} more" if more > 0 else "")


def require_package(name: str, setting: str, extra: str = "") -> None:
    """Raise `ConfigError` unless the package that ``setting`` needs is installed; its extra has its name by default."""
    if find_spec(name) is None:
        raise ConfigError(
            f"{setting} needs the package {name}, which is not installed: pip install 'deepbloom[{extra or name}]'."
        )
