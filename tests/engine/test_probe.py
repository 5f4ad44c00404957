"""The linear probe against scikit-learn, and in runs: with and without the feature cache, interrupted and resumed."""

import json
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn.functional import cross_entropy

from deepbloom import recipe
from deepbloom.commands.train import train
from deepbloom.config.settings import ModelConfig, RunConfig
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.engine import probe
from deepbloom.engine import train as engine
from deepbloom.engine.checkpoint import STATE_KIND, read_tensors
from deepbloom.engine.resolve import resolve
from deepbloom.errors import ConfigError
from deepbloom.models.registry import architecture, create_model
from deepbloom.runs import folder as run_dir


def clusters(count: int, spread: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw features (N, 6) about three centers, far from zero and of unequal scale, and their classes."""
    stream = np.random.default_rng(seed)
    targets = stream.integers(0, 3, count)
    centers = np.random.default_rng(0).normal(size=(3, 6))
    features = 50 + 10 * (centers[targets] + spread * stream.normal(size=(count, 6)))
    return torch.from_numpy(features).float(), torch.from_numpy(targets)


@pytest.mark.parametrize("penalty", [1e-1, 1e-3])
def test_the_fit_equals_scikit_learn(penalty: float) -> None:
    features, targets = clusters(300, spread=1.0, seed=1)
    fitted = probe.fit(features, targets, 3, penalty, smoothing=0.0)
    scaled = (features - features.mean(0)).numpy()
    scaled /= np.sqrt((scaled**2).mean())
    reference = LogisticRegression(C=1 / (penalty * len(scaled)), max_iter=1000, tol=1e-8).fit(scaled, targets)
    found = fitted(features).softmax(1).numpy()
    np.testing.assert_allclose(found, reference.predict_proba(scaled), atol=2e-3)
    assert not np.allclose(found, 1 / 3, atol=0.1)


def test_a_fit_from_another_start_is_the_same_fit() -> None:
    features, targets = clusters(200, spread=1.0, seed=1)
    start = probe.fit(features, targets, 3, 1e-1, 0.1)
    cold, warm = probe.fit(features, targets, 3, 1e-2, 0.1), probe.fit(features, targets, 3, 1e-2, 0.1, start)
    torch.testing.assert_close(cold(features), warm(features), atol=5e-3, rtol=0)
    assert not torch.allclose(start(features), warm(features), atol=5e-2)


def test_label_smoothing_keeps_the_fit_from_certainty() -> None:
    features, targets = clusters(100, spread=0.05, seed=1)
    confidence = [float(probe.fit(features, targets, 3, 1e-5, s)(features).softmax(1).amax(1).mean()) for s in (0, 0.3)]
    assert confidence[0] > 0.97
    assert confidence[1] == pytest.approx(0.8, abs=0.02)  # 1 - 0.3 + 0.3 / 3


def test_the_validation_loss_chooses_the_penalty() -> None:
    features, targets = clusters(60, spread=0.3, seed=1)
    alike, alike_targets = clusters(60, spread=0.3, seed=2)
    shuffled = targets[torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    penalties = []
    for given in (targets, shuffled):
        losses = {
            penalty: float(cross_entropy(probe.fit(features, given, 3, penalty, 0.0)(alike), alike_targets))
            for penalty in probe.PENALTIES
        }
        penalties.append(probe.choose_fit(features, given, alike, alike_targets, 3, 0.0).penalty)
        assert losses[penalties[-1]] == pytest.approx(min(losses.values()), abs=1e-2)
    assert penalties[0] < penalties[1]


@architecture(
    "probed", head="fc", target_layer="block2", description="For tests.", preprocessing=Preprocessing(size=32)
)
def network(num_classes: int) -> nn.Module:
    layers = [
        ("block1", nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())),
        ("block2", nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("fc", nn.Linear(16, num_classes)),
    ]
    return nn.Sequential(OrderedDict(layers))


def settings(images: Path, folder: Path, **changes: object) -> RunConfig:
    options = {"epochs": 2, "batch_size": 8, "num_threads": 1, "precision": "fp32", "probe": True}
    config = recipe(
        "resnet18_partial",
        data={"name": "imagefolder", "root": str(images)},
        optimizer={"layer_decay": 0.5},
        augment="flip_rotate",
        train=options | {"feature_copies": 2, "checkpoint_seconds": 0, "ema_decay": 0.5} | changes,
        output_dir=str(folder),
    )
    config.model = ModelConfig(name="probed", arch="probed", trainable=["block2", "fc"], weights=str(start(folder)))
    return config


def start(folder: Path) -> Path:
    """Write the weights that every run here starts from."""
    torch.manual_seed(0)
    path = folder.parent / "start.safetensors"
    save_file(create_model("probed", 3).state_dict(), path)
    return path


def state(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / run_dir.LAST, STATE_KIND)[0]


def same(left: Path, right: Path) -> bool:
    first, second = state(left), state(right)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def probed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(settings(images, tmp_path_factory.mktemp("probed") / "run"))


def test_the_feature_cache_changes_nothing(images: Path, probed: Path, tmp_path: Path) -> None:
    assert same(probed, train(settings(images, tmp_path / "off", feature_cache="off")))
    assert not same(probed, train(settings(images, tmp_path / "not_probed", probe=False)))


def test_training_starts_from_the_fit(images: Path, probed: Path, tmp_path: Path) -> None:
    """At a rate of almost zero, the first epoch has the validation loss of the fit."""
    config = settings(images, tmp_path / "run", epochs=1, feature_copies=1)
    config.optimizer.lr, config.model.trainable = 1e-12, ["fc"]
    metrics = json.loads((train(config) / run_dir.METRICS).read_text())
    assert metrics["val"]["loss"] == pytest.approx(metrics["probe"]["val_loss"], rel=1e-4)
    assert metrics["val"]["top1_accuracy"] == pytest.approx(metrics["probe"]["val_accuracy"])
    assert metrics["val"]["loss"] < 0.5 * np.log(3)


def test_a_resumed_run_keeps_its_fit(
    images: Path, probed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(images, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_validate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(config)
    monkeypatch.setattr(probe, "fit_classifier", lambda *_: pytest.fail("the classifier is fitted again"))
    train(config)
    assert same(tmp_path / "run", probed)


def test_a_frozen_classifier_cannot_be_fitted(images: Path, tmp_path: Path) -> None:
    config = settings(images, tmp_path / "run")
    config.model.trainable = ["block2"]
    with pytest.raises(ConfigError, match="leaves it frozen: add fc"):
        resolve(config)


@pytest.mark.parametrize("model", ["resnet18_partial", "mini_resnet"])
def test_random_features_are_not_fitted(images: Path, model: str) -> None:
    data = {"name": "imagefolder", "root": str(images)}
    with pytest.raises(ConfigError, match=r"train\.probe=true .* model\.weights=none"):
        resolve(recipe(model, model={"weights": "none"}, data=data, train={"probe": True}))


def test_the_probe_decides_the_result(images: Path, tmp_path: Path) -> None:
    probed, plain = (resolve(settings(images, tmp_path / "run", probe=value)) for value in (True, False))
    assert probed.run_id != plain.run_id
    assert asdict(probed.config.train)["probe"] is True
