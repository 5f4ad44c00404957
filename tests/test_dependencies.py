"""The commands work without the optional dependencies and with the oldest supported ones."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

OPTIONAL = (
    "starlette",
    "uvicorn",
    "optuna",
    "mlflow",
    "tensorboard",
    "hydra_plugins.hydra_joblib_launcher",
    "playwright",
    "onnx",
    "onnxruntime",
    "openvino",
)
WITHOUT_OPTIONAL = f"""
import sys
sys.modules.update(dict.fromkeys({OPTIONAL!r}))  # importing one of them raises ModuleNotFoundError
from deepbloom.cli.main import dispatch
from deepbloom.exit_codes import guarded
codes = []
for line in sys.argv[1:]:
    codes.append(guarded(lambda: dispatch(line.split())))
    print("loaded", *(name.removeprefix("deepbloom.") for name in sys.modules if name.startswith("deepbloom.")))
sys.exit(max(codes))
"""
OF_OTHERS = {
    "config.command_settings",
    "config.export_settings",
    "data.balance",
    "data.corrections",
    "data.label_check",
    "data.masks",
    "data.samples",
    "engine.budget",
    "engine.probe",
    "engine.teacher",
    "runs.reading",
    "runs.tracking",
}
"""Modules of other commands, and of features that are off: `train` loads none of them."""


def run_without_optional(*lines: str) -> subprocess.CompletedProcess[str]:
    """Run command lines in one process, which prints the modules loaded after each; the highest exit code is its."""
    command = [sys.executable, "-c", WITHOUT_OPTIONAL, *lines]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_training_predicting_and_reporting_need_no_extra_and_training_no_module_of_others(
    images: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "first"
    data = f"model=scratch_cnn data=imagefolder data.root={images} train.epochs=1 train.batch_size=8"
    done = run_without_optional(
        f"train {data} output_dir={run}",
        f"predict ckpt={run} image={next(images.rglob('*.png'))}",
        f"report runs={run.parent} output_dir={tmp_path / 'report'}",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report" / "report.html").is_file()
    trained, _, reported = (set(line.split()) for line in done.stdout.splitlines() if line.startswith("loaded "))
    assert not OF_OTHERS & trained
    assert "runs.reading" in reported  # the control


def test_a_command_that_needs_an_extra_names_it(trained_run: Path) -> None:
    """The negative control of the test above: the packages are out of reach there."""
    done = run_without_optional(f"demo ckpt={trained_run} port=0")
    assert done.returncode == 2
    assert "pip install 'deepbloom[demo]'" in done.stderr


@pytest.mark.hydra
@pytest.mark.skipif("oldest" not in os.environ.get("PYTHONPATH", ""), reason="run by make test-oldest")
@pytest.mark.parametrize("package", ["hydra-core", "omegaconf"])
def test_the_oldest_supported_version_is_the_one_imported(package: str) -> None:
    (floor,) = (
        match.group(1)
        for requirement in metadata.requires("deepbloom") or []
        if (match := re.fullmatch(rf"{package}>=([\d.]+)", requirement))
    )
    imported = metadata.version(package)
    assert [*map(int, imported.split("."))][: floor.count(".") + 1] == [*map(int, floor.split("."))]
