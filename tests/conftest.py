"""What several tests need: small images, a small trained run, and the command line in this process."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from deepbloom.cli import main as cli
from small_data import SMALL, draw_images

pytest_plugins = ["demo_page", "fake_runs", "web_page"]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the user's cache folder out of the tests."""
    os.environ["DEEPBLOOM_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that holds ``flowers-102`` with real images; the test is skipped where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    root = Path(os.environ.get("DEEPBLOOM_REAL_DATA", beside))
    if not (root / "flowers-102" / "setid.mat").is_file():
        pytest.skip(f"no Flowers102 images in {root}; set DEEPBLOOM_REAL_DATA to the folder of flowers-102")
    return root


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 36 images in three classes."""
    return draw_images(tmp_path_factory.mktemp("images") / "root")


@pytest.fixture
def deepbloom(capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; returns exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.guarded(lambda: cli.dispatch(list(arguments)))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """A headless Chromium; the test is skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def trained_run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of ``scratch_cnn`` on the images."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    arguments = ["train", "model=scratch_cnn", "data=imagefolder", f"data.root={images}", f"output_dir={folder}"]
    assert cli.guarded(lambda: cli.dispatch([*arguments, *SMALL])) == 0
    return folder
