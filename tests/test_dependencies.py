"""Dependencies: floors, the lock file for development, and the oldest versions that are tested."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = dict(
    re.findall(r'^    "([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
)
LOCKED = dict(line.split("==") for line in (ROOT / "requirements-dev.lock").read_text().splitlines() if "==" in line)


def parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0]))


@pytest.mark.parametrize(
    ("package", "lowest", "why"),
    [
        ("torch", "2.10", "CVE-2025-32434, CVE-2026-24747: weights_only=True could run code"),
        ("jinja2", "3.1.6", "CVE-2025-27516: escapes from the sandbox"),
        ("hydra-core", "1.3.7", "CVE-2026-68508: the block list of instantiate"),
        ("pillow", "11.3", "CVE-2025-48379: writes behind its buffer"),
        ("tqdm", "4.66.3", "CVE-2024-34062: code from its arguments"),
    ],
)
def test_floors_lie_above_known_vulnerabilities(package: str, lowest: str, why: str) -> None:
    assert parts(FLOORS[package]) >= parts(lowest), why


def test_the_lock_file_has_an_exact_version_of_every_dependency_above_its_floor() -> None:
    assert len(LOCKED) > 50
    names = {re.sub("[-_.]+", "-", name).lower(): version for name, version in LOCKED.items()}
    missing = [name for name in FLOORS if re.sub("[-_.]+", "-", name).lower() not in names]
    optional = set(missing) - {"torch", "hydra-core", "omegaconf", "pillow", "safetensors", "numpy", "pytest"}
    assert set(missing) == optional  # extras that development does not install
    for name, floor in FLOORS.items():
        locked = names.get(re.sub("[-_.]+", "-", name).lower())
        assert locked is None or parts(locked) >= parts(floor), name


def test_the_oldest_versions_tested_are_the_floors() -> None:
    oldest = dict(re.findall(r"([\w-]+)==([\d.]+)", (ROOT / "Makefile").read_text()))
    assert set(oldest) == {"hydra-core", "omegaconf"}
    for name, version in oldest.items():
        assert parts(version)[: len(parts(FLOORS[name]))] == parts(FLOORS[name])
        assert not any(parts(version)[len(parts(FLOORS[name])) :])


@pytest.mark.skipif(not any("oldest" in place for place in sys.path), reason="run by make test-oldest")
def test_the_oldest_versions_are_what_is_imported() -> None:
    import hydra
    import omegaconf

    oldest = dict(re.findall(r"([\w-]+)==([\d.]+)", (ROOT / "Makefile").read_text()))
    assert (hydra.__version__, omegaconf.__version__) == (oldest["hydra-core"], oldest["omegaconf"])
