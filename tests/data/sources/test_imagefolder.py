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
    assert source.notes == ()
    assert source.read(0).size == (8, 6)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_ready_made_parts_are_recognized(tmp_path, val):
    for part in ("train", val, "test"):
        for name in ("rose", "tulip"):
            put(tmp_path / part / name / "1.png")
    source = ImageFolder.create(tmp_path)
    assert source.class_names == ("rose", "tulip")
    assert {part: [source.image_ids[i] for i in indices] for part, indices in source.predefined.items()} == {
        "train": ["train/rose/1.png", "train/tulip/1.png"],
        "val": [f"{val}/rose/1.png", f"{val}/tulip/1.png"],
        "test": ["test/rose/1.png", "test/tulip/1.png"],
    }


def test_a_class_may_be_called_like_a_part(tmp_path):
    put(tmp_path / "train" / "1.png")
    put(tmp_path / "plane" / "1.png")
    assert ImageFolder.create(tmp_path).class_names == ("plane", "train")


def test_other_files_are_ignored_and_counted(tmp_path):
    for name in ("rose/1.png", "tulip/1.png", "rose/.hidden.png", ".git/x.png", "1.png"):
        put(tmp_path / name)
    (tmp_path / "rose" / "notes.txt").touch()
    source = ImageFolder.create(tmp_path)
    assert source.image_ids == ("rose/1.png", "tulip/1.png")
    assert source.notes[0].startswith("3 files were ignored (1 .txt, 1 beside the class folders, 1 hidden)")


def test_links_that_lead_upwards_end(tmp_path):
    put(tmp_path / "rose" / "1.png")
    put(tmp_path / "tulip" / "1.png")
    (tmp_path / "rose" / "loop").symlink_to(tmp_path / "rose")
    (tmp_path / "rose" / "deep").mkdir()
    (tmp_path / "rose" / "deep" / "up").symlink_to("..")
    assert ImageFolder.create(tmp_path).image_ids == ("rose/1.png", "tulip/1.png")


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
        (["train/rose/1.png", "test/rose/1.png", "extra/1.png"], r"next to other folders \(extra\)"),
        (["train/a/1.png", "train/b/1.png", "val/a/1.png", "valid/b/1.png"], r"predefined split \(train, val, valid\)"),
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
