"""The invented species: their traits, and what keeps them apart."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from deepbloom.data.sources.synthetic.drawing import Color, Draws

SPECIES_COUNT = 102
SPECIES_PATH = 1  # first step of the path of every stream that draws a species
_SPECIES_SEED = 2259  # one whose first ten species differ well in form, layers and center
_VARIETIES = 4  # palettes in which a species comes


@dataclass(frozen=True)
class Palette:
    """Colors of a petal or a leaf: of its tip, its middle, its base, and of veins and spots."""

    tip: Color
    middle: Color
    base: Color
    mark: Color


PALETTES = (
    Palette((0.98, 0.52, 0.42), (0.94, 0.38, 0.34), (0.99, 0.80, 0.52), (0.62, 0.12, 0.16)),  # coral
    Palette((0.82, 0.70, 0.95), (0.66, 0.50, 0.88), (0.95, 0.93, 0.86), (0.35, 0.18, 0.55)),  # lilac
    Palette((0.99, 0.74, 0.20), (0.97, 0.58, 0.10), (0.86, 0.30, 0.08), (0.55, 0.16, 0.05)),  # amber
    Palette((0.98, 0.97, 0.93), (0.95, 0.93, 0.87), (0.88, 0.90, 0.66), (0.62, 0.52, 0.66)),  # ivory
    Palette((0.93, 0.36, 0.68), (0.82, 0.16, 0.52), (0.55, 0.05, 0.34), (0.38, 0.02, 0.26)),  # magenta
    Palette((0.56, 0.72, 0.98), (0.34, 0.50, 0.92), (0.90, 0.93, 0.98), (0.16, 0.20, 0.58)),  # azure
    Palette((0.92, 0.20, 0.22), (0.76, 0.08, 0.13), (0.38, 0.03, 0.08), (0.20, 0.02, 0.05)),  # crimson
    Palette((0.99, 0.80, 0.82), (0.97, 0.66, 0.72), (0.98, 0.93, 0.86), (0.80, 0.26, 0.42)),  # blush
    Palette((0.99, 0.93, 0.36), (0.97, 0.83, 0.18), (0.92, 0.66, 0.12), (0.66, 0.36, 0.08)),  # lemon
    Palette((0.56, 0.34, 0.84), (0.40, 0.18, 0.68), (0.24, 0.08, 0.44), (0.16, 0.04, 0.30)),  # violet
)


def _root(values: np.ndarray) -> np.ndarray:
    """Square root, continued below zero, so that a round tip has an outside."""
    result: np.ndarray = np.sqrt(np.maximum(values, 0.0)) - np.sqrt(np.maximum(-values, 0.0))
    return result


PROFILES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "oval": lambda u: _root(4.0 * (u + 0.04) * (1.0 - u)) * (0.72 + 0.28 * u),  # round at both ends
    "wedge": lambda u: 2.6 * (u + 0.05) * _root(1.0 - u),  # widest near its round tip
    "star": lambda u: 2.45 * _root(u + 0.06) * (1.0 - u),  # widest near its base, with a pointed tip
    "lance": lambda u: 4.0 * (u + 0.05) * (1.0 - u),  # pointed at both ends
    "strap": lambda u: _root(1.0 - _sixth(2.0 * u - 1.0)) * (0.62 + 0.38 * u),  # almost a rectangle
    "spoon": lambda u: _root((u + 0.03) * (1.0 - u)) * (0.35 + 2.3 * u * u * u),  # a narrow stalk with a round blade
}
"""Half the width of a petal (at most about 1) where u runs from its base (0) to its tip (1); negative beyond."""


def _sixth(values: np.ndarray) -> np.ndarray:
    result: np.ndarray = values * values * values * values * values * values
    return result


@dataclass(frozen=True)
class Form:
    """The outline of a petal or leaf; lengths are shares of its own length."""

    profile: str  # a key of `PROFILES`
    width: float  # factor of the profile, for five petals
    nouns: tuple[str, str, str] = ("", "", "")  # names of flowers with few, several and many such petals
    notch: float = 0.0  # depth of a notch at the tip
    teeth: float = 0.0  # depth of teeth along the tip
    waves: float = 0.0  # depth of waves along the sides
    twist: float = 0.0  # how far the petal bends to one side


FORMS = {
    "oval": Form("oval", 0.40, ("dewcup", "moonwheel", "lantern daisy")),
    "wedge": Form("wedge", 0.42, ("goldcup", "anemone", "fanwort")),
    "star": Form("star", 0.33, ("trinity star", "starflower", "sunburst")),
    "lance": Form("lance", 0.27, ("arrowbloom", "compass lily", "sparkwheel")),
    "strap": Form("strap", 0.24, ("ribbonbell", "paddle aster", "rayflower")),
    "spoon": Form("spoon", 0.36, ("spoonwort", "ladle pink", "dropwheel")),
    "heart": Form("wedge", 0.47, ("heartwort", "clover rose", "valentine"), notch=0.20),
    "fringe": Form("wedge", 0.45, ("fringecup", "feather pink", "tasselwort"), teeth=0.13),
    "ruffle": Form("oval", 0.40, ("silk poppy", "crepe mallow", "frillflower"), waves=0.16),
    "twist": Form("wedge", 0.34, ("pinwheel", "whirligig", "spindle aster"), twist=0.42),
}
PETAL_COUNTS = ((4, 5), (6, 7, 8), (11, 13, 16, 20))  # few, several, many
CENTERS = ("florets", "dome", "stamens", "corona", "pistil")
HABITATS = (
    "alder", "alpine", "brook", "dune", "fen", "glade", "harbour", "heath", "hollow", "marsh", "mill", "moor",
    "orchard", "ridge", "sand", "wood",
)  # fmt: skip


@dataclass(frozen=True)
class Species:
    """The traits that every flower of a species has."""

    number: int
    name: str
    palettes: tuple[Palette, ...]  # several, as of garden flowers: color alone says little about the species
    form: str  # a key of `FORMS`
    petals: int  # in one layer
    layers: int  # rings of petals, 1 to 3, each smaller than the one below
    aspect: float  # half the petal's width over its length
    center: str  # one of `CENTERS`
    center_radius: float  # over the flower's radius
    veins: int  # lines along the petal
    spots: bool
    concave: bool  # petals are hollow like a spoon, or else arched
    sepals: bool  # green tips show between the petals


@cache
def all_species() -> tuple[Species, ...]:
    """Return the ``SPECIES_COUNT`` species.

    They come in pairs, species 2 k and 2 k + 1: siblings that differ in the number, width and layers of their petals
    and in half of their colors, and share every other trait. No two pairs have the same form, center and veins.
    """
    taken: set[object] = set()
    species: list[Species] = []
    for first in range(0, SPECIES_COUNT, 2):
        draws = Draws(_SPECIES_SEED, SPECIES_PATH, first)
        while len(species) == first:
            pair = _draw_siblings(first, draws)
            names = {sibling.name for sibling in pair}
            traits = (pair[0].form, pair[0].center, pair[0].veins)
            apart = pair[1].petals >= 1.5 * pair[0].petals
            if apart and traits not in taken and not names & taken:
                taken |= {traits, *names}
                species.extend(pair)
    return tuple(species)


def _draw_siblings(first: int, draws: Draws) -> tuple[Species, Species]:
    key = draws.choice(tuple(FORMS))
    form = FORMS[key]
    amount = draws.integer(len(PETAL_COUNTS) - 1)
    habitat = draws.choice(HABITATS)
    palettes: list[Palette] = []
    while len(palettes) < _VARIETIES + 2:
        palette = draws.choice(PALETTES)
        if palette not in palettes:
            palettes.append(palette)
    width = form.width * draws.uniform(0.9, 1.12)
    elder = Species(
        number=first,
        name=f"{habitat} {form.nouns[amount]}",
        palettes=tuple(palettes[:_VARIETIES]),
        form=key,
        petals=draws.choice(PETAL_COUNTS[amount]),
        layers=draws.choice((1, 1, 2, 2, 3)) if amount == 0 else draws.choice((1, 1, 2)),
        aspect=width,
        center=draws.choice(CENTERS),
        center_radius=draws.uniform(0.17, 0.34),
        veins=draws.choice((0, 5, 9)),
        spots=draws.uniform() < 0.25,
        concave=draws.uniform() < 0.5,
        sepals=draws.uniform() < 0.35,
    )
    younger = replace(
        elder,
        number=first + 1,
        name=f"{habitat} {form.nouns[amount + 1]}",
        palettes=tuple(palettes[2:]),
        petals=draws.choice(PETAL_COUNTS[amount + 1]),
        layers=draws.choice((1, 1, 2)),
    )
    return _fit_width(elder), _fit_width(younger)


def _fit_width(species: Species) -> Species:
    """Make petals narrower the more there are."""
    return replace(species, aspect=species.aspect * min(1.4, 5.6 / species.petals))
