"""Checks that the test images stayed separate: when each was read, and near-duplicates across splits."""

from collections.abc import Callable
from typing import Any

import numpy as np

from deepbloom.data.dataset import PreparedData
from deepbloom.data.near_duplicates import across_splits
from deepbloom.data.pixel_cache import Pixels
from deepbloom.data.split import PARTS, Split


class WatchedPixels(Pixels):
    """Pixels of ``count`` images that count how often each is read.

    ``on_early`` is called once, if an image of the ``test`` split is read before the attribute ``testing`` is set.
    """

    def __init__(self, pixels: Pixels, count: int, test: np.ndarray, on_early: Callable[[], None]) -> None:
        self._pixels, self._test, self._on_early = pixels, test, on_early
        self._is_test = np.zeros(count, dtype=bool)
        self._is_test[test] = True
        self._reads = np.zeros(count, dtype=np.int64)
        self._early = self.testing = False

    def read(self, indices: np.ndarray) -> np.ndarray:
        np.add.at(self._reads, indices, 1)
        if not (self.testing or self._early) and self._is_test[indices].any():
            self._early = True
            self._on_early()
        return self._pixels.read(indices)

    @property
    def test_reads(self) -> tuple[int, int]:
        """The fewest and the most times that a test image was read."""
        reads = self._reads[self._test]
        return int(reads.min()), int(reads.max())


def audit_split(data: PreparedData) -> tuple[dict[str, Any], np.ndarray]:
    """Find images that are in two splits, as themselves or as near-duplicates.

    Returns
    -------
    findings : dict
        ``in_two_splits``: images that are in two splits. ``near_duplicates``: images of ``test`` that have a
        near-duplicate in training or validation, and of ``val`` that have one in training. ``examples``: up to ten
        pairs of names, those with different labels first.
    affected : ndarray of bool, shape of the test split
        Test images that have a near-duplicate in training or validation.
    """
    split, names = data.split, data.source.image_ids
    counts = np.bincount(np.concatenate([getattr(split, part) for part in PARTS]), minlength=len(names))
    matches, val_matches = across_splits(data)
    affected = matches >= 0
    found = np.flatnonzero(affected)
    targets = data.source.targets
    alike = targets[split.test[found]] == targets[matches[found]]
    findings = {
        "in_two_splits": int((counts > 1).sum()),
        "near_duplicates": {"test": int(affected.sum()), "val": int((val_matches >= 0).sum())},
        "examples": [[names[split.test[i]], names[matches[i]]] for i in found[np.argsort(alike, kind="stable")][:10]],
    }
    return findings, affected


def describe_findings(findings: dict[str, Any], split: Split) -> str:
    """Return one sentence on the near-duplicates that `audit_split` found."""
    near = findings["near_duplicates"]
    if not near["test"] and not near["val"]:
        return "No near-duplicates in two splits."
    pairs = [f"{test} and {other}" for test, other in findings["examples"][:1]]
    return (
        f"Near-duplicates in two splits: {near['test']:,} of {len(split.test):,} test images have one in training or "
        f"validation, {near['val']:,} of {len(split.val):,} validation images one in training"
        + "".join(f" ({pair})" for pair in pairs)
        + "."
    )
