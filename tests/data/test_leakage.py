"""Copies across splits are found, different images are not, and reading a test image too early is noticed."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepbloom.config.data_settings import DataConfig, SplitConfig
from deepbloom.data import near_duplicates
from deepbloom.data.dataset import prepare
from deepbloom.data.leakage import WatchedPixels, audit_split
from deepbloom.data.near_duplicates import Fingerprints, find_near_duplicates, fingerprint, fingerprints_of
from deepbloom.data.pixel_cache import Pixels
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.data.split import make_split
from drawn_flowers import drawn_flowers

PREPROCESSING = Preprocessing(96, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")


class Given(Pixels):
    def __init__(self, images: list[Image.Image]) -> None:
        self.array = np.stack([np.asarray(image.resize((224, 224))) for image in images])

    def read(self, indices: np.ndarray) -> np.ndarray:
        return self.array[indices]


@pytest.fixture(scope="module")
def flowers() -> list[Image.Image]:
    source = drawn_flowers(10, 6, 0, 1.0, 0.0)
    return [source.read(i) for i in range(len(source))]


def recompress(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "jpeg", quality=40)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


CHANGES = {
    "copy": lambda image: image,
    "jpeg": recompress,
    "smaller": lambda image: image.resize((100, 100)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "brighter": lambda image: image.point(lambda value: min(255, int(1.05 * value))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_near_duplicates_are_found_with_their_partner(flowers: list[Image.Image], change: str) -> None:
    prints = fingerprint(Given(flowers), len(flowers))
    changed = fingerprint(Given([CHANGES[change](image) for image in flowers[10:20]]), 10)
    np.testing.assert_array_equal(find_near_duplicates(changed, prints), np.arange(10, 20))


def test_different_images_are_no_near_duplicates(flowers: list[Image.Image]) -> None:
    prints = fingerprint(Given(flowers), len(flowers))
    assert (find_near_duplicates(prints[:30], prints[30:]) == -1).all()


def test_images_without_contrast_are_compared_by_color() -> None:
    plain = [Image.new("RGB", (64, 64), color) for color in ("red", "blue", "navy", "red")]
    prints = fingerprint(Given(plain), 4)
    assert find_near_duplicates(prints[:3], prints[3:]).tolist() == [0, -1, -1]


def test_images_smaller_than_the_grid_have_each_pixel_in_several_cells() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)

    class Small(Given):
        def __init__(self) -> None:
            self.array = image[None]

    np.testing.assert_array_equal(fingerprint(Small(), 1).thumbnails[0], image.repeat(2, 0).repeat(2, 1))


def test_the_hash_is_the_sign_of_differences_between_neighboring_means(flowers: list[Image.Image]) -> None:
    """An independent difference hash: box-filtered gray means by Pillow."""
    side = 16 * 17
    image = flowers[3].resize((side, side), Image.Resampling.NEAREST)
    gray = np.asarray(image, np.float64) @ [0.299, 0.587, 0.114]
    means = gray.reshape(16, 17, 17, 16).mean(axis=(1, 3))  # 16 rows of 17 cells
    expected = np.where(means[:, 1:] > means[:, :-1], 1, -1)

    class One(Given):
        def __init__(self) -> None:
            self.array = np.asarray(image)[None]

    clear = np.abs(np.diff(means, axis=1)) > 1e-3
    assert clear.sum() > 100
    found = fingerprint(One(), 1).signs().reshape(16, 16)
    np.testing.assert_array_equal(found[clear], expected[clear])


def test_all_pairs_are_compared_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a loop over single pairs, with blocks smaller than the images and with crowds of equal hashes."""
    rng = np.random.default_rng(0)
    centers = rng.integers(0, 2, (4, 256))
    bits = centers[rng.integers(0, 4, 150)] ^ (rng.random((150, 256)) < 0.08)
    thumbnails = (rng.integers(90, 120, (150, 1, 1, 3)) + rng.integers(0, 9, (150, 16, 16, 3))).astype(np.uint8)
    prints = Fingerprints(np.packbits(bits, axis=1), thumbnails)
    monkeypatch.setattr(near_duplicates, "COMPARED_AT_ONCE", 17)
    found = find_near_duplicates(prints[:60], prints[60:])

    def best(one: int, mirrored: bool) -> int:
        own = bits[one], thumbnails[one].astype(int)
        if mirrored:
            own = 1 - own[0].reshape(16, 16)[:, ::-1].ravel(), own[1][:, ::-1]
        differing = [(int((bits[other] != own[0]).sum()), other) for other in range(60, 150)]
        near = [other for bit, other in sorted(differing)[:20] if bit <= 36]
        levels = [(np.abs(thumbnails[other] - own[1]).mean(), rank, other) for rank, other in enumerate(near)]
        return min(levels)[2] - 60 if levels and min(levels)[0] <= 12 else -1

    expected = [best(one, False) if best(one, True) < 0 else best(one, True) for one in range(60)]
    assert found.tolist() == expected
    assert 10 < sum(match >= 0 for match in expected) < 60


def draw_folder(root: Path, copies: int) -> Path:
    """Sixty noisy images of two classes, and files that are copies of others under another name."""
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for number in range(30):
            coarse = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(coarse).resize((96, 96)).save(root / label / f"{number:02d}.png")
    for number in range(copies):
        Image.open(root / "a" / f"{number:02d}.png").save(root / "a" / f"copy{number:02d}.jpg", quality=90)
    return root


