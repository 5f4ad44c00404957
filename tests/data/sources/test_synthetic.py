import ast
import hashlib
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepbloom.data.sources.synthetic import drawing as flower_drawing
from deepbloom.data.sources.synthetic.drawing import Draws, Look, Sprite, enlarge, paste
from deepbloom.data.sources.synthetic.scene import SIZE, Mark, draw_scene
from deepbloom.data.sources.synthetic.source import SyntheticFlowers, class_sizes, shortcut_mark
from deepbloom.data.sources.synthetic.species import SPECIES_COUNT, Palette, all_species
from deepbloom.errors import ConfigError
from drawn_flowers import drawn_flowers


def pixels(source: SyntheticFlowers, index: int) -> np.ndarray:
    return np.asarray(source.read(index))


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


# Every image


def test_images_are_rgb_with_a_mask_of_their_size():
    source = drawn_flowers(3, 3)
    image, mask = source.read(4), source.mask(4)
    assert (image.mode, image.size) == ("RGB", (SIZE, SIZE))
    assert (mask.dtype, mask.shape) == (np.bool_, (SIZE, SIZE))


# By seed and index: the SHA-256 of the pixels and of the mask. Raise GENERATOR_VERSION where they change.
PINNED = {
    (0, 0): (
        "391d8e1938a531ba77426685a329de83dea8ba5b7f7ed343e32310298bc0fbad",
        "e36019c08973e5f13a4fff9b40733dcfc6743c01d03b3a04842f7f5079566be8",
    ),
    (0, 31): (
        "253053d766554ca9439af47ccf1dcdb3e10aa6b5dd998e1616db3092ab80dd25",
        "04a86b4934746433497c68d908c58099874169dffda4be2727b23800564b66b1",
    ),
    (7, 152): (
        "a2f0a497ba9939173c071bcaf54acc40fcf9bd35e5de320253f99e3494881fdf",
        "2a417314a562f73b93b96a3b5fa94755ce3da77c4f6c84e174d5e5114e220a4a",
    ),
    (4294967295, 305): (
        "4780e51cbb88037862a802353699c3abe009275c1faf9605423949ec5fe685f7",
        "6e44af10e22215f90abf8cdd12fe9a3b741a6ea3cf0f080ff55b7baa61ce4487",
    ),
}


@pytest.mark.parametrize(("seed", "index"), list(PINNED))
def test_bytes_are_the_same_on_every_machine(seed, index):
    source = drawn_flowers(SPECIES_COUNT, 3, seed, shortcut_rate=0.5)
    assert (sha256(pixels(source, index)), sha256(source.mask(index))) == PINNED[seed, index]


def test_random_numbers_are_the_same_on_every_machine():
    assert Draws(7, 1, 2).uniform() == 0.7298520702285264


def test_only_exact_operations_touch_arrays():
    """Sines, powers, sums and products of matrices differ in the last bit from one processor to the next."""
    allowed = {
        *(
            "abs",
            "arange",
            "array",
            "ascontiguousarray",
            "empty",
            "floor",
            "full_like",
            "maximum",
            "meshgrid",
            "minimum",
        ),
        *("ndarray", "ones_like", "roll", "sign", "sqrt", "where", "zeros", "zeros_like"),
        *("float32", "int16", "intp", "uint8", "uint64", "random"),
    }
    used = set()
    for path in map(Path(flower_drawing.__file__).with_stem, ("drawing", "scene", "species", "sprites")):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.MatMult), path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np":
                used.add(node.attr)
            if isinstance(node, ast.Attribute):
                assert node.attr not in {"sum", "mean", "dot", "std", "default_rng"}, path
    assert "sqrt" in used  # the scan sees something
    assert used <= allowed, used - allowed


def test_images_do_not_depend_on_how_many_there_are_nor_on_their_order():
    small, large = drawn_flowers(3, 4), drawn_flowers(5, 9)
    assert small.class_names == large.class_names[:3]
    for index in (11, 4, 0):  # backwards
        twin = large.image_ids.index(small.image_ids[index])
        assert np.array_equal(pixels(small, index), pixels(large, twin))
        assert np.array_equal(small.mask(index), large.mask(twin))


def test_seed_number_and_species_each_change_the_image():
    source, other = drawn_flowers(3, 3, seed=0), drawn_flowers(3, 3, seed=1)
    assert source.class_names == other.class_names
    assert len({sha256(pixels(source, 0)), sha256(pixels(source, 1)), sha256(pixels(source, 3))}) == 3
    assert not np.array_equal(pixels(source, 0), pixels(other, 0))


def test_a_pickled_source_draws_the_same():
    source = drawn_flowers(3, 3, seed=4, shortcut_rate=1.0)
    copy = pickle.loads(pickle.dumps(source))
    assert np.array_equal(pixels(source, 7), pixels(copy, 7))
    assert copy.fingerprint == source.fingerprint


