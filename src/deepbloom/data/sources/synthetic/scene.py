"""One image: a flower in a pose, against a background, under a light, partly covered."""

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from deepbloom.data.sources.synthetic.drawing import (
    Color,
    Draws,
    Look,
    Sprite,
    Vector,
    clip,
    direction,
    enlarge,
    noise,
    norm,
    paste,
)
from deepbloom.data.sources.synthetic.species import FORMS, Species, all_species
from deepbloom.data.sources.synthetic.sprites import LEAF_PALETTES, center_sprite, leaf_sprite, petal

SIZE = 224
_TURN = 6.283185
# (dark, light) colors of the background.
_GROUNDS = (
    ((0.10, 0.19, 0.08), (0.36, 0.50, 0.19)),  # meadow
    ((0.04, 0.10, 0.06), (0.20, 0.33, 0.16)),  # shaded foliage
    ((0.22, 0.16, 0.11), (0.50, 0.40, 0.29)),  # soil
    ((0.28, 0.40, 0.22), (0.72, 0.78, 0.52)),  # sunlit grass
    ((0.16, 0.23, 0.24), (0.52, 0.60, 0.56)),  # mist
)
_SKIES: tuple[Color, ...] = ((0.60, 0.76, 0.94), (0.80, 0.86, 0.90), (0.95, 0.84, 0.72))


@dataclass(frozen=True)
class Pose:
    """Where a flower is and how it is turned; angles are in radians."""

    center: Vector  # (x, y) in pixels
    radius: float  # from the center to the petals' tips, in pixels, before foreshortening
    spin: float  # rotation in its own plane
    axis: float  # direction in which it is foreshortened
    squeeze: float  # foreshortening, in (0, 1]: 1 faces the viewer
    cup: float  # how far petals rise out of the plane, over their length

    def project(self, x: float, y: float, height: float = 0.0) -> Vector:
        """Return the image vector in pixels of a step (x, y, height) in the flower's own unit."""
        c, s = direction(self.axis)
        inward, aside = x * c + y * s, y * c - x * s
        inward = inward * self.squeeze + height * math.sqrt(1.0 - self.squeeze * self.squeeze)
        return (inward * c - aside * s) * self.radius, (inward * s + aside * c) * self.radius


@dataclass(frozen=True)
class Mark:
    """A rectangle that is laid over everything but the flower."""

    pixels: np.ndarray  # float32, shape (3, height, width): red, green, blue in [0, 1]
    top: int
    left: int


