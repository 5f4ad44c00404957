"""Evidence that the test images stayed apart: when each image was read, and near-duplicates across the split."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from deepbloom.data.dataset import PreparedData
from deepbloom.data.pixel_cache import Pixels
from deepbloom.data.split import PARTS

GRID = 16
MAX_BITS = 36
"""Of 256: images that differ in at most this many bits are compared more closely. The closest of 245,000 pairs of
different images of Flowers102 differ in 57, mirror images included; JPEG of quality 30, a third of the size, or 1 % cut
from each side change at most 35."""
MAX_LEVELS = 12.0
"""Of 255: largest mean difference between the thumbnails of near-duplicates."""
READ_AT_ONCE = 64
ROWS_AT_ONCE = 256
MAX_CANDIDATES = 20


@dataclass(frozen=True)
class Fingerprints:
    """Small summaries of images, to compare each with many others."""

    bits: np.ndarray
    """Difference hash, float32 of -1 or 1, shape (N, 256): whether each cell of a 16 x 17 grid of gray means is darker
    than the next one in its row (dHash, Krawetz 2013, with 16 instead of 8 rows). The scalar product of two is 256 less
    twice the differing bits."""
    thumbnails: np.ndarray
    """Mean color of each cell of a 16 x 16 grid, float32 in [0, 255], shape (N, 16, 16, 3)."""

    def mirrored(self) -> "Fingerprints":
        """Return the fingerprints of the mirror images; a bit between equal cells may differ."""
        bits = -self.bits.reshape(-1, GRID, GRID)[:, :, ::-1].reshape(self.bits.shape)
        return Fingerprints(bits, self.thumbnails[:, :, ::-1])

    def __getitem__(self, rows: np.ndarray | slice) -> "Fingerprints":
        return Fingerprints(self.bits[rows], self.thumbnails[rows])


def fingerprint(pixels: Pixels, count: int) -> Fingerprints:
    """Return the fingerprints of all ``count`` images; each is read once."""
    bits = np.empty((count, GRID * GRID), np.float32)
    thumbnails = np.empty((count, GRID, GRID, 3), np.float32)
    for start in range(0, count, READ_AT_ONCE):
        rows = np.arange(start, min(start + READ_AT_ONCE, count))
        images = torch.from_numpy(pixels.read(rows)).permute(0, 3, 1, 2).to(torch.float32)  # (B, 3, H, W)
        red, green, blue = F.adaptive_avg_pool2d(images, (GRID, GRID + 1)).unbind(1)  # (B, 16, 17) each
        gray = (0.299 * red + 0.587 * green + 0.114 * blue).numpy()
        bits[rows] = np.where(gray[:, :, 1:] > gray[:, :, :-1], 1, -1).reshape(len(rows), -1)
        thumbnails[rows] = F.adaptive_avg_pool2d(images, GRID).permute(0, 2, 3, 1)
    return Fingerprints(bits, thumbnails)


def find_near_duplicates(first: Fingerprints, second: Fingerprints) -> np.ndarray:
    """Return a near-duplicate in ``second`` of each image of ``first``: int64 indices, shape (N,), -1 if none.

    The difference hashes of a pair, one of them mirrored or not, differ in at most `MAX_BITS`. Of the closest
    `MAX_CANDIDATES`, the thumbnails differ by at most `MAX_LEVELS` on average; this rejects images that only share an
    outline or have no contrast.
    """
    matches = np.full(len(first.bits), -1, dtype=np.int64)
    least = first.bits.shape[1] - 2 * MAX_BITS
    for other in (second, second.mirrored()):
        for start in range(0, len(first.bits), ROWS_AT_ONCE):
            products = first.bits[start : start + ROWS_AT_ONCE] @ other.bits.T  # (R, M)
            for row in np.flatnonzero((products >= least).any(axis=1)):
                candidates = np.flatnonzero(products[row] >= least)
                candidates = candidates[np.argsort(-products[row, candidates], kind="stable")[:MAX_CANDIDATES]]
                difference = np.abs(first.thumbnails[start + row] - other.thumbnails[candidates]).mean(axis=(1, 2, 3))
                if difference.min() <= MAX_LEVELS:
                    matches[start + row] = candidates[difference.argmin()]
    return matches


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
    """Find images that are in two splits, as themselves or as near-duplicates. Every image is read once.

    Returns
    -------
    findings : dict
        ``in_two_splits``: images that are in two splits. ``near_duplicates``: images of ``test`` that have a
        near-duplicate in training or validation, and of ``val`` that have one in training. ``examples``: up to ten
        pairs of names.
    affected : ndarray of bool, shape of the test split
        Test images that have a near-duplicate in training or validation.
    """
    split, names = data.split, data.source.image_ids
    prints = fingerprint(data.pixels, len(names))
    counts = np.bincount(np.concatenate([getattr(split, part) for part in PARTS]), minlength=len(names))
    seen = np.concatenate([split.train, split.val])
    matches = find_near_duplicates(prints[split.test], prints[seen])
    val_matches = find_near_duplicates(prints[split.val], prints[split.train])
    affected = matches >= 0
    findings = {
        "in_two_splits": int((counts > 1).sum()),
        "near_duplicates": {"test": int(affected.sum()), "val": int((val_matches >= 0).sum())},
        "examples": [[names[split.test[i]], names[seen[matches[i]]]] for i in np.flatnonzero(affected)[:10]],
    }
    return findings, affected
