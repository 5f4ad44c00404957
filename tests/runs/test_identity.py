"""Equal settings have equal names, on every machine; any difference that decides a result is seen and named."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deepbloom.runs import identity as module
from deepbloom.runs.identity import Identity

SETTINGS = {"model.arch": "resnet18", "optimizer.lr": 3e-4, "seed": 0, "dataset_fingerprint": "ab", "train.ema": None}
OTHER_PYTHONS = [
    found
    for minor in range(10, 16)
    for found in (shutil.which(f"python3.{minor}"), *Path(sys.base_prefix).parent.glob(f"3.{minor}.*/bin/python"))
    if found and not subprocess.run([found, "--version"], capture_output=True).returncode
]


def test_a_whole_number_is_the_same_setting_with_or_without_a_point() -> None:
    assert Identity(SETTINGS | {"seed": 0.0}).run_id == Identity(SETTINGS).run_id
    assert Identity(SETTINGS | {"seed": 0.0}).difference(Identity(SETTINGS).as_dict()) == ""


def test_the_order_of_settings_does_not_matter() -> None:
    assert Identity(dict(reversed(SETTINGS.items()))).run_id == Identity(SETTINGS).run_id


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"optimizer.lr": 3.0001e-4}, {"dataset_fingerprint": "ac"}, {"new": None}]
)
def test_any_difference_is_another_run(change: dict[str, object]) -> None:
    assert Identity(SETTINGS | change).run_id != Identity(SETTINGS).run_id
    assert Identity(SETTINGS | change).difference(Identity(SETTINGS).as_dict())


def test_another_recipe_version_is_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Identity(SETTINGS).run_id
    monkeypatch.setattr(module, "RECIPE_VERSION", module.RECIPE_VERSION + 1)
    assert Identity(SETTINGS).run_id != before


def test_a_difference_is_said_in_words() -> None:
    stored = Identity(SETTINGS).as_dict()
    assert Identity(SETTINGS).difference(stored) == ""
    assert Identity(SETTINGS | {"seed": 1}).difference(stored) == "other settings: seed is 0 there and 1 now"
    assert Identity(SETTINGS | {"dataset_fingerprint": "x"}).difference(stored) == "other images"
    several = SETTINGS | {"dataset_fingerprint": "x", "optimizer.lr": 0.1}
    assert (
        Identity(several).difference(stored) == "other settings: optimizer.lr is 0.0003 there and 0.1 now (and 1 more)"
    )


@pytest.mark.skipif(not OTHER_PYTHONS, reason="needs another Python 3 on the path")
@pytest.mark.parametrize("python", OTHER_PYTHONS, ids=str)
def test_every_interpreter_gives_the_same_name(python: str) -> None:
    code = f"from identity import Identity; print(Identity({SETTINGS!r}).run_id)"
    done = subprocess.run([python, "-c", code], cwd=Path(module.__file__).parent, capture_output=True, text=True)
    assert done.stdout.strip() == Identity(SETTINGS).run_id
