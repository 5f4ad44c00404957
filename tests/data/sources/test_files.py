import errno
import os
import pwd
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepbloom.config.data_settings import DataConfig, SplitConfig
from deepbloom.data import images as image_files
from deepbloom.data import index as file_index
from deepbloom.data.cache_folder import cache_folder
from deepbloom.data.pixel_cache import open_pixels
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.data.sources import files, load_source
from deepbloom.data.sources.files import check_readable, leave_out
from deepbloom.data.sources.imagefolder import ImageFolder
from deepbloom.data.split import make_split
from deepbloom.errors import DataError


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DEEPBLOOM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Classes a, b and c in the parts train and test, two images of each in either."""
    for part in ("train", "test"):
        for name in ("a", "b", "c"):
            for number in (1, 2):
                path = tmp_path / "images" / part / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (9, 9), "red").save(path)
    return tmp_path / "images"


def test_leaving_out_keeps_images_classes_and_parts_together(folder):
    source = ImageFolder.create(folder)
    gone = [i for i, name in enumerate(source.image_ids) if "/b/" in name] + [source.image_ids.index("test/c/1.png")]
    rest = leave_out(source, gone, "Gone.")
    assert rest.class_names == ("a", "c")
    assert rest.predefined is not None
    for index, image_id in enumerate(rest.image_ids):
        part, name, _ = image_id.split("/")
        assert rest.class_names[rest.targets[index]] == name
        assert index in rest.predefined[part]
        assert rest.paths[index] == folder / image_id
    assert len(rest) == 7
    assert sum(len(indices) for indices in rest.predefined.values()) == 7
    assert rest.notes[-1] == "Gone. 7 images of 2 classes remain; none of b."
    assert len(source) == 12


def test_what_is_left_has_the_fingerprint_of_a_folder_without_it(folder):
    source = ImageFolder.create(folder)
    rest = leave_out(source, [source.image_ids.index("train/a/1.png")], "")
    (folder / "train" / "a" / "1.png").unlink()
    assert rest.fingerprint == ImageFolder.create(folder).fingerprint != source.fingerprint


def test_leaving_out_everything_is_refused(folder):
    with pytest.raises(DataError, match="None of the 12 images"):
        leave_out(ImageFolder.create(folder), range(12), "")


def test_unreadable_images_are_found_once_and_remembered(folder, monkeypatch):
    (folder / "train" / "a" / "1.png").write_bytes(b"no image")
    source = ImageFolder.create(folder)
    found = check_readable(source, 2)
    assert list(found) == ["train/a/1.png"]
    monkeypatch.setattr(ImageFolder, "read", lambda self, index: pytest.fail("decoded again"))
    assert check_readable(source, 2) == found


@pytest.mark.parametrize("damage", ["content", "digest", "shape", "depth"])
def test_a_damaged_note_of_unreadable_images_is_not_believed(damage, folder, user_cache):
    (folder / "train" / "a" / "1.png").write_bytes(b"no image")
    source = ImageFolder.create(folder)
    found = check_readable(source, 0)
    assert files.recall_unreadable(source) == found
    (path,) = (user_cache / "unreadable").iterdir()
    text = path.read_text()
    changed = {
        "content": text.replace("train/a/1.png", "train/a/2.png"),
        "digest": text.replace('"sha256": "', '"sha256": "0'),
        "shape": "{}",
        "depth": "[" * 100_000,
    }[damage]
    path.write_text(changed)
    assert files.recall_unreadable(source) is None
    assert check_readable(source, 0) == found


def test_a_file_larger_than_any_image_is_not_read(folder, monkeypatch):
    path = folder / "train" / "a" / "1.png"
    os.truncate(path, 10**12)
    source = ImageFolder.create(folder)
    assert source.digests.count("unreadable") == 1
    (reason,) = check_readable(source, 0).values()
    assert "1,000,000,000,000 bytes are more than 512,000,000" in reason


def test_a_cache_folder_that_cannot_be_written_only_costs_time(folder, user_cache):
    user_cache.write_text("a file where a folder should be")
    source = ImageFolder.create(folder)
    assert check_readable(source, 0) == {}
    assert check_readable(source, 0) == {}


@pytest.mark.parametrize("allow_missing", [False, True])
def test_only_allow_missing_leaves_unreadable_images_out(folder, allow_missing):
    (folder / "train" / "a" / "1.png").write_bytes(b"no image")
    source = load_source(DataConfig(name="imagefolder", root=str(folder), allow_missing=allow_missing))
    assert ("train/a/1.png" in source.image_ids) is not allow_missing
    left_out = [note for note in source.notes if "1 of 12 images cannot be read: train/a/1.png. 11 images" in note]
    assert len(left_out) == allow_missing
    if allow_missing:
        assert all(np.asarray(source.read(index)).shape == (9, 9, 3) for index in range(len(source)))


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPBLOOM_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("DEEPBLOOM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "deepbloom"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "deepbloom"


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    monkeypatch.delenv("DEEPBLOOM_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.raises(OSError, match="DEEPBLOOM_CACHE"):
        cache_folder()
    assert files.recall_unreadable(ImageFolder("", (), np.array([]), (), "f", paths=(), digests=())) is None


# Identity


@pytest.mark.parametrize("spelling", ["{root}/", "{root}/.", "moved", "relative", "./relative"])
def test_fingerprints_do_not_depend_on_where_the_folder_lies(folder, tmp_path, monkeypatch, spelling):
    def fingerprints(root: str) -> tuple[str, str]:
        source = load_source(DataConfig("imagefolder", root=root))
        return source.fingerprint, make_split(source, SplitConfig(kind="stratified")).fingerprint(source)

    before = fingerprints(str(folder))
    if spelling == "moved":
        root = str(folder.rename(tmp_path / "moved"))
    elif "relative" in spelling:
        monkeypatch.chdir(folder.parent)
        root = spelling.replace("relative", folder.name)
    else:
        root = spelling.format(root=folder)
    assert fingerprints(root) == before


def test_one_changed_pixel_changes_the_fingerprint_of_the_data_but_not_of_the_split(folder):
    def fingerprints() -> tuple[str, str]:
        source = ImageFolder.create(folder)
        return source.fingerprint, make_split(source, SplitConfig(kind="stratified")).fingerprint(source)

    before = fingerprints()
    path = folder / "train" / "a" / "1.png"
    image = Image.open(path).copy()
    image.putpixel((4, 4), (254, 0, 0))
    image.save(path)
    data, split = fingerprints()
    assert data != before[0]
    assert split == before[1]
    path.rename(folder / "train" / "b" / "3.png")
    assert fingerprints()[1] != split


def test_a_change_that_leaves_no_trace_is_never_decoded_and_a_full_check_finds_it(folder, monkeypatch):
    """As on a file system that keeps neither times nor inodes."""
    monkeypatch.setattr(file_index, "_signature", lambda path: [1, 2, 3, 4])
    before = ImageFolder.create(folder)
    Image.new("RGB", (9, 9), "blue").save(folder / "train" / "a" / "1.png")
    source = ImageFolder.create(folder)
    assert source.fingerprint == before.fingerprint
    with pytest.raises(DataError, match=r"has changed since.*data\.verify=full"):
        source.read(source.image_ids.index("train/a/1.png"))
    source = load_source(DataConfig("imagefolder", root=str(folder), verify="full"))
    assert source.fingerprint != before.fingerprint
    assert source.read(source.image_ids.index("train/a/1.png")).getpixel((4, 4)) == (0, 0, 255)


# Errors of the machine


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
def test_an_error_of_the_machine_is_not_a_verdict_about_an_image(number, folder, user_cache, monkeypatch):
    source = ImageFolder.create(folder)

    def failing(path: Any, *arguments: Any, **options: Any) -> Any:
        if str(path).endswith("1.png"):
            raise OSError(number, os.strerror(number))
        return open(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(image_files, "open", failing, raising=False)
        for attempt in (
            lambda: check_readable(source, 0),
            lambda: open_pixels(source, Preprocessing(size=8), "auto", 0),
            lambda: ImageFolder.create(folder),
            lambda: load_source(DataConfig("imagefolder", root=str(folder), allow_missing=True)),
        ):
            with pytest.raises(DataError, match=os.strerror(number).lower()):
                attempt()
    assert check_readable(source, 0) == {}
    assert ImageFolder.create(folder).fingerprint == source.fingerprint


def test_too_little_memory_is_not_a_verdict_about_an_image(folder, monkeypatch):
    source = ImageFolder.create(folder)

    def no_memory(*_: Any, **__: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", no_memory)
        with pytest.raises(DataError, match="not enough memory"):
            check_readable(source, 0)
    assert check_readable(source, 0) == {}
