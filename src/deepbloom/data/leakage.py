"""Proof that the test images stayed apart: of the split, and of every reading of an image."""

from collections.abc import Callable
from typing import Any

import numpy as np

from deepbloom.data.near_duplicates import find_twins, fingerprint
from deepbloom.data.pixel_cache import Pixels
from deepbloom.data.prepared import PreparedData
from deepbloom.data.split import PARTS


class WatchedPixels(Pixels):
    """Pixels that count how often each image is read, and report the first reading of a test image that is early.

    Parameters
    ----------
    pixels : Pixels
    count : int
        Images of the source.
    test : ndarray of int64
        Indices of the test part.
    on_early : function without arguments
        Called once, at the first reading of a test image before ``testing`` is set.

    Attributes
    ----------
    testing : bool
        Set when the test begins.
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

    def close(self) -> None:
        self._pixels.close()

    @property
    def test_reads(self) -> tuple[int, int]:
        """How often the least and the most read test image was read."""
        reads = self._reads[self._test]
        return int(reads.min()), int(reads.max())


def audit_split(data: PreparedData) -> tuple[dict[str, Any], np.ndarray]:
    """Look for images that are in two parts, as themselves or as near-duplicates. Every image is read once.

    Returns
    -------
    findings : dict
        ``in_two_parts``: images that are in two parts. ``near_duplicates``: images of ``test`` that have a
        near-duplicate in training or validation, and of ``val`` that have one in training. ``examples``: up to ten
        pairs of names.
    affected : ndarray of bool, shape of the test part
        Test images that have a near-duplicate in training or validation.
    """
    split, names = data.split, data.source.image_ids
    prints = fingerprint(data.pixels, len(names))
    counts = np.bincount(np.concatenate([getattr(split, part) for part in PARTS]), minlength=len(names))
    seen = np.concatenate([split.train, split.val])
    twins = find_twins(prints[split.test], prints[seen])
    val_twins = find_twins(prints[split.val], prints[split.train])
    affected = twins >= 0
    findings = {
        "in_two_parts": int((counts > 1).sum()),
        "near_duplicates": {"test": int(affected.sum()), "val": int((val_twins >= 0).sum())},
        "examples": [[names[split.test[i]], names[seen[twins[i]]]] for i in np.flatnonzero(affected)[:10]],
    }
    return findings, affected
