"""Random numbers and raster drawing with the same result on every machine and under every NumPy.

An image must keep its bytes, or its fingerprint would lie. Three rules see to that:

- Random numbers are the raw words of ``np.random.Philox``, whose stream NumPy guarantees, unlike the methods of
  ``Generator``; they become numbers by exact shifts and one multiplication.
- Per pixel there are only ``+ - * /``, square root, comparison, floor and table look-up in float32. IEEE 754 fixes each
  of them to the last bit, elementwise; sines, powers, sums and products of matrices depend on SIMD width and order.
  Sines and cosines are taken of single numbers and rounded to six decimals.
- Numbers that meet an array are Python floats: NumPy 1 and 2 promote those alike, and NumPy scalars not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Vector = tuple[float, float]
Color = tuple[float, float, float]


class Draws:
    """An independent stream of random numbers for each ``seed`` in [0, 2**32) and path of three numbers < 2**20."""

    def __init__(self, seed: int, *path: int) -> None:
        stream = 0
        for step in path:
            stream = (stream << 20) | step
        self._bits = np.random.Philox(key=(stream << 64) | seed)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) * 2.0**-53)

    def bell(self, spread: float) -> float:
        """Return a number in (-spread, spread), triangular about 0."""
        return (self.uniform() - self.uniform()) * spread

    def integer(self, count: int) -> int:
        """Return one of 0 … count - 1."""
        return int(self.uniform(0.0, count))

    def choice(self, choices: Sequence[T]) -> T:
        """Return one entry of a sequence."""
        return choices[self.integer(len(choices))]

    def field(self, *shape: int) -> np.ndarray:
        """Return a float32 array of numbers in [0, 1)."""
        words = self._bits.random_raw(math.prod(shape)) >> np.uint64(40)
        return words.astype(np.float32).reshape(shape) * 2.0**-24

    def bytes(self, count: int) -> np.ndarray:
        """Return ``count`` random bytes, a multiple of eight, as uint8."""
        return self._bits.random_raw(count // 8).astype("<u8").view(np.uint8)


def direction(angle: float) -> Vector:
    """Return the unit vector (x, y) of an angle in radians, each rounded to six decimals."""
    return round(math.cos(angle), 6), round(math.sin(angle), 6)


def norm(vector: Vector) -> float:
    """Return the length of a vector (``math.hypot`` rounds differently from one Python to the next)."""
    return math.sqrt(vector[0] * vector[0] + vector[1] * vector[1])


def clip(values: np.ndarray, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Limit a temporary array to [low, high], in place."""
    np.maximum(values, low, out=values)
    result: np.ndarray = np.minimum(values, high, out=values)
    return result


