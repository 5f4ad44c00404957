"""Dependencies: floors, the lock file for development, and the oldest versions that are tested."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text()
REQUIREMENT = re.compile(r'"([\w-]+)(?:\[([\w,]+)\])?(?:>=([\d.]+))?"')


def requirements(key: str) -> dict[str, str]:
    """Return the floors in one list of pyproject.toml, those of the extras of deepbloom that it names among them."""
    (content,) = re.findall(rf"^{key} = \[(.*?)\](?:  #.*)?$", PROJECT, re.MULTILINE | re.DOTALL)
    floors: dict[str, str] = {}
    for name, extras, floor in REQUIREMENT.findall(content):
        if name == "deepbloom":
            for extra in extras.split(","):
                floors |= requirements(extra)
        else:
            floors[normalized(name)] = floor
    return floors


def normalized(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0]))


def too_low(floors: dict[str, str], versions: dict[str, str]) -> list[str]:
    """Return what is absent from ``versions`` or below its floor."""
    return [name for name, floor in floors.items() if name not in versions or parts(versions[name]) < parts(floor)]


FLOORS = requirements("dependencies")
DEVELOPMENT = FLOORS | requirements("dev")
LOCKED = {
    normalized(name): version
    for name, version in re.findall(r"^(\S+)==(\S+)$", (ROOT / "requirements-dev.lock").read_text(), re.MULTILINE)
}


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


def test_a_floor_below_a_known_vulnerability_would_be_noticed() -> None:
    """The control: versions are compared as numbers, not as text, by which 2.9 is more than 2.10."""
    assert too_low({"torch": "2.10"}, {"torch": "2.9.1"}) == ["torch"]
    assert too_low({"torch": "2.10"}, {"torch": "2.10.0+cpu"}) == []


def test_the_lock_file_has_a_version_above_the_floor_of_all_that_development_installs() -> None:
    assert {"torch", "uvicorn", "optuna", "playwright", "pytest-xdist"} <= DEVELOPMENT.keys()
    assert too_low(DEVELOPMENT, LOCKED) == []
    assert len(LOCKED) > len(DEVELOPMENT) + 50  # and of what those need


@pytest.mark.parametrize("package", ["uvicorn", "pytest-xdist", "torch"])
def test_a_lock_file_without_a_dependency_would_be_noticed(package: str) -> None:
    """The control of the test above, for an extra, a tool and a dependency."""
    assert too_low(DEVELOPMENT, {name: version for name, version in LOCKED.items() if name != package}) == [package]


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