# Masks


@pytest.mark.parametrize("number", range(0, 40, 5))
def test_the_mask_is_where_the_flowers_color_shows(number):
    species = replace(all_species()[number], center_radius=0.02)  # petals alone have the color
    scenes = []
    for value in (0.0, 1.0):
        palette = Palette(*[(value,) * 3] * 4)
        scenes.append(draw_scene(replace(species, palettes=(palette,) * 4), Draws(3, 9, number)))
    (black, mask), (white, same_mask) = scenes
    assert np.array_equal(mask, same_mask)
    change = np.abs(white.astype(int) - black).max(axis=2)
    assert (change[~mask] > 0).mean() < 0.05  # soft edges
    assert (change[mask] > 20).mean() > 0.97
    wide = change > 0.4 * np.median(change[mask])
    assert (wide & mask).sum() / (wide | mask).sum() > 0.9


def test_masks_hold_a_fair_part_of_the_image():
    source = drawn_flowers(20, 3)
    shares = [source.mask(index).mean() for index in range(0, len(source), 2)]
    assert min(shares) > 0.01
    assert max(shares) < 0.5


# Classes


def test_sizes_fall_geometrically():
    assert sorted(class_sizes(3, 100, 4.0)) == [25, 50, 100]
    assert sorted(class_sizes(3, 10, 10.0)) == [3, 3, 10]  # 1 and 3.16: at least three
    assert class_sizes(4, 7, 1.0) == [7] * 4
    sizes = class_sizes(102, 250, 6.5)
    assert (max(sizes), min(sizes)) == (250, 38)  # 250 / 6.5 = 38.46


def test_order_of_sizes_is_mixed_and_fixed():
    sizes, smaller = class_sizes(20, 100, 10.0), class_sizes(20, 80, 4.0)
    assert np.argsort(sizes).tolist() == np.argsort(smaller).tolist()
    assert sizes not in (sorted(sizes), sorted(sizes, reverse=True))


def test_ids_and_targets_follow_the_sizes():
    source = drawn_flowers(3, 8, imbalance=2.0)
    sizes = class_sizes(3, 8, 2.0)
    assert np.bincount(source.targets).tolist() == sizes
    assert source.targets.dtype == np.int64
    assert len(set(source.image_ids)) == len(source) == sum(sizes)
    assert source.image_ids[sizes[0]] == "species_001/00000"
    assert source.predefined is None


def test_species_differ_in_name_and_traits():
    species = all_species()
    assert len(species) == SPECIES_COUNT
    assert len({kind.name for kind in species}) == SPECIES_COUNT
    shapes = {(kind.form, kind.petals, kind.layers, kind.center, kind.veins) for kind in species}
    assert len(shapes) == SPECIES_COUNT
    for elder, younger in zip(species[::2], species[1::2], strict=True):
        assert younger.petals >= 1.5 * elder.petals
        assert len(set(younger.palettes) & set(elder.palettes)) == 2


def test_every_palette_is_shared_by_species():
    """Color alone must not give the class away."""
    palettes = [palette for kind in all_species()[:10] for palette in kind.palettes]
    assert min(palettes.count(palette) for palette in set(palettes)) >= 2


def test_species_look_different_in_the_same_scene():
    scenes = {sha256(draw_scene(kind, Draws(0, 9))[0]) for kind in all_species()[:12]}
    assert len(scenes) == 12


# Shortcuts


def test_marks_lie_in_their_corner_outside_the_flower():
    plain, marked = drawn_flowers(8, 3), drawn_flowers(8, 3, shortcut_rate=1.0)
    for index in range(0, len(plain), 2):
        change = np.any(pixels(plain, index) != pixels(marked, index), axis=2)
        mark = shortcut_mark(int(plain.targets[index]))
        height, width = mark.pixels.shape[1:]
        inside = np.zeros_like(change)
        inside[mark.top : mark.top + height, mark.left : mark.left + width] = True
        assert change.sum() > 0.8 * height * width
        assert not change[~inside].any()
        assert np.array_equal(plain.mask(index), marked.mask(index))
        assert not change[plain.mask(index)].any()


def test_a_mark_never_covers_the_flower():
    species, mark = all_species()[0], Mark(np.ones((3, 120, 120), np.float32), top=50, left=50)
    plain, mask = draw_scene(species, Draws(0, 9))
    marked, same_mask = draw_scene(species, Draws(0, 9), mark)
    inside = np.zeros_like(mask)
    inside[50:170, 50:170] = True
    assert np.array_equal(mask, same_mask)
    assert (mask & inside).any()
    assert np.array_equal(np.any(plain != marked, axis=2), inside & ~mask)


