"""The parts that a flower and its surroundings are put together from: petals, leaves, centers."""

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from deepbloom.data.sources.synthetic.drawing import (
    Color,
    Draws,
    Sprite,
    clip,
    direction,
    enlarge,
    smooth_step,
    texel_axis,
    triangle_wave,
)
from deepbloom.data.sources.synthetic.species import (
    CENTERS,
    FORMS,
    PROFILES,
    SPECIES_COUNT,
    SPECIES_PATH,
    Form,
    Palette,
    Species,
)

LEAF_PALETTES = (
    Palette((0.36, 0.52, 0.20), (0.25, 0.43, 0.15), (0.20, 0.36, 0.14), (0.42, 0.58, 0.28)),  # leaf
    Palette((0.56, 0.64, 0.28), (0.38, 0.54, 0.20), (0.26, 0.42, 0.16), (0.58, 0.68, 0.36)),  # grass
    Palette((0.20, 0.36, 0.24), (0.13, 0.29, 0.18), (0.10, 0.24, 0.15), (0.26, 0.43, 0.29)),  # shade
    Palette((0.66, 0.58, 0.34), (0.54, 0.45, 0.25), (0.42, 0.34, 0.18), (0.70, 0.62, 0.40)),  # dry
)
_LEAF_FORMS = (Form("star", 0.30), Form("lance", 0.16), Form("lance", 0.035))
_MARGIN = 0.12  # around a blade's outline, in lengths: room for its shadow


@dataclass(frozen=True)
class Blade:
    """A petal or leaf before it is colored; planes of float32, shape (rows along u, columns along v).

    ``outer``, ``throat`` and ``accent`` are the shares of the tip's, the base's and the mark's color, laid over the
    middle's in this order.
    """

    outer: np.ndarray
    throat: np.ndarray
    accent: np.ndarray
    depth: np.ndarray  # factor of the color
    rim: np.ndarray  # share of white
    sprite: Sprite  # the rest; its colors are unset

    def colored(self, palette: Palette, tint: Color = (1.0, 1.0, 1.0)) -> Sprite:
        """Return the sprite in the colors of a palette, each channel scaled by ``tint``."""
        texels = self.sprite.texels.copy()
        for channel in range(3):
            color = texels[channel]
            color[:] = palette.middle[channel]
            color += self.outer * (palette.tip[channel] - palette.middle[channel])
            color += self.throat * (palette.base[channel] - color)
            color += self.accent * (palette.mark[channel] - color)
            color *= self.depth
            color += self.rim * (1.0 - color)
            color *= tint[channel]
        return replace(self.sprite, texels=texels)


@cache
def petal(species: Species) -> Blade:
    """Return a petal of the species: u from its base (0) to its tip (1)."""
    draws = Draws(0, SPECIES_PATH, species.number, 1)
    return _blade(draws, FORMS[species.form], species.aspect, species.veins, species.spots, species.concave)


@cache
def leaf_sprite(kind: int, color: int, sharp: bool = True) -> Sprite:
    """Return a leaf: ``kind`` 0 broad, 1 slender, 2 a blade of grass; ``color`` indexes ``LEAF_PALETTES``."""
    draws = Draws(0, SPECIES_PATH, SPECIES_COUNT + kind, color)
    form = _LEAF_FORMS[kind]
    veins = (9, 5, 0)[kind] if sharp else 0
    blade = _blade(draws, form, form.width, veins, False, kind == 1, 1.0 if sharp else 0.2)
    return blade.colored(LEAF_PALETTES[color])


def _blade(
    draws: Draws, form: Form, aspect: float, veins: int, spots: bool, concave: bool, detail: float = 1.0
) -> Blade:
    rows, columns = 96, 72
    u_range = (-_MARGIN, 1.0 + _MARGIN)
    v_range = (-1.15 * aspect - _MARGIN, 1.15 * aspect + _MARGIN)
    u, v = np.meshgrid(texel_axis(rows, *u_range), texel_axis(columns, *v_range), indexing="ij")
    half_width, distance = _outline(form, aspect, u, v)
    t = clip(v / np.maximum(half_width, 0.02), -1.0, 1.0)  # -1 and 1 at the sides

    streaks = enlarge(draws.field(2, 28), 1, columns * 4)[0]
    streaks = (streaks[((t + 1.0) * (2.0 * columns - 0.5)).astype(np.intp)] - 0.5) * detail
    mottle = enlarge(draws.field(9, 5), rows, columns) - 0.5
    accent = np.zeros_like(t)
    if veins:
        line = 1.0 - triangle_wave(t * (veins / 2.0) + 0.5 * (veins % 2 == 0))
        accent = smooth_step(line, 0.72, 1.0) * (1.0 - smooth_step(u, 0.55, 0.95)) * 0.42
    if spots:
        accent = np.maximum(accent, _spots(draws, u, t))

    hollow = 1.0 if concave else -1.0
    crease = np.maximum(0.16 - np.abs(t), 0.0) * np.sign(t) * (3.0 * detail)
    slope_v = t * (0.42 * hollow) + 0.10 * streaks - crease
    slope_u = (0.35 - u) * (-0.55 * hollow) + 0.2 * mottle
    unset = [np.zeros_like(t)] * 3
    return Blade(
        outer=smooth_step(u + 0.25 * streaks, 0.35, 1.0),
        throat=1.0 - smooth_step(u + 0.12 * streaks, 0.10, 0.42),
        accent=accent,
        depth=(0.62 + 0.38 * smooth_step(u, 0.02, 0.45)) * (1.0 + 0.16 * streaks + 0.10 * mottle),
        rim=(1.0 - smooth_step(distance, 0.0, 0.07)) * 0.12,
        sprite=Sprite.create(unset, (slope_u, slope_v), distance, u_range, v_range),
    )


