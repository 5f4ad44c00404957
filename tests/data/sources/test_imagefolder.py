from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepbloom.data.sources.imagefolder import ImageFolder
from deepbloom.errors import DataError


def put(path: Path, color: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), color).save(path, format="PNG")
    return path


def test_folders_are_classes_sorted_by_name(tmp_path):
    for name in ("tulip/b.png", "rose/a.JPG", "rose/deeper/still/c.webp", "tulip/a.jpeg"):
        put(tmp_path / name)
    source = ImageFolder.create(tmp_path)
    assert source.class_names == ("rose", "tulip")
    assert source.image_ids == ("rose/a.JPG", "rose/deeper/still/c.webp", "tulip/a.jpeg", "tulip/b.png")
    assert source.targets.tolist() == [0, 0, 1, 1]
    assert source.targets.dtype == np.int64
    assert source.predefined is None
    assert source.notes == ("Found 4 images of 2 classes (rose, tulip).",)
    assert source.read(0).size == (8, 6)


@pytest.mark.parametrize(
    "names",
    [
        {"train": "train", "val": "val", "test": "test"},
        {"train": "Training", "test": "Testing"},
        {"train": "train", "test": "test_set"},
        {"train": "train_images", "val": "val_images"},
        {"train": "train", "test": "eval"},
        {"train": "train", "val": "evaluation", "test": "holdout"},
        {"train": "TrainSet", "val": "dev", "test": "hold-out data"},
        {"train": "train2017", "val": "valid 2017"},
        {"train": "seg_train", "test": "seg_test"},
        {"train": "flowers training", "val": "flowers validation", "test": "flowers testing"},
        {"train": "train_cropped", "test": "test_cropped"},
    ],
    ids=lambda names: "-".join(names.values()),
)
def test_predefined_splits_are_recognized(tmp_path, names):
    for folder in names.values():
        for name in ("rose", "tulip"):
            put(tmp_path / folder / name / "1.png")
    source = ImageFolder.create(tmp_path)
    assert source.class_names == ("rose", "tulip")
    assert {part: [source.image_ids[i] for i in indices] for part, indices in source.predefined.items()} == {
        part: [f"{folder}/rose/1.png", f"{folder}/tulip/1.png"] for part, folder in names.items()
    }
    assert source.notes == (
        f"Found {2 * len(names)} images of 2 classes (rose, tulip) in predefined splits: "
        + ", ".join(f"{part} 2 (folder {folder})" for part, folder in names.items())
        + ".",
    )


@pytest.mark.parametrize(
    "names",
    [
        ("steam_train", "toy_train"),
        ("valid", "invalid"),
        ("test tube", "test strip"),
        ("train", "plane"),
        ("evaluator", "trainer"),
        ("1", "2"),
    ],
    ids="-".join,
)
def test_classes_whose_names_only_resemble_splits_are_classes(tmp_path, names):
    for name in names:
        put(tmp_path / name / "1.png")
    source = ImageFolder.create(tmp_path)
    assert source.class_names == tuple(sorted(names))
    assert source.predefined is None


def test_splits_unpacked_into_a_folder_of_their_own_name_are_found(tmp_path):
    for part in ("seg_train/seg_train", "seg_test/seg_test"):
        for name in ("rose", "tulip"):
            put(tmp_path / part / name / "1.png")
    source = ImageFolder.create(tmp_path)
    assert source.class_names == ("rose", "tulip")
    assert sorted(source.predefined or ()) == ["test", "train"]


def test_folders_without_images_beside_splits_are_named_and_ignored(tmp_path):
    for part in ("train", "test"):
        for name in ("rose", "tulip"):
            put(tmp_path / part / name / "1.png")
    (tmp_path / "annotations").mkdir()
    source = ImageFolder.create(tmp_path)
    assert source.class_names == ("rose", "tulip")
    assert source.notes[1] == "Ignored: 1 without images (annotations)."