def test_copies_across_parts_are_counted_and_clean_data_have_none(tmp_path: Path) -> None:
    found = {}
    for copies in (0, 30):
        root = draw_folder(tmp_path / str(copies), copies)
        data = prepare(DataConfig("imagefolder", root=str(root), pixel_cache="off"), PREPROCESSING, 0)
        names = data.source.image_ids
        seen = {names[i].replace("copy", "").split(".")[0] for i in (*data.split.train, *data.split.val)}
        doubled = [names[i].replace("copy", "").split(".")[0] in seen for i in data.split.test]
        findings, affected = audit_split(data)
        assert affected.tolist() == doubled
        assert findings["in_two_splits"] == 0
        assert findings["near_duplicates"]["test"] == sum(doubled)
        assert all(
            test.replace("copy", "")[:4] == other.replace("copy", "")[:4] for test, other in findings["examples"]
        )
        found[copies] = sum(doubled)
    assert found[0] == 0
    assert found[30] > 5


def test_pairs_with_different_labels_are_named_first(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "images", 30)
    for number in range(0, 30, 4):
        (root / "a" / f"copy{number:02d}.jpg").rename(root / "b" / f"copy{number:02d}.jpg")
    data = prepare(DataConfig("imagefolder", root=str(root), pixel_cache="off"), PREPROCESSING, 0)
    alike = [test[0] == other[0] for test, other in audit_split(data)[0]["examples"]]
    assert 0 < alike.count(False) < len(alike) <= 10
    assert alike == sorted(alike)


def test_fingerprints_are_kept_and_damaged_ones_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPBLOOM_CACHE", str(tmp_path / "cache"))
    root = draw_folder(tmp_path / "images", 3)
    data = prepare(DataConfig("imagefolder", root=str(root), pixel_cache="off"), PREPROCESSING, 0)
    expected = fingerprint(data.pixels, len(data.source))
    for damage in (None, lambda content: content[:-100], lambda content: content[:300] + b"x" + content[301:]):
        (kept,) = (tmp_path / "cache" / "near-duplicates").iterdir() if damage else (None,)
        if damage:
            kept.write_bytes(damage(kept.read_bytes()))
        found = fingerprints_of(data)
        np.testing.assert_array_equal(found.bits, expected.bits)
        np.testing.assert_array_equal(found.thumbnails, expected.thumbnails)
    monkeypatch.setattr(type(data.pixels), "read", lambda *_: pytest.fail("read again"))
    np.testing.assert_array_equal(fingerprints_of(data).bits, expected.bits)
    found = audit_split(data)
    monkeypatch.setattr(near_duplicates, "find_near_duplicates", lambda *_: pytest.fail("compared again"))
    assert audit_split(data)[0] == found[0]
    with pytest.raises(pytest.fail.Exception, match="compared again"):  # another split
        audit_split(replace(data, split=make_split(data.source, SplitConfig(seed=1))))


@pytest.mark.parametrize(("copies", "said"), [(0, "No near-duplicates"), (30, "Near-duplicates in two splits: ")])
def test_data_says_how_many_near_duplicates_stand_in_two_splits(
    copies: int, said: str, tmp_path: Path, deepbloom: Callable
) -> None:
    root = draw_folder(tmp_path / "images", copies)
    code, out, _ = deepbloom("data", "data=imagefolder", f"data.root={root}", f"output_dir={tmp_path / 'out'}")
    assert code == 0
    assert said in out
    assert ("of 18 test images have one in training" in out) is (copies == 30)


def test_a_look_at_the_test_part_during_training_is_noticed_and_a_clean_run_is_not(flowers: list[Image.Image]) -> None:
    test = np.array([4, 5])
    reports: list[str] = []
    clean = WatchedPixels(Given(flowers), len(flowers), test, lambda: reports.append("early"))
    clean.read(np.array([0, 1, 1, 2]))
    clean.testing = True
    clean.read(test)
    assert reports == []
    assert clean.test_reads == (1, 1)
    peeking = WatchedPixels(Given(flowers), len(flowers), test, lambda: reports.append("early"))
    for _ in range(2):
        peeking.read(np.array([0, 5]))
    peeking.testing = True
    peeking.read(test)
    assert reports == ["early"]  # said once, at once: before anything else can go wrong
    assert peeking.test_reads == (1, 3)


def test_over_the_folds_every_image_is_tested_exactly_once() -> None:
    source = drawn_flowers(7, 23, 0, 4.0, 0.0)
    tested = []
    for fold in range(5):
        data = prepare(
            DataConfig(
                "synthetic", num_classes=7, images_per_class=23, imbalance=4.0, split=SplitConfig(folds=5, fold=fold)
            ),
            Preprocessing(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear"),
            0,
        )
        split = data.split
        everything = np.concatenate([split.train, split.val, split.test])
        assert sorted(everything) == list(range(len(source)))
        for label in range(7):
            tests = (source.targets[split.test] == label).sum()
            assert abs(tests - (source.targets == label).sum() / 5) < 1
            assert (source.targets[split.val] == label).any()
        tested.append(split.test)
    assert sorted(np.concatenate(tested)) == list(range(len(source)))
