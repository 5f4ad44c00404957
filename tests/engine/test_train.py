"""Training runs as a whole: resuming, frozen modules, divergence, and numbers that follow from the seed."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from deepbloom import recipe
from deepbloom.commands.train import train
from deepbloom.config.data_settings import DataConfig
from deepbloom.config.settings import (
    AugmentConfig,
    LoggerConfig,
    OptimizerConfig,
    RunConfig,
    SchedulerConfig,
    TrainConfig,
)
from deepbloom.data.batches import evaluation_batches
from deepbloom.data.dataset import prepare
from deepbloom.engine.checkpoint import MODEL_KIND, STATE_KIND, read_model, read_tensors
from deepbloom.engine.evaluate import predict_logits
from deepbloom.errors import DivergedError, RunError
from deepbloom.metrics import mean_cross_entropy, top_k_accuracy
from deepbloom.models.registry import create_model
from deepbloom.runs import files as atomic_files
from deepbloom.runs import folder as run_dir
from small_data import draw_images

STOCHASTIC = AugmentConfig(
    {"rotate": {"degrees": 20}, "crop": {"min_area": 0.4}, "flip": {}, "mixup": {"alpha": 0.2}},
    0.64,
    first_resolution=0.5,
)


def settings(images: Path, folder: Path, model: str = "scratch_cnn", **changes: Any) -> RunConfig:
    options: dict[str, Any] = {"epochs": 3, "batch_size": 8, "num_threads": 1, "precision": "fp32", "ema_decay": 0.9}
    options |= {"checkpoint_seconds": 0.0, "num_workers": 0}
    seed = changes.pop("seed", 0)
    augment = changes.pop("augment", STOCHASTIC)
    optimizer = changes.pop("optimizer", OptimizerConfig("adamw", 1e-3, 0.01))
    return RunConfig(
        seed=seed,
        output_dir=str(folder),
        model=recipe(model, model={"weights": "none"}).model,
        data=DataConfig("imagefolder", root=str(images)),
        optimizer=optimizer,
        scheduler=SchedulerConfig("one_cycle"),
        augment=augment,
        train=TrainConfig(**(options | changes)),
        logger=LoggerConfig("none"),
    )


def final_state(folder: Path) -> dict[str, torch.Tensor]:
    tensors, _ = read_tensors(folder / run_dir.LAST, STATE_KIND)
    model, _ = read_tensors(folder / run_dir.MODEL, MODEL_KIND)
    return tensors | {f"file/{name}": tensor for name, tensor in model.items()}


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def history(folder: Path) -> list[dict[str, str]]:
    with open(folder / run_dir.HISTORY, newline="") as file:
        return [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in csv.DictReader(file)
        ]


def scores(folder: Path) -> tuple:
    metrics = json.loads((folder / run_dir.METRICS).read_text())
    return metrics["test"], metrics["val"], metrics["best_epoch"]


def start(config: RunConfig) -> subprocess.Popen:
    from dataclasses import asdict

    child = subprocess.Popen(
        [sys.executable, "-m", "deepbloom.sweeps.job"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    child.stdin.write(json.dumps(asdict(config)))
    child.stdin.close()
    return child


def stop_after(child: subprocess.Popen, written: Path, number: int) -> int:
    deadline = time.monotonic() + 120
    while not written.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(number)
    return child.wait(timeout=60)


@pytest.fixture(scope="module")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 18 images in three classes, for larger networks."""
    return draw_images(tmp_path_factory.mktemp("few") / "root", per_class=6)


@pytest.fixture(scope="module")
def uninterrupted(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(settings(images, tmp_path_factory.mktemp("whole") / "run"))


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(number, marks=pytest.mark.long) for number in (signal.SIGKILL, signal.SIGINT))],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    number: signal.Signals, images: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    config = settings(images, tmp_path / "run")
    child = start(config)
    code = stop_after(child, tmp_path / "run" / run_dir.LAST, number)
    assert code == (-9 if number == signal.SIGKILL else 128 + number)
    assert not (tmp_path / "run" / run_dir.METRICS).exists()
    stopped, _ = read_tensors(tmp_path / "run" / run_dir.LAST, STATE_KIND)

    train(config)

    final = final_state(tmp_path / "run")
    assert equal(final, final_state(uninterrupted))
    assert not torch.equal(stopped["model/fc.weight"], final["model/fc.weight"])  # it really was stopped before the end
    assert history(tmp_path / "run") == history(uninterrupted)
    assert scores(tmp_path / "run") == scores(uninterrupted)


@pytest.mark.long
def test_a_resumed_run_on_cached_features_equals_an_uninterrupted_one(images: Path, tmp_path: Path) -> None:
    augment = AugmentConfig({"rotate": {"degrees": 20}, "flip": {}}, 0.86, first_resolution=0.5)
    whole = train(settings(images, tmp_path / "whole", "resnet18_partial", augment=augment))
    config = settings(images, tmp_path / "run", "resnet18_partial", augment=augment)
    assert stop_after(start(config), tmp_path / "run" / run_dir.HISTORY, signal.SIGTERM) == 143
    _, header = read_tensors(tmp_path / "run" / run_dir.LAST, STATE_KIND)
    assert 1 < header["progress"]["epoch"] <= 3  # among the larger images
    train(config)
    assert equal(final_state(tmp_path / "run"), final_state(whole))
    metrics = json.loads((whole / run_dir.METRICS).read_text())
    assert (metrics["train_resolutions"], metrics["feature_copies"]) == ([112, 160, 192], 2)


