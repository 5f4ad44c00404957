"""The version of the code: what changes it, and what does not."""

import shutil
from pathlib import Path

import pytest

import deepbloom
from deepbloom.runs.provenance import code_version, hash_sources


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package that may be edited."""
    ignored = shutil.ignore_patterns("__pycache__", "templates")
    return Path(shutil.copytree(Path(deepbloom.__file__).parent, tmp_path / "deepbloom", ignore=ignored))


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def test_documents_comments_and_reports_are_not_in_it(package: Path) -> None:
    before = hash_sources(package)
    assert before == code_version()
    append(package / "engine" / "train.py", "\n\n# a comment\n")
    loop = package / "engine" / "train.py"
    loop.write_text(loop.read_text().replace('"""The training loop', '"""The loop of training'))
    append(package / "analysis" / "report.py", "\nNEW = 1\n")
    append(package / "cli.py", "\nNEW = 1\n")
    assert hash_sources(package) == before


@pytest.mark.parametrize("module", ["engine/optim.py", "data/split.py", "models/from_scratch.py", "metrics.py"])
def test_code_that_decides_results_is_in_it(package: Path, module: str) -> None:
    before = hash_sources(package)
    append(package / module, "\nNEW = 1\n")
    assert hash_sources(package) != before
