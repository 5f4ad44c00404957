"""Downloads and extractions that are killed: the next start repairs them."""

import hashlib
import io
import signal
import tarfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from children import Child, counted, kill

from deepbloom.data import flowers102

CONTENT = bytes(range(256)) * 20


def archive() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as file:
        for number in range(1, 6):
            info = tarfile.TarInfo(f"jpg/image_{number:05d}.jpg")
            info.size = len(CONTENT)
            file.addfile(info, io.BytesIO(CONTENT))
    return content.getvalue()


def unpack(folder: Path) -> None:
    flowers102._extract(folder, flowers102.ARCHIVE, "jpg", flowers102._holds_pictures)


def test_a_killed_download_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable) -> None:
    sent: list[Callable[[], None]] = [counted(kill, 3)[0]]

    class Answer(io.BytesIO):
        length = len(CONTENT)

        def read(self, size: int | None = -1) -> bytes:
            sent[0]()
            return super().read(1000)

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Answer(CONTENT))
    monkeypatch.setitem(flowers102.MD5, "setid.mat", hashlib.md5(CONTENT).hexdigest())
    child = Child(lambda: flowers102._provide(tmp_path, "setid.mat"), tmp_path / "output")
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "setid.mat").exists()
    assert list(tmp_path.glob("*.part"))
    sent[0] = lambda: None
    flowers102._provide(tmp_path, "setid.mat")
    assert (tmp_path / "setid.mat").read_bytes() == CONTENT
    assert not list(tmp_path.glob("*.part"))
    tally("kills survived")


def test_a_killed_extraction_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable) -> None:
    (tmp_path / flowers102.ARCHIVE).write_bytes(archive())

    def work() -> None:
        call, _ = counted(kill, 4)
        honest = flowers102._PicturesOnly.__call__

        def check(self: object, member: tarfile.TarInfo, place: str) -> object:
            call()
            return honest(self, member, place)

        flowers102._PicturesOnly.__call__ = check
        unpack(tmp_path)

    assert Child(work, tmp_path / "output").wait() == -signal.SIGKILL
    assert not (tmp_path / "jpg").exists()
    assert len(list((tmp_path / ".extracting" / "jpg").iterdir())) == 3
    unpack(tmp_path)
    assert [path.read_bytes() for path in (tmp_path / "jpg").iterdir()] == [CONTENT] * 5
    assert not (tmp_path / ".extracting").exists()
    tally("kills survived")


def test_an_extraction_into_its_place_would_leave_a_half(tmp_path: Path) -> None:
    """The control: without the folder beside it, a kill leaves pictures that look complete."""
    (tmp_path / "x.tgz").write_bytes(archive())

    def work() -> None:
        with tarfile.open(tmp_path / "x.tgz") as file:
            for number, member in enumerate(file):
                if number == 3:
                    kill()
                file.extract(member, tmp_path, filter="data")

    assert Child(work, tmp_path / "output").wait() == -signal.SIGKILL
    assert flowers102._holds_pictures(tmp_path)
    assert len(list((tmp_path / "jpg").iterdir())) == 3