def test_other_files_are_ignored_and_named(tmp_path):
    for name in ("rose/1.png", "tulip/1.png", "rose/.hidden.png", ".git/x.png", "1.png"):
        put(tmp_path / name)
    (tmp_path / "rose" / "notes.txt").touch()
    source = ImageFolder.create(tmp_path)
    assert source.image_ids == ("rose/1.png", "tulip/1.png")
    assert source.notes[1] == (
        "Ignored: 1 .txt (rose/notes.txt), 1 beside the class folders (1.png), 2 hidden (.git, rose/.hidden.png)."
    )


def test_a_linked_class_folder_counts(tmp_path):
    put(tmp_path / "elsewhere" / "1.png")
    put(tmp_path / "root" / "rose" / "1.png")
    (tmp_path / "root" / "tulip").symlink_to(tmp_path / "elsewhere")
    assert ImageFolder.create(tmp_path / "root").image_ids == ("rose/1.png", "tulip/1.png")


def test_the_fingerprint_follows_names_classes_and_contents(tmp_path):
    def fingerprint(root: str, files: dict[str, str]) -> str:
        for name, color in files.items():
            put(tmp_path / root / name, color)
        return ImageFolder.create(tmp_path / root).fingerprint

    first = fingerprint("first", {"rose/1.png": "red", "tulip/1.png": "blue"})
    assert fingerprint("copy", {"rose/1.png": "red", "tulip/1.png": "blue"}) == first
    others = [
        fingerprint("content", {"rose/1.png": "green", "tulip/1.png": "blue"}),
        fingerprint("name", {"rose/2.png": "red", "tulip/1.png": "blue"}),
        fingerprint("class", {"rose/1.png": "red", "violet/1.png": "blue"}),
    ]
    assert len({first, *others}) == 4


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "0 class folders"),
        (["1.png"], "0 class folders"),
        (["rose/1.png"], r"1 class folder \(rose\)"),
        (["rose/1.png", "tulip/notes.txt"], r"hold no image \(tulip\)"),
        (["train/rose/1.png", "train/tulip/1.png", "test/rose/1.png"], "test has no folder tulip"),
        (["train/rose/1.png", "test/rose/1.png", "extra/1.png"], r"beside other folders \(extra\)"),
        (["train/a/1.png", "train/b/1.png", "test/1.png"], r"test in .* so the classes .* data\.root=.*/train;"),
        (["train/1.png", "test/1.png"], r"test, train in .* rename the folders"),
        (["insects/bee/1.png", "insects/ant/1.png", "plants/moss/1.png", "plants/rose/1.png"], "be read in two ways"),
        (["one/rose/1.png", "one/tulip/1.png", "two/rose/2.png", "two/tulip/2.png", "two/x.png"], "in two ways"),
        ([f"{g}/{c}/{i}.png" for g in "ab" for c in "xy" for i in "12"] + ["a/0.png", "b/0.png"], "in two ways"),
        (["rose/1.png", "others/x/1.png", "others/y/2.png"], "images of others lie in folders of their own"),
        (["rose/train/1.png", "rose/test/1.png", "iris/train/1.png", "iris/test/1.png"], "as in test/iris/"),
        (["photos/rose/1.png", "photos/tulip/1.png"], r"holds one folder.*data\.root=.*photos\.$"),
        (["photos/train/a/1.png", "photos/test/a/1.png"], r"holds one folder.*data\.root=.*photos\.$"),
        (["train/a/x/1.png", "train/a/y/1.png", "train/b/z/1.png", "train/b/w/1.png", "test/a/1.png"], "in two ways"),
        (["train/a/1.png", "train/b/1.png", "val/a/1.png", "valid/b/1.png"], "val for val, valid for val"),
    ],
)
def test_folders_that_cannot_be_used_are_refused_with_the_reason(tmp_path, files, message):
    for name in files:
        put(tmp_path / name)
    with pytest.raises(DataError, match=message):
        ImageFolder.create(tmp_path)