def test_another_seed_gives_other_weights(images: Path, uninterrupted: Path, tmp_path: Path) -> None:
    other = train(settings(images, tmp_path / "run", seed=1))
    assert not equal(final_state(other), final_state(uninterrupted))


def test_the_number_of_workers_and_the_pixel_cache_change_nothing(
    images: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    config = settings(images, tmp_path / "run", num_workers=2)
    config.data.pixel_cache = "off"
    assert equal(final_state(train(config)), final_state(uninterrupted))


def test_a_complete_run_is_left_alone(images: Path, uninterrupted: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in uninterrupted.iterdir() if file.name != run_dir.LOCK}
    train(settings(images, uninterrupted))
    assert before == {file: file.stat().st_mtime_ns for file in uninterrupted.iterdir() if file.name != run_dir.LOCK}


def test_a_run_with_other_settings_does_not_overwrite(images: Path, uninterrupted: Path) -> None:
    with pytest.raises(RunError, match=r"batch_size is 8 there and 4 now"):
        train(settings(images, uninterrupted, batch_size=4))


def test_a_folder_with_other_files_is_not_used(images: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="not a run's"):
        train(settings(images, tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_history_has_one_row_per_epoch_with_the_documented_columns(uninterrupted: Path) -> None:
    with open(uninterrupted / run_dir.HISTORY, newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == [
        "epoch",
        "train_loss",
        "train_accuracy",
        "val_loss",
        "val_accuracy",
        "lr",
        "seconds",
        "images_per_second",
    ]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]


def test_the_kept_weights_are_those_of_the_best_validation_epoch(images: Path, uninterrupted: Path) -> None:
    rows = history(uninterrupted)
    metrics = json.loads((uninterrupted / run_dir.METRICS).read_text())
    best = rows[metrics["best_epoch"] - 1]
    assert metrics["best_epoch"] in metrics["epoch_choice"]["epochs_within"]
    assert metrics["epoch_choice"]["highest_val_accuracy"] == max(float(row["val_accuracy"]) for row in rows)
    kept = read_model(uninterrupted)
    data = prepare(settings(images, uninterrupted).data, kept.preprocessing, 0)
    batches = evaluation_batches(data.pixels, data.split.val, data.source.targets, kept.preprocessing, 8)
    logits, targets = predict_logits(kept.network, batches, torch.device("cpu"))
    assert top_k_accuracy(logits, targets) == metrics["val"]["top1_accuracy"] == float(best["val_accuracy"])
    assert mean_cross_entropy(logits, targets) == pytest.approx(metrics["val"]["loss"], rel=1e-5)


def test_training_learns_what_is_easy(images: Path, tmp_path: Path) -> None:
    folder = train(settings(images, tmp_path / "run", epochs=6, ema_decay=0.0, augment=AugmentConfig({})))
    test = json.loads((folder / run_dir.METRICS).read_text())["test"]
    assert test["count"] == 6
    assert test["top1_accuracy"] == 1.0


@pytest.mark.parametrize("feature_cache", ["auto", "off"])
def test_frozen_parts_keep_weights_and_statistics_bit_for_bit(
    feature_cache: str, few_images: Path, tmp_path: Path
) -> None:
    """EfficientNet-B0's features.8 lies behind the trained modules: gradients flow through it, nothing in it moves."""
    name = "efficientnet_b0_partial"
    config = settings(few_images, tmp_path / "run", name, epochs=1, ema_decay=0.0, feature_cache=feature_cache)
    folder = train(config)
    from deepbloom.rng import seed_everything

    seed_everything(0, "weights")
    initial = create_model(config.model.arch, 3).state_dict()
    trained, _ = read_tensors(folder / run_dir.LAST, STATE_KIND)
    prefixes = tuple(f"{module}." for module in config.model.trainable)
    moved = {key for key in initial if not torch.equal(initial[key], trained[f"model/{key}"])}
    assert any(key.startswith("features.8.") for key in initial)
    assert moved
    assert all(key.startswith(prefixes) for key in moved)
    assert any("running_mean" in key for key in moved)
    assert {key for key in initial if key.startswith(prefixes)} - moved == set()


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.long)])
def test_runs_with_and_without_stored_features_are_equal(precision: str, few_images: Path, tmp_path: Path) -> None:
    """EfficientNet-B0's frozen modules hold depthwise convolutions, which bf16 training treats apart."""
    runs = {}
    for feature_cache in ("auto", "off"):
        config = settings(
            few_images,
            tmp_path / feature_cache,
            "efficientnet_b0_partial",
            epochs=2,
            augment=AugmentConfig({"crop": {"min_area": 0.4}}, 0.5),
            precision=precision,
            feature_cache=feature_cache,
            feature_copies=2,
        )
        runs[feature_cache] = train(config)
    ids = [json.loads((runs[name] / run_dir.METRICS).read_text())["run_id"] for name in ("auto", "off")]
    assert ids[0] == ids[1]
    assert equal(final_state(runs["auto"]), final_state(runs["off"]))


