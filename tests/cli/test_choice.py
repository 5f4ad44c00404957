"""``deepbloom train`` on photographs starts from pretrained weights where they are at hand, and says so."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from deepbloom.cli import choice
from deepbloom.cli.compose import compose
from deepbloom.models.freezing import count_parameters
from deepbloom.models.registry import create_model

Run = Callable[..., tuple[int, str, str]]
PHOTOS = ("data=imagefolder", "data.root=photos")


@pytest.fixture
def none_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No package of weights, and an empty cache of torch; returns the cache's folder of weights."""
    monkeypatch.setattr(choice, "find_spec", lambda _: None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_installed_weights_are_used_for_photographs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda _: object())
    caplog.set_level(logging.INFO, "deepbloom")
    config = compose("train", PHOTOS)
    assert (config.model.name, config.model.weights) == ("efficientnet_lite0_partial", "imagenet")
    assert config == compose("train", ["model=efficientnet_lite0_partial", *PHOTOS])  # as if it had been typed
    assert "efficientnet_lite0_partial, because its ImageNet weights are installed" in caplog.text


def test_downloaded_weights_are_used_where_none_are_installed(none_installed: Path) -> None:
    (none_installed / "resnet18-f37072fd.pth").touch()
    assert compose("train", PHOTOS).model.name == "resnet18_partial"


def test_without_weights_the_default_stays_and_the_extra_is_named(
    none_installed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "deepbloom")
    assert compose("train", PHOTOS).model.name == "mini_resnet"
    assert "deepbloom[lite0]" in caplog.text


@pytest.mark.parametrize(
    "arguments", [("model=scratch_cnn", *PHOTOS), ("experiment=as_published", *PHOTOS), (), ("data=synthetic",)]
)
def test_a_model_that_is_given_and_other_data_change_nothing(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda _: object())
    caplog.set_level(logging.INFO, "deepbloom")
    assert not compose("train", arguments).model.name.startswith("efficientnet")
    assert "model:" not in caplog.text


@pytest.mark.hydra
def test_help_says_what_a_run_starts_from_and_how_large_each_model_is(deepbloom: Run) -> None:
    _, out, _ = deepbloom("train", "--help")
    for part in ("model=mini_resnet", "optimizer=adamw", "scheduler=one_cycle", "augment=robust", "deepbloom[lite0]"):
        assert part in out
    for name in ("scratch_cnn", "mini_resnet", "resnet18_partial", "efficientnet_lite0_partial"):
        model = compose("train", [f"model={name}"]).model
        counts = count_parameters(create_model(model.arch, 102, tuple(model.trainable)))
        said = f"{counts['total'] / 1e6:.1f} M parameters, {counts['trainable'] / 1e6:.1f} M trained"
        assert any(line.split()[:1] == [name] and said in line for line in out.splitlines())
