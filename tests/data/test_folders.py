import logging
import shlex
from pathlib import Path

import pytest

from deepbloom.data.folders import find_images, read_folder
from deepbloom.data.sources.imagefolder import ImageFolder
from deepbloom.errors import DataError
from deepbloom.runs import files


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def found(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in read_folder(root)[0].all_images())


@pytest.mark.parametrize(
    "junk",
    [
        "@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg",
        "__MACOSX/1.jpg",
        "#recycle/1.jpg",
        "$RECYCLE.BIN/1.jpg",
        ".@__thumb/1.jpg",
        ".thumbnails/1.jpg",
        ".ipynb_checkpoints/1-checkpoint.jpg",
        "lost+found/1.jpg",
        "._1.jpg",
        "Thumbs.db",
    ],
)
@pytest.mark.parametrize("place", ["", "rose/"])
def test_what_systems_leave_behind_is_not_an_image(tmp_path: Path, junk: str, place: str) -> None:
    put(tmp_path / "rose" / "1.jpg")
    put(tmp_path / place / junk)
    assert found(tmp_path) == ["rose/1.jpg"]
    assert [path for paths in read_folder(tmp_path)[1].values() for path in paths] == [place + junk.split("/")[0]]


def test_a_run_and_marked_output_are_not_images_wherever_they_lie(tmp_path: Path) -> None:
    put(tmp_path / "rose" / "1.jpg")
    put(tmp_path / "outputs" / "run" / "plots" / "curves.png")
    for name in ("config.yaml", "provenance.json"):
        put(tmp_path / "outputs" / "run" / name)
    put(files.output_folder(tmp_path / "outputs" / "gradcam") / "rose_gradcam.png")
    put(files.output_folder(tmp_path / "rose" / "heatmaps") / "rose_gradcam.png")
    folder, ignored = read_folder(tmp_path)
    assert [inner.name for inner in folder.folders] == ["rose"]
    assert found(tmp_path) == ["rose/1.jpg"]
    assert str(ignored) == "3 from DeepBloom (outputs/gradcam, outputs/run, rose/heatmaps)"


def test_a_folder_of_images_that_becomes_an_output_folder_stays_one_of_images(tmp_path: Path) -> None:
    put(tmp_path / "rose" / "1.jpg")
    files.output_folder(tmp_path / "rose")
    assert found(tmp_path) == ["rose/1.jpg"]


def test_output_that_is_named_is_read(tmp_path: Path) -> None:
    put(files.output_folder(tmp_path / "heatmaps") / "1.png")
    assert found(tmp_path / "heatmaps") == ["1.png"]


def test_links_out_of_the_folder_are_followed_once(tmp_path: Path) -> None:
    root, store = tmp_path / "root", tmp_path / "store"
    put(store / "rose" / "1.jpg")
    put(store / "single.jpg")
    root.mkdir()
    (root / "rose").symlink_to(store / "rose")
    (store / "rose" / "back").symlink_to(root)
    (store / "rose" / "again").symlink_to(store / "rose")
    (root / "aster").mkdir()
    (root / "aster" / "other").symlink_to(store / "rose")
    (root / "aster" / "all").symlink_to(store)
    (root / "aster" / "copy.jpg").symlink_to(store / "rose" / "1.jpg")
    (root / "aster" / "2.jpg").symlink_to(store / "single.jpg")
    assert found(root) == ["aster/2.jpg", "rose/1.jpg"]


def test_links_into_hidden_storage_are_followed(tmp_path: Path) -> None:
    """As git-annex and DVC keep files."""
    put(tmp_path / ".store" / "aa" / "0123.jpg")
    put(tmp_path / ".store" / "bb" / "1.jpg")
    (tmp_path / "rose").mkdir()
    (tmp_path / "rose" / "1.jpg").symlink_to("../.store/aa/0123.jpg")
    (tmp_path / "tulip").symlink_to(".store/bb")
    assert found(tmp_path) == ["rose/1.jpg", "tulip/1.jpg"]


def test_a_broken_link_is_an_image_that_is_absent(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    assert found(tmp_path) == ["broken.jpg", "circle.jpg"]


def test_an_empty_or_linked_folder_called_like_an_image_is_one_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to(tmp_path)
    put(tmp_path / "full.jpg" / "1.jpg")
    assert found(tmp_path) == ["empty.jpg", "full.jpg/1.jpg", "link.jpg"]


def test_prediction_reads_a_folder_as_training_does(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "store" / "2.jpg")
    root = tmp_path / "root"
    for name in ("rose/1.jpg", "rose/.thumbnails/1.jpg", "rose/@eaDir/1.jpg", "notes.txt"):
        put(root / name)
    (root / "tulip").symlink_to("../store")
    with caplog.at_level(logging.INFO, "deepbloom"):
        assert find_images(str(root)) == [root / "rose" / "1.jpg", root / "tulip" / "2.jpg"]
    assert "2 images. Ignored: 1 .txt (notes.txt), 1 hidden (rose/.thumbnails)" in caplog.text


def test_a_pattern_finds_folders_but_no_thumbnails(tmp_path: Path) -> None:
    for name in ("rose/1.jpg", "rose/@eaDir/1.jpg/THUMB.jpg", "@eaDir/x.jpg", "2.jpg"):
        put(tmp_path / name)
    expected = [tmp_path / "2.jpg", tmp_path / "rose" / "1.jpg"]
    assert find_images(str(tmp_path / "*")) == expected
    assert sorted(find_images(str(tmp_path / "**" / "*"))) == expected
    assert find_images(str(tmp_path / "@eaDir" / "*")) == [tmp_path / "@eaDir" / "x.jpg"]


def test_hidden_files_are_read_where_they_are_named(tmp_path: Path) -> None:
    assert find_images(str(put(tmp_path / ".hidden.jpg"))) == [tmp_path / ".hidden.jpg"]


@pytest.mark.parametrize("folder", ["photos [2024]", "[a]", "what?", "*"])
def test_only_what_is_no_folder_is_a_pattern(tmp_path: Path, folder: str) -> None:
    root = tmp_path / folder
    expected = [put(root / name) for name in ("1.jpg", "2.jpg", "deep/3.jpg")]
    assert find_images(f"{root}/[12].jpg") == expected[:2]
    assert find_images(f"{root}/**/*.jpg") == expected
    with pytest.raises(DataError, match=r"no such file, folder or pattern.*'image=\[a.jpg,b.jpg\]'"):
        find_images(f"{root}/[34].jpg")


@pytest.mark.parametrize(("name", "module"), [("photos.zip", "zipfile"), ("my photos.tar.gz", "tarfile")])
def test_an_archive_is_answered_with_how_to_unpack_it(tmp_path: Path, name: str, module: str) -> None:
    path = put(tmp_path / name)
    folder = tmp_path / name.partition(".")[0]
    for key, read in (("image", find_images), ("data.root", ImageFolder.create)):
        with pytest.raises(DataError) as raised:
            read(str(path))
        command = str(raised.value).partition("(")[2].partition(")")[0]
        assert shlex.split(command) == ["python", "-m", module, "-e", str(path), str(folder)]
        assert str(raised.value).endswith(f"then give {key}={folder}.")
    assert find_images(str(put(tmp_path / "zip" / "a.zip.jpg"))) == [tmp_path / "zip" / "a.zip.jpg"]


def test_a_folder_with_nothing_but_ignored_files_is_refused_with_the_reason(tmp_path: Path) -> None:
    put(tmp_path / "@eaDir" / "1.jpg")
    with pytest.raises(DataError, match=r"without images.*@eaDir"):
        find_images(str(tmp_path))
