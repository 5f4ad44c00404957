"""A second start reads only what changed, and never believes an index that may be wrong."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from deepbloom.data import index
from deepbloom.data.images import UNREADABLE
from deepbloom.data.index import digest_files

NAMES = ("a.jpg", "b.jpg", "c.jpg")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three files that count as settled although they are new."""
    monkeypatch.setenv("DEEPBLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "SETTLED_NANOSECONDS", 0)
    root = tmp_path / "images"
    root.mkdir()
    for name in NAMES:
        (root / name).write_text(f"content of {name}")
    return root


@pytest.fixture
def start(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Return a function that digests the files, checks the digests, and returns which files were read."""
    read_file, read = index.read_file, list[str]()

    def noted(path: Path) -> bytes:
        read.append(path.name)
        return read_file(path)

    monkeypatch.setattr(index, "read_file", noted)

    def start(verify: str = "changed") -> list[str]:
        read.clear()
        paths = [root / name for name in NAMES]
        expected = tuple(
            hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else UNREADABLE for path in paths
        )
        assert digest_files(root, NAMES, paths, verify) == expected
        return sorted(read)

    return start


def index_file(root: Path) -> Path:
    (path,) = (root.parent / "cache" / "index").iterdir()
    return path


def test_a_second_start_reads_nothing_and_a_full_one_everything(start: Callable) -> None:
    assert start() == sorted(NAMES)
    assert start() == []
    assert start("full") == sorted(NAMES)
    assert start() == []


def restore_times(path: Path, change: Callable[[], object]) -> None:
    before = path.stat()
    change()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_text("other content, of another size"),
        lambda path: restore_times(path, lambda: path.write_text("CONTENT OF b.jpg")),
        lambda path: (path.with_name("new").write_text("CONTENT OF b.jpg"), path.with_name("new").replace(path)),
        lambda path: os.utime(path, (0, 0)),
    ],
    ids=["rewritten", "same size and time of modification", "replaced", "touched"],
)
def test_a_changed_file_is_read_again_and_no_other(start: Callable, root: Path, change: Callable) -> None:
    start()
    change(root / "b.jpg")
    assert start() == ["b.jpg"]
    assert start() == []


def test_a_file_changed_moments_ago_is_read_again(start: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "SETTLED_NANOSECONDS", 3_600_000_000_000)
    start()
    assert start() == sorted(NAMES)


def test_a_file_that_is_written_while_it_is_read_is_not_remembered(
    root: Path, start: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_file = index.read_file

    def slow(path: Path) -> bytes:
        content = read_file(path)
        if path.name == "b.jpg":
            path.write_text("written meanwhile")
        return content

    with monkeypatch.context() as patch:
        patch.setattr(index, "read_file", slow)
        digest_files(root, NAMES, [root / name for name in NAMES], "changed")
    assert start() == ["b.jpg"]


def test_what_cannot_be_read_is_tried_again(start: Callable, root: Path) -> None:
    (root / "b.jpg").unlink()
    start()
    (root / "b.jpg").write_text("there again")
    assert start() == ["b.jpg"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-5],
        lambda content: content.replace(b"a.jpg", b"x.jpg"),
        lambda content: b"",
        lambda content: b"\xff\n{}",
    ],
)
def test_a_damaged_index_is_not_believed(start: Callable, root: Path, damage: Callable) -> None:
    start()
    index_file(root).write_bytes(damage(index_file(root).read_bytes()))
    assert start() == sorted(NAMES)
    assert start() == []


def test_folders_have_an_index_each(start: Callable, root: Path, tmp_path: Path) -> None:
    start()
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.jpg").write_text("another image of the same name")
    assert digest_files(other, ["a.jpg"], [other / "a.jpg"], "changed") != digest_files(
        root, ["a.jpg"], [root / "a.jpg"], "changed"
    )


def test_only_the_newest_indexes_are_kept(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "KEPT_INDEXES", 2)
    kept = tmp_path / "cache" / "index"
    before: set[Path] = set()
    for age, number in enumerate("123"):
        other = tmp_path / number
        other.mkdir()
        (other / "a.jpg").write_text(number)
        digest_files(other, ["a.jpg"], [other / "a.jpg"], "changed")
        (new,) = set(kept.iterdir()) - before
        os.utime(new, (age, age))
        before |= {new}
        if number == "1":
            oldest = new
    assert len(list(kept.iterdir())) == 2
    assert not oldest.exists()


def test_without_a_cache_folder_everything_is_read(start: Callable, root: Path) -> None:
    (root.parent / "cache").write_text("a file where a folder should be")
    assert start() == start() == sorted(NAMES)
