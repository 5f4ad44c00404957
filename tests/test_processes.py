"""Processes that DeepBloom starts do not import what lies in the working directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import deepbloom
from deepbloom.processes import module_command, safe_path

PROBE = """import sys
import deepbloom, statistics
if __name__ == "__main__":
    print(deepbloom.__file__, *sys.argv[1:], sep="|")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a ``statistics.py`` of its own, and a module in ``lib``, a relative PYTHONPATH entry."""
    (tmp_path / "statistics.py").write_text("raise SystemExit('mine')")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "probe.py").write_text(PROBE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setenv("PYTHONPATH", "lib")
    return tmp_path


def run(command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("safe", ["", "1"])
def test_a_process_finds_this_deepbloom_and_relative_entries_but_nothing_of_the_working_directory(
    safe: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", safe)
    done = run(module_command("probe", "a", "b c"))
    assert done.stdout.rstrip() == f"{deepbloom.__file__}|a|b c", done.stderr


def test_without_the_command_the_module_of_the_working_directory_runs(folder: Path) -> None:
    """The control."""
    assert run([sys.executable, "-m", "probe"]).stderr.rstrip() == "mine"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="PYTHONSAFEPATH is of Python 3.11")
def test_processes_of_other_libraries_are_safe_too(folder: Path) -> None:
    with safe_path():
        done = run([sys.executable, "-m", "probe"])
    assert done.returncode == 0, done.stderr
    assert "PYTHONSAFEPATH" not in os.environ
