"""Downloads, extractions and caches that are killed half way: the next start repairs them; and what may come out."""

import hashlib
import io
import os
import signal
import tarfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import Child, counted, kill

from deepbloom.data import pixel_cache
from deepbloom.data.pixel_cache import open_pixels
from deepbloom.data.preprocessing import Preprocessing, resize
from deepbloom.data.sources import flowers102
from deepbloom.data.sources.imagefolder import ImageFolder
from deepbloom.errors import DataError

CONTENT = bytes(range(256)) * 20
SMALL = Preprocessing(size=8)


def archive(*more: tarfile.TarInfo) -> bytes:
    """Return an archive of five images, and of what else is given: links, or files with `CONTENT`."""
    content = io.BytesIO()
    members = [tarfile.TarInfo(f"jpg/image_{number:05d}.jpg") for number in range(1, 6)]
    with tarfile.open(fileobj=content, mode="w:gz") as file:
        for info in (*members, *more):
            info.size = len(CONTENT) if info.isreg() else 0
            file.addfile(info, io.BytesIO(CONTENT))
    return content.getvalue()


def unpack(folder: Path) -> None:
    flowers102.extract(folder, flowers102.ARCHIVE, "jpg")


def test_a_killed_download_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable) -> None:
    sent: list[Callable[[], None]] = [counted(kill, 3)[0]]

    class Answer(io.BytesIO):
        length = len(CONTENT)

        def read(self, size: int | None = -1) -> bytes:
            sent[0]()
            return super().read(1000)

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Answer(CONTENT))
    monkeypatch.setitem(flowers102.MD5, "setid.mat", hashlib.md5(CONTENT).hexdigest())
    child = Child(lambda: flowers102.provide(tmp_path, "setid.mat"), tmp_path / "output")
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "setid.mat").exists()
    assert list(tmp_path.glob("*.part"))
    sent[0] = lambda: None
    flowers102.provide(tmp_path, "setid.mat")
    assert (tmp_path / "setid.mat").read_bytes() == CONTENT
    assert not list(tmp_path.glob("*.part"))
    tally("kills survived")


def test_a_killed_extraction_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable) -> None:
    (tmp_path / flowers102.ARCHIVE).write_bytes(archive())

    def work() -> None:
        call, _ = counted(kill, 4)
        honest = flowers102.ImagesOnly.__call__

        def check(self: Any, member: tarfile.TarInfo, place: str) -> Any:
            call()
            return honest(self, member, place)

        flowers102.ImagesOnly.__call__ = check
        unpack(tmp_path)

    assert Child(work, tmp_path / "output").wait() == -signal.SIGKILL
    assert not (tmp_path / "jpg").exists()
    assert len(list((tmp_path / ".extracting" / "jpg").iterdir())) == 3
    unpack(tmp_path)
    assert [path.read_bytes() for path in (tmp_path / "jpg").iterdir()] == [CONTENT] * 5
    assert not (tmp_path / ".extracting").exists()
    tally("kills survived")


def test_an_extraction_into_its_place_would_leave_a_half(tmp_path: Path) -> None:
    """The control: without the folder beside it, a kill leaves images that look complete."""
    (tmp_path / "x.tgz").write_bytes(archive())

    def work() -> None:
        with tarfile.open(tmp_path / "x.tgz") as file:
            for number, member in enumerate(file):
                if number == 3:
                    kill()
                file.extract(member, tmp_path, filter="data")

    assert Child(work, tmp_path / "output").wait() == -signal.SIGKILL
    assert flowers102.holds(tmp_path, "jpg")
    assert len(list((tmp_path / "jpg").iterdir())) == 3


def upwards() -> tarfile.TarInfo:
    return tarfile.TarInfo("../../escaped.jpg")


def program() -> tarfile.TarInfo:
    return tarfile.TarInfo("jpg/run.py")


def link() -> tarfile.TarInfo:
    info = tarfile.TarInfo("jpg/image_00009.jpg")
    info.type, info.linkname = tarfile.SYMTYPE, "../../secret"
    return info


HARMFUL = {"escaped.jpg": upwards, "flowers-102/jpg/run.py": program, "flowers-102/jpg/image_00009.jpg": link}
"""What would be there afterwards, and the member of an archive that makes it."""


@pytest.mark.parametrize("harm", HARMFUL)
@pytest.mark.parametrize("filtered", [True, False])
def test_only_images_come_out_of_an_archive(
    filtered: bool, harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable
) -> None:
    """The control lets every member pass: one is written outside, one is a program, one a link to another's file."""
    folder = tmp_path / "flowers-102"
    folder.mkdir()
    (folder / flowers102.ARCHIVE).write_bytes(archive(HARMFUL[harm]()))
    if filtered:
        with pytest.raises(DataError, match="does not belong there"):
            unpack(folder)
        tally("attacks refused")
    else:
        monkeypatch.setattr(flowers102.ImagesOnly, "__call__", lambda self, member, place: member)
        unpack(folder)
    assert os.path.lexists(tmp_path / harm) is not filtered
    assert (folder / "jpg").exists() is not filtered


def test_without_the_limit_a_bomb_would_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / flowers102.ARCHIVE).write_bytes(archive())
    honest = flowers102.MAX_UNPACKED_BYTES
    monkeypatch.setattr(flowers102, "MAX_UNPACKED_BYTES", 3 * len(CONTENT))
    with pytest.raises(DataError, match="too large"):
        unpack(tmp_path)
    monkeypatch.setattr(flowers102, "MAX_UNPACKED_BYTES", honest)
    unpack(tmp_path)
    assert sum(path.stat().st_size for path in (tmp_path / "jpg").iterdir()) == 5 * len(CONTENT)


@pytest.mark.parametrize("renamed", [False, True])
def test_a_cache_whose_writing_was_killed_is_written_again(
    renamed: bool, images: Path, tmp_path: Path, tally: Callable
) -> None:
    """Even half a cache under the name of a whole one is not believed."""
    source = ImageFolder.create(images)
    right = np.stack([resize(source.read(index), SMALL) for index in range(len(source))])
    call, _ = counted(kill, 20)
    honest_resize = pixel_cache.resize

    def dying(*arguments: Any) -> Any:
        call()
        return honest_resize(*arguments)

    def work() -> None:
        pixel_cache.resize = dying
        open_pixels(source, SMALL, str(tmp_path / "cache"), 0)

    assert Child(work, tmp_path / "output").wait() == -signal.SIGKILL
    (left,) = (path for path in (tmp_path / "cache").iterdir() if path.name != ".lock")
    assert left.suffix == ".tmp"
    if renamed:
        left.rename(left.with_suffix(pixel_cache.SUFFIX))
    again = open_pixels(source, SMALL, str(tmp_path / "cache"), 0)
    assert np.array_equal(again.read(np.arange(len(source))), right)
    assert not list((tmp_path / "cache").glob("*.tmp"))
    tally("kills survived")