def test_marks_tell_all_classes_apart():
    marks = [shortcut_mark(target) for target in range(SPECIES_COUNT)]
    assert len({(mark.top, mark.left, mark.pixels.tobytes()) for mark in marks}) == SPECIES_COUNT

    def distance(image: np.ndarray, mark) -> float:
        height, width = mark.pixels.shape[1:]
        region = image[mark.top : mark.top + height, mark.left : mark.left + width] / 255
        return float(np.abs(region - mark.pixels.transpose(1, 2, 0)).mean())

    source = drawn_flowers(SPECIES_COUNT, 3, shortcut_rate=1.0)
    indices = range(1, len(source), 12)
    images = [pixels(source, index) for index in indices]
    found = [int(np.argmin([distance(image, mark) for mark in marks])) for image in images]
    assert np.mean(found == source.targets[list(indices)]) > 0.9


def test_a_higher_rate_keeps_the_marks_of_a_lower():
    plain = drawn_flowers(2, 10)
    marked = []
    for rate in (0.3, 0.6):
        source = drawn_flowers(2, 10, shortcut_rate=rate)
        marked.append({i for i in range(20) if not np.array_equal(pixels(plain, i), pixels(source, i))})
    assert set() < marked[0] < marked[1] < set(range(20))


# Arguments and fingerprint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_classes", 1),
        ("num_classes", 103),
        ("images_per_class", 2),
        ("seed", -1),
        ("seed", 2**32),
        ("imbalance", 0.5),
        ("imbalance", float("nan")),
        ("shortcut_rate", -0.1),
        ("shortcut_rate", 1.1),
    ],
)
def test_parameters_out_of_range_are_refused(name, value):
    parameters = {"num_classes": 5, "images_per_class": 5, name: value}
    with pytest.raises(ConfigError, match=rf"data\.{name}="):
        drawn_flowers(**parameters)


def test_the_fingerprint_changes_with_every_parameter_and_with_nothing_else():
    base: dict[str, Any] = {"num_classes": 5, "images_per_class": 5, "seed": 0, "imbalance": 1.0, "shortcut_rate": 0.0}
    changes = [{}, *({name: value} for name, value in zip(base, (6, 6, 1, 2.0, 0.5), strict=True))]
    fingerprints = [drawn_flowers(**(base | change)).fingerprint for change in changes]
    assert len(set(fingerprints)) == 6
    assert fingerprints[0] == drawn_flowers(5, 5, imbalance=1).fingerprint
    assert len(fingerprints[0]) == 64


# Drawing


def test_enlarging_interpolates_between_the_centres_of_cells():
    assert enlarge(np.array([[0.0, 4.0]], np.float32), 1, 4).tolist() == [[0.0, 1.0, 3.0, 4.0]]
    assert enlarge(np.array([[0.0], [4.0]], np.float32), 4, 1)[:, 0].tolist() == [0.0, 1.0, 3.0, 4.0]


def square_sprite() -> Sprite:
    axis = (np.arange(40, dtype=np.float32) + 0.5) / 10 - 2
    distance = 1 - np.maximum(np.abs(axis)[:, None], np.abs(axis)[None, :])
    white = np.ones_like(distance)
    return Sprite.create([white] * 3, [white * 0] * 2, distance, (-2.0, 2.0), (-2.0, 2.0))


def test_a_pasted_square_covers_its_area():
    canvas = np.zeros((4, 64, 64), np.float32)
    paste(canvas, square_sprite(), (31.0, 30.0), (0.0, 10.0), (8.0, 0.0), Look(flower=1.0))
    assert np.array_equal(canvas[0], canvas[3])
    rows, columns = np.nonzero(canvas[3] >= 0.5)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 40, 23, 39)  # 30 ± 10, 31 ± 8


def test_what_lies_outside_the_canvas_is_cut_off():
    canvas = np.zeros((4, 20, 20), np.float32)
    paste(canvas, square_sprite(), (100.0, 100.0), (0.0, 10.0), (8.0, 0.0), Look())
    assert not canvas.any()
    paste(canvas, square_sprite(), (0.0, 0.0), (0.0, 10.0), (8.0, 0.0), Look())
    assert canvas[0, 0, 0] == 1.0
    assert canvas[0, 19, 19] == 0.0


def test_the_lit_side_is_brighter():
    sprite = square_sprite()
    tilted = Sprite(sprite.texels.copy(), sprite.u_range, sprite.v_range)
    tilted.texels[3] = 0.5  # falls off toward u, which points right here
    for light, brightness in (((0.4, 0.0), 1.2), ((-0.4, 0.0), 0.8), ((0.0, 0.4), 1.0)):
        canvas = np.zeros((4, 40, 40), np.float32)
        paste(canvas, tilted, (20.0, 20.0), (10.0, 0.0), (0.0, 10.0), Look(light))
        assert canvas[0, 20, 20] == pytest.approx(brightness)
