"""Interpolation of missing pixels from their surroundings, for ROAD (Rong et al. 2022)."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import splu
from torch import Tensor

SWEEPS = 10
NEIGHBORS = (((0, 1), 1 / 6), ((1, 0), 1 / 6), ((1, 1), 1 / 12), ((1, -1), 1 / 12))  # and their opposites


def impute(image: Tensor, missing: Tensor, generator: torch.Generator, noise: float = 0.01) -> Tensor:
    """Return an image whose missing pixels are weighted means of their eight neighbors, plus a little noise.

    Rong et al. 2022, https://arxiv.org/abs/2202.00449: a neighbor weighs 1/6, a diagonal one 1/12. Missing neighbors
    are unknowns themselves, so it is a sparse linear system.

    Parameters
    ----------
    image : Tensor of float, shape (C, H, W)
    missing : Tensor of bool, shape (H, W)
        At least one pixel is known.
    generator : torch.Generator
        Of the noise.
    noise : float
        Standard deviation, in units of the normalized image.
    """
    known = image.double().numpy()
    hole = missing.numpy()
    count = int(hole.sum())
    if not count:
        return image.clone()
    numbers = np.full(hole.shape, -1)
    numbers[hole] = np.arange(count)
    weights, values = np.zeros(count), np.zeros((count, len(known)))
    rows, columns, entries = [np.arange(count)], [np.arange(count)], [weights]
    for here, there, weight in _neighbors(hole.shape):
        inside = numbers[here] >= 0
        weights[numbers[here][inside]] += weight
        bordering = inside & (numbers[there] < 0)
        values[numbers[here][bordering]] += weight * known[(slice(None), *there)][:, bordering].T
        linked = inside & (numbers[there] >= 0)
        rows.append(numbers[here][linked])
        columns.append(numbers[there][linked])
        entries.append(np.full(int(linked.sum()), -weight))
    places = np.concatenate(rows), np.concatenate(columns)
    system = coo_matrix((np.concatenate(entries), places), shape=(count, count)).tocsc()
    # Symmetric and positive definite: no pivoting, and an ordering that keeps the factors sparse.
    solution = splu(system, "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}).solve(values)
    filled = image.clone()
    drawn = noise * torch.randn(len(known), count, generator=generator)
    filled[:, missing] = (torch.from_numpy(solution.T) + drawn).to(image.dtype)
    return filled


def impute_quickly(image: Tensor, missing: Tensor, generator: torch.Generator, noise: float = 0.01) -> Tensor:
    """Approximate `impute` several times faster; the parameters are the same.

    The system is solved at half the resolution, where a block is missing if all of its pixels are. `SWEEPS` steps of
    Jacobi's method at full resolution reduce the error, which is largest at the rim of the hole.
    """
    known = (~missing).to(image.dtype)[None]  # (1, H, W)
    shares = F.avg_pool2d(known, 2, ceil_mode=True)
    coarse = F.avg_pool2d(image * known, 2, ceil_mode=True) / shares.clamp(min=0.25)
    solved = impute(coarse, shares[0] == 0, generator, noise=0)
    filled = F.interpolate(solved[None], missing.shape, mode="bilinear", align_corners=False)[0]
    filled = torch.where(missing, filled, image)
    kernel = image.new_tensor([[1 / 12, 1 / 6, 1 / 12], [1 / 6, 0, 1 / 6], [1 / 12, 1 / 6, 1 / 12]])[None, None]
    inside = F.conv2d(torch.ones_like(known), kernel, padding=1)  # below 1 at the border of the image
    for _ in range(SWEEPS):
        means = F.conv2d(filled[:, None], kernel, padding=1)[:, 0] / inside
        filled = torch.where(missing, means, image)
    return torch.where(missing, filled + noise * torch.randn(image.shape, generator=generator), image)


def _neighbors(shape: tuple[int, ...]) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice], float]]:
    """Yield, for each of eight directions, the pixels with a neighbor there, these neighbors, and their weight."""
    height, width = shape
    for (down, across), weight in NEIGHBORS:
        first = slice(0, height - down), slice(max(0, -across), width - max(0, across))
        second = slice(down, height), slice(max(0, across), width + min(0, across))
        yield first, second, weight
        yield second, first, weight
