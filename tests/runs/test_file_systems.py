"""Writes and locks on file systems that lack what a local disk has: "not supported" is not "failed"."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deepbloom.errors import RunError
from deepbloom.runs import files

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
KILLED_HOLDER = """
import errno, fcntl, os, sys
from pathlib import Path
from deepbloom.runs import files

def flock(*_):
    raise OSError(errno.ENOLCK, "No locks available")

fcntl.flock = flock
with files.locked(Path(sys.argv[1])):
    os._exit(9)
"""


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, number: int, only_folders: bool = False) -> None:
    module = fcntl if name == "flock" else os
    honest = getattr(module, name)

    def refusing(descriptor: object, *rest: object) -> object:
        is_folder = stat.S_ISDIR((os.fstat if isinstance(descriptor, int) else os.stat)(descriptor).st_mode)  # type: ignore[arg-type]
        if is_folder or not only_folders:
            raise OSError(number, os.strerror(number))
        return honest(descriptor, *rest)

    monkeypatch.setattr(module, name, refusing)


@pytest.mark.parametrize("number", NO_LOCKS)
def test_without_locks_one_process_at_a_time_holds_a_folder(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    refuse(monkeypatch, "flock", number)
    with files.locked(tmp_path):
        assert files.is_locked(tmp_path)
        with pytest.raises(files.LockedError, match=r"If that process is gone, delete .*\.lock\.pid"):
            files.locked(tmp_path, 0).__enter__()
    assert not files.is_locked(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [files.LOCK]
    assert not recwarn.list


def test_without_locks_the_next_process_takes_over_from_a_killed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED_HOLDER, str(tmp_path)], check=False).returncode == 9
    assert (tmp_path / files.SOFT_LOCK).is_file()
    refuse(monkeypatch, "flock", errno.ENOLCK)
    with files.locked(tmp_path, 5):
        pass


def test_an_empty_lock_file_from_another_disk_is_held_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / files.LOCK).touch()
    refuse(monkeypatch, "flock", errno.ENOSYS)
    assert not files.is_locked(tmp_path)


def test_a_lock_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "flock", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        files.locked(tmp_path).__enter__()
    assert not (tmp_path / files.SOFT_LOCK).exists()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES])
@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_folder_that_cannot_be_synced_is_written(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, call, number, only_folders=True)
    files.write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"


@pytest.mark.parametrize(("number", "only_folders"), [(errno.EIO, True), (errno.EIO, False), (errno.ENOSPC, False)])
def test_a_sync_that_fails_is_an_error(
    number: int, only_folders: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "fsync", number, only_folders)
    with pytest.raises(RunError, match="Cannot write"):
        files.write_bytes(tmp_path / "x", b"new")
