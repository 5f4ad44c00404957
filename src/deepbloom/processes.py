"""Python processes that DeepBloom starts: none of them imports a module of the working directory."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SAFE_PATH = "PYTHONSAFEPATH"
START = """
import sys
if sys.path[:1] == [""]:
    del sys.path[0]
import runpy
source, module = sys.argv[1:3]
del sys.argv[1:3]
sys.path.insert(0, source)
import deepbloom
del sys.path[0]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
"""Imports the DeepBloom that started the process, wherever that one was found, and leaves the module path as it is
without the working directory."""


def module_command(module: str, *arguments: str) -> list[str]:
    """Return a command that runs a module of this DeepBloom.

    ``python -m`` would search the working directory first, where a ``statistics.py`` replaces that of Python. Entries
    of PYTHONPATH are searched as usual.
    """
    source = Path(__file__).resolve().parents[1]
    return [sys.executable, "-c", START, str(source), module, *arguments]


@contextmanager
def safe_path() -> Iterator[None]:
    """Keep the working directory off the module path of Python processes that other libraries start meanwhile.

    Python 3.10 does not know the variable and ignores it.
    """
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SAFE_PATH]
        else:
            os.environ[SAFE_PATH] = before