def smooth_step(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Rise smoothly from 0 at ``low`` to 1 at ``high``."""
    x = clip((values - low) * (1.0 / (high - low)))
    result: np.ndarray = x * x * (3.0 - 2.0 * x)
    return result


def triangle_wave(values: np.ndarray) -> np.ndarray:
    """Return 0 at whole numbers, 1 half-way between them, linear in between."""
    result: np.ndarray = 1.0 - np.abs(2.0 * (values - np.floor(values)) - 1.0)
    return result


@lru_cache(maxsize=64)
def _interpolation(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    position = np.maximum((np.arange(size) + 0.5) * (length / size) - 0.5, 0.0)
    below = np.floor(position).astype(np.intp)
    return below, np.minimum(below + 1, length - 1), (position - below).astype(np.float32)


def enlarge(field: np.ndarray, height: int, width: int) -> np.ndarray:
    """Interpolate (..., h, w) to (..., height, width) bilinearly."""
    below, above, weight = _interpolation(field.shape[-1], width)
    low = field[..., below]
    low += (field[..., above] - low) * weight
    below, above, weight = _interpolation(field.shape[-2], height)
    enlarged = low[..., above, :]
    low = low[..., below, :]
    enlarged -= low
    enlarged *= weight[:, None]
    enlarged += low
    return enlarged


def noise(draws: Draws, cells: int, octaves: int, height: int, width: int) -> np.ndarray:
    """Return soft random clouds in [0, 1), float32 of shape (height, width): grids of ``cells``, 2 ``cells``, …"""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        grid = draws.field(cells << octave, cells << octave)
        total += enlarge(grid, height, width) * 0.5**octave
    return total * (1.0 / (2.0 - 0.5 ** (octaves - 1)))


def texel_axis(count: int, low: float, high: float) -> np.ndarray:
    """Return the centers of ``count`` equal cells of [low, high], float32."""
    return (np.arange(count, dtype=np.float32) + 0.5) * ((high - low) / count) + low


@dataclass(frozen=True)
class Sprite:
    """A small image of one thing (a petal, a leaf) in its own coordinates (u along it, v across it)."""

    texels: np.ndarray
    """float32, shape (8, rows along u, columns along v): red, green, blue; the surface's slope along u and along v,
    which light brightens; the distance to the outline at the texel's first corner, positive inside, in the unit of u
    and v; its increase along a row and a column."""
    u_range: Vector  # what the texels cover; the outermost ones lie outside the thing
    v_range: Vector

    @classmethod
    def create(
        cls, colors: Sequence[np.ndarray], slopes: Sequence[np.ndarray], distance: np.ndarray, u: Vector, v: Vector
    ) -> "Sprite":
        """Return a sprite of three color planes, two slope planes and the distances at the texels' centers."""
        texels = np.zeros((8, *distance.shape), np.float32)
        for plane, values in zip(texels, (*colors, *slopes, distance), strict=False):
            plane[:] = values
        # A distance grows by no more than the step, also where the estimate jumps.
        _, rows, columns = texels.shape
        u_step, v_step = (u[1] - u[0]) / rows, (v[1] - v[0]) / columns
        texels[6, 1:-1] = clip((texels[5, 2:] - texels[5, :-2]) * 0.5, -u_step, u_step)
        texels[7, :, 1:-1] = clip((texels[5, :, 2:] - texels[5, :, :-2]) * 0.5, -v_step, v_step)
        texels[5] -= (texels[6] + texels[7]) * 0.5
        return cls(texels, u, v)

    def tinted(self, tint: Color) -> "Sprite":
        """Return the sprite with its red, green and blue scaled."""
        texels = self.texels.copy()
        for channel in range(3):
            texels[channel] *= tint[channel]
        return replace(self, texels=texels)


@dataclass(frozen=True)
class Look:
    """How a sprite appears."""

    light: Vector = (0.0, 0.0)  # direction (x, y) toward the light in the image times its strength
    brightness: float = 1.0
    softness: float = 1.3  # width of the edge in pixels: 1 is sharp, more is out of focus
    shadow: float = 0.0  # how much the surroundings are darkened, in [0, 1]
    shadow_reach: float = 5.0  # in pixels
    flower: float = 0.0  # written into the canvas's last channel: 1 for the flower to recognize, else 0


def paste(
    canvas: np.ndarray, sprite: Sprite, origin: Vector, along: Vector, across: Vector, look: Look, bend: float = 0.0
) -> None:
    """Draw a sprite over a canvas, in place.

    The canvas, float32 of shape (4, height, width), holds red, green and blue in [0, 1] and the share of the flower.
    (u, v) = (0, 0) lies at ``origin``, and ``along`` and ``across`` are the steps of u and of v: (x, y) in pixels. The
    thing curves sideways: v is moved by ``bend * u**2``.
    """
    determinant = along[0] * across[1] - along[1] * across[0]
    box = _bounding_box(canvas.shape, sprite, origin, along, across, bend)
    if box is None or abs(determinant) < 1e-3:
        return
    left, right, top, bottom = box
    x = np.arange(left, right, dtype=np.float32) - origin[0]
    y = (np.arange(top, bottom, dtype=np.float32) - origin[1])[:, None]
    u = x * (across[1] / determinant) - y * (across[0] / determinant)
    v = y * (along[0] / determinant) - x * (along[1] / determinant)
    if bend:
        v -= u * u * bend
    values = _sample(sprite, u, v)

    distance = values[5]
    distance *= math.sqrt(abs(determinant))  # now in pixels
    region = canvas[:, top:bottom, left:right]
    if look.shadow:
        region[:3] *= 1.0 - clip(distance * (1.0 / look.shadow_reach) + 1.0) * look.shadow
    shade = values[3]
    shade *= look.brightness * (look.light[0] * along[0] + look.light[1] * along[1]) / norm(along)
    values[4] *= look.brightness * (look.light[0] * across[0] + look.light[1] * across[1]) / norm(across)
    shade += values[4]
    shade += look.brightness
    source = values[:4]
    source[:3] *= shade
    source[3] = look.flower
    distance *= 1.0 / look.softness
    distance += 0.5
    source -= region
    source *= clip(distance)
    region += source


def _sample(sprite: Sprite, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Look up the texels under every (u, v), which are overwritten: (8, height, width), with the distance refined."""
    _, rows, columns = sprite.texels.shape
    for values, (low, high), count in ((u, sprite.u_range, rows), (v, sprite.v_range, columns)):
        values -= low
        values *= count / (high - low)
        clip(values, 0.0, count - 0.5)
    row, column = np.floor(u), np.floor(v)
    u -= row
    v -= column
    row *= float(columns)
    row += column
    found: np.ndarray = sprite.texels.reshape(8, -1).take(row.astype(np.intp), axis=1, mode="clip")
    found[5] += u * found[6]
    found[5] += v * found[7]
    return found


def _bounding_box(
    shape: tuple[int, ...], sprite: Sprite, origin: Vector, along: Vector, across: Vector, bend: float
) -> tuple[int, int, int, int] | None:
    """Return left, right, top and bottom of the pixels that a sprite may touch, or None."""
    x, y = [], []
    for u in sprite.u_range:
        for v in sprite.v_range:
            for bent in (v, v + bend * u * u):
                x.append(origin[0] + u * along[0] + bent * across[0])
                y.append(origin[1] + u * along[1] + bent * across[1])
    left, right = max(0, math.floor(min(x))), min(shape[2], math.ceil(max(x)) + 1)
    top, bottom = max(0, math.floor(min(y))), min(shape[1], math.ceil(max(y)) + 1)
    return (left, right, top, bottom) if left < right and top < bottom else None
