"""Near-duplicates: images so similar that one of them in training would tell a network about the other."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import PIL

from deepbloom.data.cache_folder import cache_folder, keep_newest
from deepbloom.data.dataset import PreparedData
from deepbloom.data.pixel_cache import Pixels
from deepbloom.errors import RunError
from deepbloom.progress import ProgressBar
from deepbloom.runs.files import read_arrays, write_arrays

GRID = 16
MAX_BITS = 36
"""Of 256: images that differ in at most this many bits are compared more closely. The closest of 245,000 pairs of
different images of Flowers102 differ in 57, mirror images included; JPEG of quality 30, a third of the size, or 1 % cut
from each side change at most 35."""
MAX_LEVELS = 12.0
"""Of 255: largest mean difference between the thumbnails of near-duplicates."""
ROUNDING = 1e-6
READ_AT_ONCE = 16
COMPARED_AT_ONCE = 2048
MAX_CANDIDATES = 20
KEPT_FILES = 40
"""Fingerprints of images, and pairs found in a split of them, that stay in the cache folder."""


@dataclass(frozen=True)
class Fingerprints:
    """Small summaries of images (800 bytes each), to compare each with many others."""

    bits: np.ndarray
    """Difference hash, uint8 of shape (N, 32), eight bits in each: whether each cell of a 16 x 17 grid of gray means is
    darker than the next one in its row (dHash, Krawetz 2013, with 16 instead of 8 rows)."""
    thumbnails: np.ndarray
    """Mean color of each cell of a 16 x 16 grid, uint8 of shape (N, 16, 16, 3)."""

    def mirrored(self) -> "Fingerprints":
        """Return the fingerprints of the mirror images; a bit between equal cells may differ."""
        bits = 1 - np.unpackbits(self.bits, axis=1).reshape(-1, GRID, GRID)[:, :, ::-1]
        return Fingerprints(np.packbits(bits.reshape(len(bits), -1), axis=1), self.thumbnails[:, :, ::-1])

    def signs(self) -> np.ndarray:
        """Return float32 of -1 or 1, shape (N, 256). The scalar product of two is 256 less twice the differing bits."""
        return np.unpackbits(self.bits, axis=1).astype(np.float32) * 2 - 1

    def levels(self) -> np.ndarray:
        """Return the mean level of each thumbnail, float64 of shape (N,) in [0, 255]."""
        return np.asarray(self.thumbnails.reshape(len(self.thumbnails), -1).mean(axis=1))

    def __getitem__(self, rows: np.ndarray | slice) -> "Fingerprints":
        return Fingerprints(self.bits[rows], self.thumbnails[rows])


def fingerprint(pixels: Pixels, count: int) -> Fingerprints:
    """Return the fingerprints of all ``count`` images; each is read once."""
    prints = Fingerprints(np.empty((count, GRID * GRID // 8), np.uint8), np.empty((count, GRID, GRID, 3), np.uint8))
    for start in ProgressBar(range(0, count, READ_AT_ONCE), "Looking for near-duplicates"):
        rows = np.arange(start, min(start + READ_AT_ONCE, count))
        finer, means = _cell_means(pixels.read(rows))
        gray = finer @ np.array([0.299, 0.587, 0.114], np.float32)  # (B, 16, 17)
        prints.bits[rows] = np.packbits((gray[:, :, 1:] > gray[:, :, :-1]).reshape(len(rows), -1), axis=1)
        prints.thumbnails[rows] = means.round()
    return prints


def _cell_means(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean color of each cell of a 16 x 17 and of a 16 x 16 grid over images, uint8 (B, H, W, 3).

    Sums are whole numbers and so exact: cells of one color are equal, whatever their size.
    """
    _, height, width, _ = images.shape
    rows = _cells(height, GRID)
    sums = np.stack([images[:, cell].sum(axis=1, dtype=np.uint32) for cell in rows], axis=1)  # (B, 16, W, 3)
    heights = np.array([_size(cell) for cell in rows], np.float32)[:, None]

    def means(columns: list[slice]) -> np.ndarray:
        return np.stack(
            [sums[:, :, cell].sum(axis=2).astype(np.float32) / heights / np.float32(_size(cell)) for cell in columns],
            axis=2,
        )

    return means(_cells(width, GRID + 1)), means(_cells(width, GRID))


