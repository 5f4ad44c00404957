"""What a result came from: versions, a commit, and the version of the code that decides it."""

import ast
import hashlib
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from deepbloom import __version__

DECIDING = (
    "commands/train.py",
    "commands/training_results.py",
    "data",
    "engine",
    "metrics.py",
    "models",
    "rng.py",
)
"""Modules and packages whose code can change weights, the chosen epoch or scores. Settings, and so their defaults,
are in a run's name by their values."""


@cache
def code_version() -> str:
    """Return 12 hex digits that are equal for equal code in `DECIDING`, as it was at this process's first call.

    A commit would change with every edit of a README, and a package version with none. So what training runs through
    is hashed, without comments and docstrings: after an update that changes only documents, reports or figures a sweep
    goes on, and after one that changes training no run is half of the old code and half of the new.
    """
    return hash_sources(Path(__file__).parents[1])


def hash_sources(package: Path) -> str:
    """Return SHA-256 (12 hex digits) over the names and statements of the modules in `DECIDING` below ``package``.

    Statements are compared as Python prints them (`ast.unparse`), so layout does not count either; another minor
    version of Python may print them differently.
    """
    digest = hashlib.sha256()
    for name in DECIDING:
        place = package / name
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(f"{path.relative_to(package).as_posix()}\n".encode())
            digest.update(_statements(path.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:12]


def _statements(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _is_text(statement)] or [ast.Pass()]
    return ast.unparse(tree)


def _is_text(statement: ast.stmt) -> bool:
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_constant and isinstance(statement.value.value, str)  # type: ignore[attr-defined]


def collect_versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    names = ("torch", "torchvision", "timm", "numpy", "pillow", "hydra-core", "omegaconf")
    versions = {"deepbloom": __version__, "python": platform.python_version()}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def git_commit() -> str | None:
    """Return the commit of DeepBloom's own checkout, ``-dirty`` where files differ; None for an installed wheel."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        tracked = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", Path(__file__).name],
            capture_output=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() if tracked.returncode == 0 else None
