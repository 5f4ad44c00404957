"""What makes two runs the same run: a hash of everything that decides the result, and of nothing else."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

RECIPE_VERSION = 8
"""Raised by hand whenever the same settings lead to other results; ``tests/golden`` fails where they do."""

MEANING = {
    "dataset_fingerprint": "other images",
    "split_fingerprint": "another split",
    "model.weights": "other starting weights",
}


@dataclass(frozen=True)
class Identity:
    """The resolved settings that decide a run's result, by dotted name.

    Paths, the machine's speed and room, the Python version and the layout of the source are not among them.

    Attributes
    ----------
    settings : mapping of str to plain values
    """

    settings: Mapping[str, object]

    @property
    def run_id(self) -> str:
        """Eight hex digits that are equal exactly for equal identities."""
        settings = {key: float(value) if type(value) is int else value for key, value in self.as_dict().items()}
        content = json.dumps(settings, sort_keys=True)  # 20 and 20.0 are the same setting
        return hashlib.sha256(content.encode()).hexdigest()[:8]

    def as_dict(self) -> dict[str, object]:
        """Return what `difference` compares, as plain values for JSON."""
        return json.loads(json.dumps({"recipe_version": RECIPE_VERSION, **self.settings}))  # type: ignore[no-any-return]

    def difference(self, other: Mapping[str, object]) -> str:
        """Say how the run of ``other`` (an `as_dict`) differs from this one; empty where it does not."""
        mine = self.as_dict()
        absent = object()
        differing = sorted(k for k in mine.keys() | other.keys() if mine.get(k, absent) != other.get(k, absent))
        if not differing:
            return ""
        key = next((key for key in differing if key not in MEANING), differing[0])
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        if key in MEANING:
            return f"{MEANING[key]}{more}"
        return f"other settings: {key} is {other.get(key)!r} there and {mine.get(key)!r} now{more}"