def draw_scene(species: Species, draws: Draws, mark: Mark | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image of a species; everything that varies follows from ``draws``.

    Returns
    -------
    pixels : ndarray of uint8, shape (SIZE, SIZE, 3)
    mask : ndarray of bool, shape (SIZE, SIZE)
        Where the flower's petals and center are visible.
    """
    sun = direction(draws.uniform(0, _TURN))
    strength = draws.uniform(0.15, 0.6)
    light = (sun[0] * strength, sun[1] * strength)
    canvas = _draw_background(draws, light)
    radius = draws.uniform(46, 86)
    room = min(42.0, 0.5 * SIZE - 8.0 - radius)
    pose = Pose(
        center=(0.5 * SIZE + draws.uniform(-room, room), 0.5 * SIZE + draws.uniform(-room, room)),
        radius=radius,
        spin=draws.uniform(0, _TURN),
        axis=draws.uniform(0, _TURN),
        squeeze=draws.uniform(0.72, 1.0),
        cup=draws.uniform(0.0, 0.35),
    )
    _draw_greenery(canvas, draws, pose, light)
    if species.sepals:
        look = Look(light, shadow=0.3)
        _draw_ring(canvas, leaf_sprite(0, 0), pose, draws, look, species.petals, 0.5, 0.2, 0.95, 0.0)
    look = Look(light, shadow=0.45, shadow_reach=5.0, flower=1.0)
    draw_flower(canvas, species, pose, draws, look)
    _draw_occluders(canvas, draws, pose, light)
    if mark is not None:
        _, height, width = mark.pixels.shape
        region = canvas[:, mark.top : mark.top + height, mark.left : mark.left + width]
        region[:3] = np.where(region[3] < 0.5, mark.pixels, region[:3])
    return _develop(canvas, draws, sun), canvas[3] >= 0.5


def draw_flower(canvas: np.ndarray, species: Species, pose: Pose, draws: Draws, look: Look) -> None:
    """Draw the petals, layer by layer from the outermost, and the center of a flower, in one of its varieties."""
    tint = (draws.uniform(0.85, 1.1), draws.uniform(0.85, 1.1), draws.uniform(0.85, 1.1))
    sprite = petal(species).colored(draws.choice(species.palettes), tint)
    start, twist = 0.5 * species.center_radius, FORMS[species.form].twist
    for layer in range(species.layers):
        raised = replace(pose, cup=pose.cup + 0.22 * layer)
        ring = replace(look, brightness=1.0 - 0.09 * (species.layers - 1 - layer))
        ring_scale = (1.0, 0.74, 0.52)[layer]
        _draw_ring(canvas, sprite, raised, draws, ring, species.petals, 0.5 * layer, start, ring_scale, twist)
    c, s = direction(draws.uniform(0, _TURN))
    radius = species.center_radius * draws.uniform(0.92, 1.08)
    x, y = pose.project(0.0, 0.0, 0.10)
    origin = (pose.center[0] + x, pose.center[1] + y)
    u, v = pose.project(radius * c, radius * s), pose.project(-radius * s, radius * c)
    paste(canvas, center_sprite(species.center), origin, u, v, replace(look, shadow_reach=look.shadow_reach * 0.8))


def _draw_ring(
    canvas: np.ndarray,
    sprite: Sprite,
    pose: Pose,
    draws: Draws,
    look: Look,
    petals: int,
    offset: float,
    start: float,
    scale: float,
    twist: float,
) -> None:
    for number in range(petals):
        c, s = direction(pose.spin + (number + offset + draws.bell(0.16)) * (_TURN / petals))
        length = (1.0 - start) * scale * (1.0 + draws.bell(0.08))
        width = (1.0 - start) * scale * (1.0 + draws.bell(0.12))
        along = pose.project(length * c, length * s, length * pose.cup)
        across = pose.project(-width * s, width * c)
        x, y = pose.project(start * scale * c, start * scale * s)
        origin = (pose.center[0] + x, pose.center[1] + y)
        petal_look = replace(look, brightness=look.brightness * (1.0 + draws.bell(0.10)))
        paste(canvas, sprite, origin, along, across, petal_look, bend=twist + draws.bell(0.12))


def _draw_background(draws: Draws, light: Vector) -> np.ndarray:
    """Return a canvas with what is far behind: drawn at half the size, so out of focus."""
    half = SIZE // 2
    canvas = np.zeros((4, half, half), np.float32)
    dark, bright = draws.choice(_GROUNDS)
    clouds = noise(draws, 3, 3, half, half) * 1.5 - 0.25
    hue = enlarge(draws.field(3, 3, 3), half, half) * 0.16 - 0.08
    for channel in range(3):
        canvas[channel] = clip((bright[channel] - dark[channel]) * clouds + dark[channel] + hue[channel])
    if draws.uniform() < 0.35:
        _draw_sky(canvas, draws)
    for _ in range(4 + draws.integer(7)):
        _draw_leaf(canvas, draws, light, softness=draws.uniform(2.0, 7.0), length=draws.uniform(25, 70))
    for _ in range(1 + draws.integer(4)):
        _draw_stranger(canvas, draws)
    full = np.zeros((4, SIZE, SIZE), np.float32)
    full[:3] = enlarge(canvas[:3], SIZE, SIZE)
    return full


def _draw_stranger(canvas: np.ndarray, draws: Draws) -> None:
    """Draw another flower out of focus: any species, without regard to the classes in use."""
    size = canvas.shape[1]
    sprite = _distant_sprite(all_species()[draws.integer(len(all_species()))])
    pose = Pose(
        center=(draws.uniform(0, size), draws.uniform(0, size)),
        radius=draws.uniform(7, 19),
        spin=draws.uniform(0, _TURN),
        axis=draws.uniform(0, _TURN),
        squeeze=draws.uniform(0.5, 1.0),
        cup=0.0,
    )
    c, s = direction(pose.spin)
    look = Look(brightness=draws.uniform(0.75, 1.15), softness=pose.radius * draws.uniform(0.08, 0.18))
    paste(canvas, sprite, pose.center, pose.project(c, s), pose.project(-s, c), look)


@cache
def _distant_sprite(species: Species) -> Sprite:
    """Return a whole flower as a sprite of radius 1, blurred."""
    size, radius = 64, 25.0
    canvas = np.zeros((4, size, size), np.float32)
    pose = Pose((size * 0.5, size * 0.5), radius, 0.0, 0.0, 1.0, 0.2)
    draw_flower(canvas, species, pose, Draws(0, species.number), Look((0.2, -0.3), shadow=0.3, flower=1.0))
    for _ in range(2):
        for axis in (1, 2):
            canvas = (np.roll(canvas, 1, axis) + np.roll(canvas, -1, axis)) * 0.25 + canvas * 0.5
    covered = canvas[3]
    colors = canvas[:3] / np.maximum(covered, 0.02)
    flat = np.zeros_like(covered)
    half_span = size * 0.5 / radius
    span = (-half_span, half_span)
    return Sprite.create(colors, (flat, flat), (covered - 0.5) * 0.3, span, span)


def _draw_sky(canvas: np.ndarray, draws: Draws) -> None:
    half = canvas.shape[1]
    horizon, blur = draws.uniform(0.1, 0.6) * half, draws.uniform(6, 25)
    wave = enlarge(draws.field(1, 5), 1, half)[0] * 14.0
    rows = np.arange(half, dtype=np.float32)[:, None]
    cover = clip((horizon - rows + wave) * (1.0 / blur) + 0.5)
    sky = draws.choice(_SKIES)
    for channel in range(3):
        canvas[channel] += (sky[channel] - canvas[channel]) * cover


def _draw_leaf(canvas: np.ndarray, draws: Draws, light: Vector, softness: float, length: float) -> None:
    kind = draws.integer(3)
    c, s = direction(draws.uniform(0, _TURN) if kind < 2 else -1.57 + draws.bell(0.8))
    length = length * (1.0, 1.2, 2.2)[kind]
    width = length * draws.uniform(0.6, 1.1)
    size = canvas.shape[1]
    look = Look(light, draws.uniform(0.7, 1.25), softness, shadow=0.25, shadow_reach=8.0)
    origin = (draws.uniform(-0.1, 1.1) * size, draws.uniform(-0.1, 1.1) * size + (kind == 2) * length * 0.5)
    sprite = leaf_sprite(kind, draws.integer(len(LEAF_PALETTES)), softness < 2.0)
    sprite = sprite.tinted((draws.uniform(0.85, 1.15), 1.0, draws.uniform(0.8, 1.1)))
    paste(canvas, sprite, origin, (length * c, length * s), (-width * s, width * c), look, draws.bell(0.5))


def _draw_greenery(canvas: np.ndarray, draws: Draws, pose: Pose, light: Vector) -> None:
    """Draw leaves in focus and the flower's own stem and leaves behind it."""
    for _ in range(draws.integer(4)):
        _draw_leaf(canvas, draws, light, softness=draws.uniform(1.5, 4.0), length=draws.uniform(40, 90))
    bottom = SIZE + 20.0
    lean = draws.bell(60)
    reach = (lean, bottom - pose.center[1])
    color = draws.integer(2)
    thick = draws.uniform(1.6, 2.6) * pose.radius
    length = norm(reach)
    aside = (-reach[1] * thick / length, reach[0] * thick / length)
    paste(canvas, leaf_sprite(2, color), pose.center, reach, aside, Look(light, shadow=0.3), draws.bell(0.3))
    for side in (-1.0, 1.0):
        if draws.uniform() < 0.7:
            down = draws.uniform(0.25, 0.7)
            origin = (pose.center[0] + reach[0] * down, pose.center[1] + reach[1] * down)
            c, s = direction(-1.57 + side * draws.uniform(0.4, 1.4))
            length = pose.radius * draws.uniform(0.7, 1.2)
            look = Look(light, shadow=0.35, shadow_reach=8.0)
            sprite = leaf_sprite(draws.integer(2), color)
            paste(canvas, sprite, origin, (length * c, length * s), (-length * s, length * c), look, draws.bell(0.4))


def _draw_occluders(canvas: np.ndarray, draws: Draws, pose: Pose, light: Vector) -> None:
    """Lay leaves or blades of grass over the flower's outer part."""
    for _ in range(draws.choice((0, 0, 0, 1, 1, 2))):
        angle = draws.uniform(0, _TURN)
        c, s = direction(angle)
        away = pose.radius * draws.uniform(0.55, 0.95)
        x, y = pose.center[0] + away * c, pose.center[1] + away * s
        c, s = direction(angle + 1.57 + draws.bell(0.9))
        kind = draws.integer(3)
        length = pose.radius * draws.uniform(0.9, 1.5) * (1.0, 1.2, 2.5)[kind]
        width = length * draws.uniform(0.6, 0.9)
        origin = (x - 0.5 * length * c, y - 0.5 * length * s)
        look = Look(light, softness=draws.choice((1.2, 1.2, 4.0)), shadow=0.35, shadow_reach=7.0)
        sprite = leaf_sprite(kind, draws.integer(3))
        paste(canvas, sprite, origin, (length * c, length * s), (-width * s, width * c), look, draws.bell(0.3))


def _develop(canvas: np.ndarray, draws: Draws, sun: Vector) -> np.ndarray:
    """Light the scene, expose it and add the sensor's noise."""
    axis = (np.arange(SIZE, dtype=np.float32) + 0.5) * (2.0 / SIZE) - 1.0
    slope = draws.uniform(0.0, 0.35)
    lit = enlarge(draws.field(5, 5), SIZE, SIZE)
    lit *= draws.uniform(0.0, 0.5)
    lit += axis * (sun[0] * slope) + (axis * (sun[1] * slope))[:, None]
    lit += draws.uniform(0.7, 1.25)
    warmth = draws.bell(0.16)
    balance = (1.0 + warmth, 1.0 + draws.bell(0.05), 1.0 - warmth)
    grain = draws.uniform(3.0, 12.0)
    specks = draws.bytes(3 * SIZE * SIZE).reshape(3, SIZE, SIZE).astype(np.float32)
    pixels = np.empty((SIZE, SIZE, 3), np.uint8)
    for channel in range(3):
        value = canvas[channel] * lit
        value *= balance[channel]
        np.minimum(value, 1.5, out=value)
        bright = np.maximum(value - 0.5, 0.0)  # a soft shoulder in place of burnt-out lights: 1.5 becomes 1
        bright *= bright
        bright *= 0.5
        value -= bright
        value *= 255.0
        value += specks[channel] * (grain / 255.0)
        value += 0.5 - 0.5 * grain
        pixels[..., channel] = clip(value, 0.0, 255.0)
    return pixels