def _outline(form: Form, aspect: float, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return half the width and the distance to the outline, positive inside, both in lengths."""
    outer = smooth_step(u, 0.35, 1.0)
    tip, side = u, np.abs(v)
    if form.notch:
        tip = tip + outer * form.notch * np.maximum(1.0 - side * (1.6 / aspect), 0.0)
    if form.teeth:
        tip = tip + outer * form.teeth * triangle_wave(v * (3.2 / aspect) + 0.5)
    if form.waves:
        phase = np.where(v > 0.0, np.float32(0.37), np.float32(0.0))
        side = side * (1.0 + form.waves * (triangle_wave(u * 4.3 + phase) - 0.5))
    profile = PROFILES[form.profile]
    half_width = profile(tip) * aspect
    row_step, column_step = float(u[1, 0] - u[0, 0]), float(v[0, 1] - v[0, 0])
    # Away from teeth and waves their estimate is rough: nothing is nearer than the even outline around them.
    around = _distance(profile(u) * aspect, np.abs(v) * (1.0 - 0.5 * form.waves), row_step, column_step)
    distance = np.minimum(_distance(half_width, side, row_step, column_step), around)
    # Outside it falls ever faster toward the end of the texels, so that no shadow is cut off there.
    u_end, v_end = float(u[-1, 0]) + 0.5 * row_step, float(v[0, -1]) + 0.5 * column_step
    room = np.minimum(np.minimum(u + _MARGIN, u_end - u), v_end - np.abs(v))
    outside = distance * (_MARGIN / room)
    return half_width, np.maximum(np.where(distance < 0.0, outside, distance), -0.4)


def _distance(half_width: np.ndarray, side: np.ndarray, row_step: float, column_step: float) -> np.ndarray:
    """Return about the distance to where the two are equal: the difference of their squares over its gradient."""
    inside = half_width * np.abs(half_width) - side * side
    du, dv = np.zeros_like(inside), np.zeros_like(inside)
    du[1:-1] = (inside[2:] - inside[:-2]) * (0.5 / row_step)
    dv[:, 1:-1] = (inside[:, 2:] - inside[:, :-2]) * (0.5 / column_step)
    du[0], du[-1], dv[:, 0], dv[:, -1] = du[1], du[-2], dv[:, 1], dv[:, -2]
    result: np.ndarray = inside / np.sqrt(du * du + dv * dv + 1e-6)
    return result


def _spots(draws: Draws, u: np.ndarray, t: np.ndarray) -> np.ndarray:
    total = np.zeros_like(t)
    for _ in range(14):
        center_u, center_t, radius = draws.uniform(0.22, 0.62), draws.bell(0.75), draws.uniform(0.018, 0.04)
        du, dt = (u - center_u) * (1.0 / radius), (t - center_t) * (0.3 / radius)
        total = np.maximum(total, clip(1.6 - np.sqrt(du * du + dt * dt)) * 0.8)
    return total


@cache
def center_sprite(kind: str) -> Sprite:
    """Return a flower's center, one of ``CENTERS``: its radius is 1, u and v go from -1.3 to 1.3."""
    layer = _Layer()
    _CENTER_BUILDERS[kind](layer, Draws(0, SPECIES_PATH, SPECIES_COUNT, 100 + CENTERS.index(kind)))
    return Sprite.create(layer.colors, (layer.slope_u, layer.slope_v), layer.distance, _Layer.span, _Layer.span)


class _Layer:
    """The texels of a center under construction; things are added on top of each other."""

    size, span = 80, (-1.3, 1.3)

    def __init__(self) -> None:
        axis = texel_axis(self.size, *self.span)
        self.u, self.v = np.meshgrid(axis, axis, indexing="ij")
        self.colors = [np.zeros_like(self.u) for _ in range(3)]
        self.slope_u, self.slope_v = np.zeros_like(self.u), np.zeros_like(self.u)
        self.distance = np.full_like(self.u, -1.0)

    def dome(
        self, radius: float, color: Color, heart: Color, relief: float, away: float = 0.0, angle: float = 0.0
    ) -> None:
        """Add half a ball, ``away`` from the middle: ``heart`` at its center, ``color`` at its rim."""
        c, s = direction(angle)
        du, dv = self.u - away * c, self.v - away * s
        r = np.sqrt(du * du + dv * dv)
        cover = clip((radius - r) * 18.0 + 0.5)
        fade = clip(r * (1.0 / radius))
        fade = fade * fade
        for channel in range(3):
            shade = heart[channel] + (color[channel] - heart[channel]) * fade
            self.colors[channel] += (shade - self.colors[channel]) * cover
        self.slope_u += (du * (relief / radius) - self.slope_u) * cover
        self.slope_v += (dv * (relief / radius) - self.slope_v) * cover
        self.distance = np.maximum(self.distance, radius - r)

    def stalk(self, angle: float, length: float, width: float, color: Color) -> None:
        """Add a thread from the middle outwards."""
        c, s = direction(angle)
        along, aside = self.u * c + self.v * s, np.abs(self.v * c - self.u * s)
        inside = np.minimum(width - aside, np.minimum(along, length - along))
        cover = clip(inside * 18.0 + 0.5)
        for channel in range(3):
            self.colors[channel] += (color[channel] - self.colors[channel]) * cover
        self.distance = np.maximum(self.distance, inside)


_GOLDEN_ANGLE = 2.399963
_TURN = 6.283185
_BLACK: Color = (0.0, 0.0, 0.0)
_WHITE: Color = (1.0, 1.0, 1.0)
_GREEN: Color = (0.62, 0.72, 0.30)
_GOLD: Color = (0.95, 0.76, 0.20)
_OCHRE: Color = (0.72, 0.46, 0.12)
_BROWN: Color = (0.36, 0.20, 0.09)
_CREAM: Color = (0.96, 0.84, 0.46)
_PURPLE: Color = (0.42, 0.12, 0.26)


def _mix(first: Color, second: Color, share: float) -> Color:
    mixed = [a + (b - a) * share for a, b in zip(first, second, strict=True)]
    return mixed[0], mixed[1], mixed[2]


def _florets(layer: _Layer, draws: Draws) -> None:
    layer.dome(1.0, _mix(_BROWN, _BLACK, 0.4), _BROWN, 0.5)
    count = 90
    for i in range(count, 0, -1):
        share = i / count
        color = _mix(_BROWN, _GOLD, 0.9 * share)
        radius, away = 0.08 + 0.036 * share, 0.93 * math.sqrt(share)
        layer.dome(radius, _mix(color, _BLACK, 0.35), color, 0.8, away, i * _GOLDEN_ANGLE)


def _dome(layer: _Layer, draws: Draws) -> None:
    layer.dome(1.0, _mix(_GOLD, _OCHRE, 0.6), _GOLD, 0.6)
    for _ in range(70):
        angle, away = draws.uniform(0, _TURN), 0.95 * math.sqrt(draws.uniform())
        color = _mix(_GOLD, _OCHRE, draws.uniform(0.0, 0.8))
        layer.dome(draws.uniform(0.04, 0.09), _mix(color, _BLACK, 0.2), color, 0.6, away, angle)


def _stamens(layer: _Layer, draws: Draws) -> None:
    layer.dome(0.42, _mix(_GREEN, _BLACK, 0.3), _GREEN, 0.6)
    for i in range(22):
        angle, length = _TURN * i / 22 + draws.bell(0.2), draws.uniform(0.65, 1.08)
        layer.stalk(angle, length, 0.035, (0.97, 0.94, 0.80))
        layer.dome(0.12, _OCHRE, _GOLD, 0.7, length, angle)
    for i in range(6):
        layer.dome(0.14, _mix(_GREEN, _BLACK, 0.2), (0.80, 0.86, 0.50), 0.7, 0.17, _TURN * i / 6)


def _corona(layer: _Layer, draws: Draws) -> None:
    for i in range(9):
        layer.dome(0.34, _CREAM, _mix(_CREAM, _WHITE, 0.35), 0.7, 0.72, _TURN * i / 9)
    layer.dome(0.80, _mix(_CREAM, _WHITE, 0.1), _mix(_OCHRE, _BLACK, 0.35), -0.9)
    for i in range(5):
        layer.dome(0.13, _OCHRE, _mix(_GOLD, _WHITE, 0.4), 0.7, 0.24, _TURN * i / 5 + 0.3)


def _pistil(layer: _Layer, draws: Draws) -> None:
    for i in range(8):
        layer.stalk(_TURN * i / 8, 0.85, 0.07, _mix(_PURPLE, _BLACK, 0.2))
        layer.dome(0.16, _mix(_PURPLE, _BLACK, 0.4), _PURPLE, 0.7, 0.85, _TURN * i / 8)
    layer.dome(0.62, (0.42, 0.52, 0.20), (0.72, 0.80, 0.42), 0.8)
    for i in range(10):
        layer.stalk(_TURN * i / 10, 0.52, 0.045, (0.36, 0.42, 0.16))
    layer.dome(0.16, (0.40, 0.48, 0.18), (0.86, 0.88, 0.55), 0.8)


_CENTER_BUILDERS = {"florets": _florets, "dome": _dome, "stamens": _stamens, "corona": _corona, "pistil": _pistil}
