"""The built wheel works on its own, outside the checkout: its settings and launcher travel inside it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "deepbloom", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )


def test_the_wheel_holds_every_setting_of_the_checkout(installed: Path) -> None:
    names = {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    assert names
    assert {path.relative_to(installed / "deepbloom" / "conf") for path in installed.rglob("conf/**/*.yaml")} == names
    assert (installed / "hydra_plugins" / "deepbloom_launcher.py").is_file()


def test_the_installed_command_trains_from_any_folder(installed: Path, images: Path, tmp_path: Path) -> None:
    where = subprocess.run(
        [sys.executable, "-c", "import deepbloom; print(deepbloom.__file__)"],
        env=os.environ | {"PYTHONPATH": str(installed)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert where.stdout.startswith(str(installed))
    done = run(
        installed,
        tmp_path,
        "train",
        "model=scratch_cnn",
        "data=imagefolder",
        f"data.root={images}",
        "train.epochs=1",
        "train.batch_size=8",
        "output_dir=here",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here" / "metrics.json").is_file()
