import hashlib
from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image

from deepbloom.config.data_settings import SplitConfig
from deepbloom.data.sources import ImageSource
from deepbloom.data.split import PARTS, make_split, split_kind
from deepbloom.errors import DataError


@dataclass(frozen=True)
class Named(ImageSource):
    """A source of which only names and classes matter."""

    def read(self, index: int) -> Image.Image:
        raise NotImplementedError


def named(*counts: int, predefined: dict | None = None) -> Named:
    """Class 0 has counts[0] images, and so on."""
    targets = np.repeat(np.arange(len(counts)), counts)
    image_ids = tuple(f"{target}/{number}.jpg" for number, target in enumerate(targets))
    class_names = tuple(f"class{number}" for number in range(len(counts)))
    return Named("named", image_ids, targets, class_names, "", predefined)


def counts_of(source: Named, part: np.ndarray) -> list[int]:
    return np.bincount(source.targets[part], minlength=len(source.class_names)).tolist()


def test_every_class_gives_its_share_rounded_half_up():
    source = named(10, 50, 100)
    split = make_split(source, SplitConfig(test_fraction=0.29, val_fraction=0.1))
    # Test: 2.9, 14.5, 29 -> 3, 15, 29 (in floating point 50 * 0.29 is below 14.5); val of the rest: 0.7, 3.5, 7.1.
    assert counts_of(source, split.test) == [3, 15, 29]
    assert counts_of(source, split.val) == [1, 4, 7]
    assert counts_of(source, split.train) == [6, 31, 64]
    assert split.notes == ()


@pytest.mark.parametrize(("test_fraction", "val_fraction"), [(0.01, 0.01), (0.2, 0.1), (0.5, 0.5), (0.9, 0.9)])
def test_parts_are_disjoint_cover_everything_and_hold_every_class_of_three(test_fraction, val_fraction):
    source = named(3, 4, 5, 17)
    split = make_split(source, SplitConfig(test_fraction=test_fraction, val_fraction=val_fraction))
    assert sorted(np.concatenate([split.train, split.val, split.test])) == list(range(len(source)))
    for part in PARTS:
        assert min(counts_of(source, getattr(split, part))) >= 1
        assert getattr(split, part).dtype == np.int64


def test_the_images_with_the_smallest_hash_of_seed_and_name_are_tested():
    source = named(10, 10)
    split = make_split(source, SplitConfig(seed=5))
    order = sorted(range(10), key=lambda i: hashlib.sha256(f"5:{source.image_ids[i]}".encode()).hexdigest())
    assert [i for i in split.test if i < 10] == sorted(order[:2])
    assert [i for i in split.val if i < 10] == [order[2]]


def test_classes_of_one_or_two_images_are_split_as_far_as_possible_and_named():
    source = named(5, 2, 1)
    split = make_split(source, SplitConfig())
    assert counts_of(source, split.train) == [3, 1, 1]
    assert counts_of(source, split.val) == [1, 0, 0]
    assert counts_of(source, split.test) == [1, 1, 0]
    assert [note.split(" with ")[0] for note in split.notes] == ["1 class (class1)", "1 class (class2)"]


def test_the_order_of_images_does_not_change_who_goes_where():
    source = named(9, 12)
    order = np.random.default_rng(0).permutation(len(source))
    shuffled = replace(source, image_ids=tuple(source.image_ids[i] for i in order), targets=source.targets[order])
    split, split_of_shuffled = make_split(source, SplitConfig()), make_split(shuffled, SplitConfig())
    assert {source.image_ids[i] for i in split.test} == {shuffled.image_ids[i] for i in split_of_shuffled.test}
    assert split.fingerprint(source) == split_of_shuffled.fingerprint(shuffled)


def test_the_fingerprint_changes_with_seed_part_and_class():
    source = named(9, 12)
    split = make_split(source, SplitConfig())
    renamed = replace(source, class_names=("class0", "other"))
    swapped = replace(split, val=split.test, test=split.val)
    others = [
        make_split(source, SplitConfig(seed=43)).fingerprint(source),
        split.fingerprint(renamed),
        swapped.fingerprint(source),
    ]
    assert len({split.fingerprint(source), *others}) == 4
    assert make_split(source, SplitConfig()).fingerprint(source) == split.fingerprint(source)


def test_official_parts_are_kept_as_they_are():
    parts = {"train": np.array([0, 3]), "val": np.array([1, 4]), "test": np.array([2, 5])}
    split = make_split(named(3, 3, predefined=parts), SplitConfig(kind="official"))
    for part, indices in parts.items():
        assert np.array_equal(getattr(split, part), indices)
    assert split.notes == ()


def test_stratified_merges_the_official_parts():
    source = named(10, 10, predefined={"train": np.arange(19), "val": np.array([], int), "test": np.array([19])})
    split = make_split(source, SplitConfig())
    assert counts_of(source, split.test) == [2, 2]
    assert split.notes == ("The predefined split (train, val, test) is merged and split anew.",)


def test_a_split_without_test_images_is_merged_and_says_so():
    parts = {"train": np.r_[0:8, 10:18], "val": np.r_[8, 9, 18, 19]}
    split = make_split(replace(named(10, 10, predefined=parts), name="imagefolder"), SplitConfig())
    assert split.notes[0].startswith("The predefined split (train, val) has no test images: it is merged")


def test_a_split_without_train_images_is_refused_unless_it_is_merged_on_purpose():
    source = replace(named(10, 10, predefined={"val": np.r_[0:10], "test": np.r_[10:20]}), name="imagefolder")
    with pytest.raises(DataError, match=r"no images to train on, only val and test.*data\.split\.kind=stratified"):
        make_split(source, SplitConfig())
    assert counts_of(source, make_split(source, SplitConfig(kind="stratified")).test) == [2, 2]


def test_validation_is_carved_from_train_where_the_data_have_none():
    source = named(10, 10, 2, predefined={"train": np.r_[0:8, 10:18, 20], "test": np.r_[8, 9, 18, 19, 21]})
    split = make_split(source, SplitConfig(kind="official"))
    assert counts_of(source, split.val) == [1, 1, 0]
    assert counts_of(source, split.train) == [7, 7, 1]
    assert split.test.tolist() == [8, 9, 18, 19, 21]
    assert "2 images were taken from the train split" in split.notes[0]
    assert "class2" in split.notes[1]


@pytest.mark.parametrize("parts", [None, {"train": np.arange(6)}])
def test_official_without_ready_made_parts_is_refused_with_the_way_out(parts):
    with pytest.raises(DataError, match=r"data\.split\.kind=stratified"):
        make_split(named(3, 3, predefined=parts), SplitConfig(kind="official"))


def test_one_class_is_refused():
    with pytest.raises(DataError, match="at least two"):
        make_split(named(30), SplitConfig())


def test_an_empty_part_is_refused():
    with pytest.raises(DataError, match=r"val split .* is empty"):
        make_split(named(2, 2), SplitConfig())


@pytest.mark.parametrize(("name", "official"), [("imagefolder", True), ("flowers102", False)])
def test_ready_made_parts_are_used_by_default_for_a_folder_of_ones_own_only(name, official):
    parts = {"train": np.arange(0, 20), "test": np.arange(20, 30)}
    source = replace(named(15, 15, predefined=parts), name=name)
    split = make_split(source, SplitConfig())
    assert (split.test.tolist() == list(range(20, 30))) is official
    assert split_kind(source, SplitConfig()) == ("official" if official else "stratified")
    assert split_kind(source, SplitConfig(kind="stratified")) == "stratified"
