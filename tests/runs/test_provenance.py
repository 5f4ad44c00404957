"""Versions and the commit that a result came from."""

import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from deepbloom.runs.provenance import collect_versions, git_commit


def test_the_versions_are_those_of_the_installed_packages() -> None:
    versions = collect_versions()
    assert versions["torch"] == torch.__version__.split("+")[0]
    assert versions["timm"] == version("timm")


def test_the_commit_is_that_of_the_checkout() -> None:
    here = Path(__file__).parent
    head = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True)
    commit = git_commit()
    assert commit is None if head.returncode else str(commit).removesuffix("-dirty") == head.stdout.strip()