def test_a_root_that_is_no_folder_is_refused(tmp_path):
    for root in (tmp_path / "absent", put(tmp_path / "1.png")):
        with pytest.raises(DataError, match="is not a folder"):
            ImageFolder.create(root)


def test_an_unreadable_image_does_not_stop_the_listing(tmp_path):
    for name in ("rose/1.png", "tulip/1.png"):
        put(tmp_path / name)
    (tmp_path / "rose" / "broken.jpg").symlink_to("nowhere")
    source = ImageFolder.create(tmp_path)
    with pytest.raises(DataError, match=r"broken\.jpg"):
        source.read(source.image_ids.index("rose/broken.jpg"))


@pytest.mark.parametrize(
    "files",
    [
        ["rose/images/1.png", "tulip/images/1.png"],
        ["rose/1.png", "rose/macro/2.png", "tulip/1.png", "tulip/macro/2.png"],
        ["rose/1.png", "rose/2.png", "rose/x/3.png", "tulip/1.png", "tulip/x/2.png", "tulip/y/2.png"],
    ],
)
def test_folders_within_plain_classes_belong_to_the_class(tmp_path, files):
    for name in files:
        put(tmp_path / name)
    source = ImageFolder.create(tmp_path)
    assert source.class_names == ("rose", "tulip")
    assert source.image_ids == tuple(sorted(files))


@pytest.mark.parametrize(
    "pair", [("Rose", "rose"), ("lotus", "lotus "), ("caf\u00e9", "cafe\u0301"), ("wild  rose", "wild rose")]
)
@pytest.mark.parametrize("parts", [("", ""), ("train", "test")])
def test_class_names_that_read_alike_are_refused(tmp_path, pair, parts):
    for part in parts:
        put(tmp_path / part / "tulip" / "1.png")
    for part, name in zip(parts, pair, strict=True):
        put(tmp_path / part / name / "1.png")
    with pytest.raises(DataError, match="read alike") as caught:
        ImageFolder.create(tmp_path)
    assert ascii(pair[0]) in str(caught.value)
    assert ascii(pair[1]) in str(caught.value)


def test_an_empty_class_folder_stops_unless_missing_images_are_allowed(tmp_path):
    for name in ("rose/1.png", "tulip/1.png"):
        put(tmp_path / name)
    (tmp_path / "iris").mkdir()
    with pytest.raises(DataError, match=r"no image \(iris\).*data\.allow_missing=true"):
        ImageFolder.create(tmp_path)
    source = ImageFolder.create(tmp_path, allow_missing=True)
    assert source.class_names == ("rose", "tulip")
    assert source.notes[1] == "Ignored: 1 without images (iris)."


def test_a_class_absent_from_a_split_goes_where_missing_images_are_allowed(tmp_path):
    for name in ("train/rose/1.png", "train/tulip/1.png", "test/rose/2.png"):
        put(tmp_path / name)
    (tmp_path / "test" / "tulip").mkdir()
    source = ImageFolder.create(tmp_path, allow_missing=True)
    assert source.class_names == ("rose", "tulip")
    assert len(source.predefined["test"]) == 1


def test_links_do_not_lead_to_other_classes(tmp_path):
    """Each would give images of one class the name of another, or count them twice."""
    for name in ("a/1.png", "b/2.png"):
        put(tmp_path / name)
    (tmp_path / "a" / "loop").symlink_to("..")
    (tmp_path / "a" / "other").symlink_to("../b")
    (tmp_path / "b" / "image.png").symlink_to("../a/1.png")
    (tmp_path / "c").symlink_to("a")
    source = ImageFolder.create(tmp_path)
    assert source.image_ids == ("a/1.png", "b/2.png")
    assert source.notes[1].startswith("Ignored: 4 linked to what is read anyway (c, a/loop, a/other and 1 more)")