def _cells(length: int, number: int) -> list[slice]:
    """Return which pixels of a side each cell covers; neighbors share a pixel where it does not divide evenly."""
    return [slice(i * length // number, -(-(i + 1) * length // number)) for i in range(number)]


def _size(cell: slice) -> int:
    return int(cell.stop - cell.start)


def across_splits(data: PreparedData) -> tuple[np.ndarray, np.ndarray]:
    """Find near-duplicates in two splits; what was found for the same images and split is in the cache folder.

    Returns
    -------
    test, val : ndarray of int64, shape of the split
        For each test image the index of a near-duplicate in training or validation, for each validation image that of
        one in training; -1 if there is none.
    """
    split = data.split

    def find() -> dict[str, np.ndarray]:
        prints = fingerprints_of(data)
        found = {}
        for name, own, others in (
            ("test", split.test, np.concatenate([split.train, split.val])),
            ("val", split.val, split.train),
        ):
            matches = find_near_duplicates(prints[own], prints[others])
            found[name] = np.where(matches >= 0, others[matches], -1)
        return found

    found = _remembered(f"pairs|{data.split_fingerprint}|{_key(data)}", find)
    return found["test"], found["val"]


def fingerprints_of(data: PreparedData) -> Fingerprints:
    """Return the fingerprints of all images of the data, from the cache folder where they are known."""

    def make() -> dict[str, np.ndarray]:
        return vars(fingerprint(data.pixels, len(data.source)))

    return Fingerprints(**_remembered(f"fingerprints|{_key(data)}", make))


def _key(data: PreparedData) -> str:
    return f"1|{data.source.fingerprint}|{data.preprocessing.resizing}|pillow {PIL.__version__}"


def _remembered(key: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the arrays of a file in the cache folder; ``make`` them where it is absent or damaged."""
    path = None
    with suppress(OSError):
        path = cache_folder() / "near-duplicates" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
        if arrays := read_arrays(path):
            return arrays
    arrays = make()
    if path:
        with suppress(OSError, RunError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_arrays(path, arrays)
            keep_newest(path.parent, KEPT_FILES)
    return arrays


def find_near_duplicates(
    first: Fingerprints, second: Fingerprints, classes: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """Return a near-duplicate in ``second`` of each image of ``first``: int64 indices, shape (N,), -1 if none.

    With the ``classes`` of both, only images of another class count.

    The difference hashes of a pair, one of them mirrored or not, differ in at most `MAX_BITS`. Of the closest
    `MAX_CANDIDATES`, the thumbnails differ by at most `MAX_LEVELS` on average; this rejects images that only share an
    outline or have no contrast. The mean levels of such a pair differ by no more, so images are compared in the order
    of their mean level, each with those near it alone.
    """
    matches = np.full(len(first.bits), -1, dtype=np.int64)
    levels, other_levels = first.levels(), second.levels()
    order, other_order = np.argsort(levels, kind="stable"), np.argsort(other_levels, kind="stable")
    other_levels = other_levels[other_order]
    for start in ProgressBar(range(0, len(order), COMPARED_AT_ONCE), "Comparing images"):
        numbers = order[start : start + COMPARED_AT_ONCE]
        lowest, highest = levels[numbers[0]] - MAX_LEVELS, levels[numbers[-1]] + MAX_LEVELS
        low, high = np.searchsorted(other_levels, [lowest - ROUNDING, highest + ROUNDING])
        near = np.sort(other_order[low:high])
        rows, others = first[numbers], second[near]
        for turned in (rows, rows.mirrored()):
            known = (classes[0][numbers], classes[1][near]) if classes else None
            for row, candidates in _candidates(turned, others, known):
                one, those = turned.thumbnails[row].astype(np.int16), others.thumbnails[candidates]
                difference = np.abs(those - one).mean(axis=(1, 2, 3))
                if difference.min() <= MAX_LEVELS:
                    matches[numbers[row]] = near[candidates[difference.argmin()]]
    return matches


def _candidates(
    rows: Fingerprints, others: Fingerprints, classes: tuple[np.ndarray, np.ndarray] | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of each row whose hash is close to some of ``others``, and the closest of these, in order."""
    signs, least = rows.signs(), rows.bits.shape[1] * 8 - 2 * MAX_BITS
    close: dict[int, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
    for start in range(0, len(others.bits), COMPARED_AT_ONCE):
        products = signs @ others[start : start + COMPARED_AT_ONCE].signs().T  # (R, M)
        if classes:
            products[classes[0][:, None] == classes[1][start : start + COMPARED_AT_ONCE]] = -np.inf
        for row in np.flatnonzero(products.max(axis=1, initial=-1) >= least):
            found = np.flatnonzero(products[row] >= least)
            found = found[np.argsort(-products[row, found], kind="stable")[:MAX_CANDIDATES]]
            close[int(row)].append((products[row, found], start + found))
    for number, parts in close.items():
        nearness, found = (np.concatenate(part) for part in zip(*parts, strict=True))
        yield number, found[np.argsort(-nearness, kind="stable")[:MAX_CANDIDATES]]
