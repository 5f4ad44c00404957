"""The program takes nothing for granted that only Linux has. Simulated here: this runs on every system."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import deepbloom

SOURCE = Path(deepbloom.__file__).parent
POSIX_MODULES = ("fcntl", "resource", "pwd", "grp", "termios")
ONE_PLACE = {"fcntl": "runs/files.py", "resource": "device.py", "ctypes": None}
"""Where a module that not every system has, or that depends on the system, is imported."""
TEXT_CALLS = {"read_text": 1, "write_text": 2}
"""Number of positional arguments with which the encoding is given."""

ANOTHER_SYSTEM = """
import errno, multiprocessing, os, pathlib, signal, sys
import torch, sklearn.metrics, scipy.stats, matplotlib.figure, timm, hydra, platformdirs  # libraries as they are
import filelock

filelock.FileLock = filelock.SoftFileLock  # in place of the other system's own

real_open, real_path_open = os.open, pathlib.Path.open
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("fork", "sched_getaffinity", "sysconf", "getuid", "geteuid", "posix_fallocate", "O_NONBLOCK"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGTERM", "SIGKILL", "SIGHUP"):
    delattr(signal, name)

def open_file(path, flags, *rest, **named):
    if os.path.isdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))  # a folder cannot be opened
    return real_open(path, flags, *rest, **named)

def path_open(path, *rest, **named):
    if path.parts[1:2] in (("proc",), ("sys",)):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
    return real_path_open(path, *rest, **named)

os.open, pathlib.Path.open = open_file, path_open
multiprocessing.set_start_method("spawn")
sys.platform = "another"
from deepbloom.cli.main import main
main()
"""


def calls() -> Iterator[tuple[str, ast.Call]]:
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(SOURCE)}:{node.lineno}", node


def named(call: ast.Call) -> set[str | None]:
    return {keyword.arg for keyword in call.keywords}


def mode(call: ast.Call) -> str:
    given = [keyword.value for keyword in call.keywords if keyword.arg == "mode"] + call.args[1:2]
    return str(given[0].value) if given and isinstance(given[0], ast.Constant) else "r"


def test_every_text_file_is_opened_with_its_encoding_and_line_ends() -> None:
    wrong, seen = [], 0
    for place, call in calls():
        if isinstance(call.func, ast.Name) and call.func.id == "open" and "b" not in mode(call):
            seen += 1
            wanted = {"encoding"} | ({"newline"} if mode(call)[0] in "wax" else set())
            wrong += [place] * (not wanted <= named(call))
        if isinstance(call.func, ast.Attribute) and call.func.attr in TEXT_CALLS:
            if isinstance(call.func.value, ast.Name) and call.func.value.id == "run_dir":
                continue  # deepbloom.runs.folder.read_text, which gives both
            seen += 1
            has_encoding = len(call.args) >= TEXT_CALLS[call.func.attr] or "encoding" in named(call)
            has_line_ends = call.func.attr == "read_text" or "newline" in named(call)
            wrong += [place] * (not has_encoding or not has_line_ends)
        is_process = isinstance(call.func, ast.Attribute) and call.func.attr in ("run", "Popen", "check_output")
        wrong += [place] * (is_process and bool({"text", "universal_newlines"} & named(call)))
    assert seen > 5
    assert wrong == []


def test_modules_that_not_every_system_has_are_imported_in_one_place() -> None:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for module in {*modules} & {*POSIX_MODULES}:
                assert str(path.relative_to(SOURCE).as_posix()) == ONE_PLACE.get(module)


@pytest.mark.skipif(sys.platform == "win32", reason="it is another system")
def test_a_network_is_trained_where_the_system_has_little(images: Path, tmp_path: Path) -> None:
    script, run = tmp_path / "train.py", tmp_path / "run"
    script.write_text(ANOTHER_SYSTEM)
    options = ("data=imagefolder", f"data.root={images}", "train.epochs=1", "train.batch_size=8", "train.num_workers=2")
    command = [sys.executable, str(script), "train", "model=scratch_cnn", *options, f"output_dir={run}"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert '"peak_memory_bytes": null' in (run / "metrics.json").read_text()
    for path in run.rglob("*"):
        assert not set('<>:"|?*\\') & set(path.name)