@pytest.mark.parametrize("when", ["first step", "validation"])
def test_divergence_stops_and_never_becomes_best(
    when: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepbloom.engine import train as loop

    if when == "first step":
        nan = torch.tensor(float("nan"))
        monkeypatch.setattr(loop, "training_loss", lambda _, inputs, *__: (nan, torch.zeros(len(inputs), 3)))
    else:
        honest = loop.predict_logits

        def poisoned(*arguments: Any) -> tuple:
            logits, targets = honest(*arguments)
            return logits * float("nan"), targets

        monkeypatch.setattr(loop, "predict_logits", poisoned)
    place = {"first step": "at epoch 1, step 1", "validation": "in the validation of epoch 1"}[when]
    with pytest.raises(DivergedError, match=f"{place}\\. The last saved state"):
        train(settings(images, tmp_path / "run"))
    assert DivergedError.exit_code == 3
    assert not (tmp_path / "run" / run_dir.METRICS).exists()
    assert not (tmp_path / "run" / run_dir.MODEL).exists()
    assert "diverged" in (tmp_path / "run" / run_dir.FAILED).read_text()
    read_tensors(tmp_path / "run" / run_dir.LAST, STATE_KIND)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_weights_that_are_no_numbers_are_never_saved(value: float, images: Path, tmp_path: Path) -> None:
    """The loss of that step is finite still: only its gradients are not."""
    calls = []

    def plant(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        calls.append(optimizer)
        if len(calls) == 3:
            optimizer.param_groups[0]["params"][0].grad[0] = value

    hook = register_optimizer_step_pre_hook(plant)
    try:
        with pytest.raises(DivergedError, match="is not finite after epoch 1, step 3"):
            train(settings(images, tmp_path / "run"))
    finally:
        hook.remove()
    saved, header = read_tensors(tmp_path / "run" / run_dir.LAST, STATE_KIND)
    assert header["progress"]["step"] == 2
    assert all(tensor.isfinite().all() for tensor in saved.values())


def test_a_run_that_really_diverges_keeps_its_last_saved_state(images: Path, tmp_path: Path) -> None:
    config = settings(
        images, tmp_path / "run", "mini_resnet", optimizer=OptimizerConfig("sgd", 1e12, 0.05), checkpoint_seconds=60.0
    )
    with pytest.raises(DivergedError, match="epoch 1"):
        train(config)
    saved, header = read_tensors(tmp_path / "run" / run_dir.LAST, STATE_KIND)
    assert header["progress"]["step"] == 0
    assert all(tensor.isfinite().all() for tensor in saved.values())


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_stopped_multirun_saves_its_job_and_leaves_no_process(
    number: signal.Signals, images: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "deepbloom", "train", "-m", "model=scratch_cnn,mini_resnet", "data=imagefolder"]
    command += [f"data.root={images}", "train.batch_size=8", "train.epochs=500", "train.checkpoint_seconds=0"]
    command += ["train.num_threads=1", "train.precision=fp32"]
    parent = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("outputs/*/last.ckpt")) and parent.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    (folder,) = (tmp_path / "outputs").iterdir()
    parent.send_signal(number)
    out, err = parent.communicate(timeout=60)
    assert parent.returncode == 128 + number
    assert "stopped" in out
    assert "2 of 2 jobs are not done" in err
    with run_dir.exclusive(folder):  # nobody holds it any more
        _, header = read_tensors(folder / run_dir.LAST, STATE_KIND)
    assert header["progress"]["epoch"] >= 1


def test_a_state_says_with_what_it_was_computed(images: Path, tmp_path: Path) -> None:
    _, header = read_tensors(train(settings(images, tmp_path / "run", epochs=1)) / run_dir.LAST, STATE_KIND)
    versions = {"torch": torch.__version__, "numpy": np.__version__, "pillow": PIL.__version__}
    assert header["environment"].items() >= versions.items()


def test_two_processes_do_not_share_a_run(images: Path, tmp_path: Path) -> None:
    folder = atomic_files.make_folder(tmp_path / "run")
    with run_dir.exclusive(folder), pytest.raises(RunError, match="Another process"):
        train(settings(images, folder))


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_trains_like_the_other(images: Path, tmp_path: Path) -> None:
    losses = []
    for name in ("eager", "compiled"):
        compiled = name == "compiled"  # a network without dropout: compiled code draws other random numbers
        config = settings(images, tmp_path / name, "resnet18_frozen", epochs=2, ema_decay=0.0, compile=compiled)
        losses.append([float(row["train_loss"]) for row in history(train(config))])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
