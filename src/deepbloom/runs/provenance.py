"""Where a result comes from: versions and a commit."""

import platform
import subprocess
from pathlib import Path

from deepbloom import __version__


def collect_versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    from importlib.metadata import PackageNotFoundError, version

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
            encoding="utf-8",
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
