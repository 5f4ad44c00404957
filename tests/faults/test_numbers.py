"""Numbers that mean what they say: test images train nothing, and evaluation draws nothing."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from children import at_step
from PIL import Image
from small_runs import TINY_PREPROCESSING, outcome, settings

from deepbloom.commands.train import train
from deepbloom.config.schema import flatten
from deepbloom.data.batches import evaluation_batches
from deepbloom.data.dataset import prepare
from deepbloom.data.pixel_cache import DecodedPixels
from deepbloom.data.sources.files import FileSource
from deepbloom.engine.checkpoint import STATE_KIND, read_model, read_tensors
from deepbloom.engine.evaluate import predict_logits
from deepbloom.errors import DataError
from deepbloom.runs import folder as run_dir

TOLERANCE = 1e-5
"""Largest difference of a logit between batches of another size: other kernels sum in another order."""


@pytest.fixture(scope="module")
def parts(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images as train/, val/ and test/: eight, two and two of each class."""
    root = tmp_path_factory.mktemp("parts")
    for path in images.rglob("*.png"):
        number = int(path.stem)
        part = "train" if number < 8 else "val" if number < 10 else "test"
        (root / part / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / part / path.parent.name)
    return root


def weights(folder: Path) -> dict:
    found = outcome(folder)
    return {"state": found["state"], "model": found["model"], "history": found["history"]}


def other_image(path: Path) -> None:
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (33, 20, 3), np.uint8)
    Image.fromarray(noise).save(path)


@pytest.mark.parametrize(("part", "same"), [("test", True), ("train", False), ("val", False)])
def test_only_test_images_can_be_replaced_and_deleted_without_changing_the_weights(
    part: str, same: bool, parts: Path, tmp_path: Path
) -> None:
    """Those of the other parts are the control: they do change weights or history."""
    before = weights(train(settings(parts, tmp_path / "before")))
    changed = shutil.copytree(parts, tmp_path / "changed")
    for folder in sorted((changed / part).iterdir()):
        first, *others = sorted(folder.iterdir())
        other_image(first)
        others[0].unlink()
        if len(others) > 1:
            others[1].write_bytes(b"no image")
    config = settings(changed, tmp_path / "after")
    config.data.allow_missing = True
    assert (weights(train(config)) == before) is same


@pytest.mark.parametrize("kind", ["predefined split", "stratified"])
def test_a_run_whose_test_images_are_gone_until_it_is_trained_has_the_same_weights(
    kind: str, images: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are there while all images are tried before the first step, and for the test."""
    root = shutil.copytree(parts if kind == "predefined split" else images, tmp_path / "root")
    before = weights(train(settings(root, tmp_path / "before", pixel_cache="off")))
    data = prepare(settings(root, tmp_path / "unused", pixel_cache="off").data, TINY_PREPROCESSING, 0)
    assert isinstance(data.source, FileSource)
    paths = [data.source.paths[index] for index in data.split.test]
    away = tmp_path / "away"
    away.mkdir()
    seen: list[Path] = []
    honest = run_dir.count  # the count of tests is the last thing before the test

    def take() -> None:
        for number, path in enumerate(paths):
            path.rename(away / str(number))

    def give_back(*arguments: Any) -> int:
        seen.extend(path for path in paths if path.exists())
        for number, path in enumerate(paths):
            (away / str(number)).rename(path)
        return honest(*arguments)

    monkeypatch.setattr(run_dir, "count", give_back)
    with at_step(take, 1):
        folder = train(settings(root, tmp_path / "after", pixel_cache="off"))
    assert len(paths) >= 6
    assert not seen
    assert weights(folder) == before


def test_training_images_that_are_gone_are_missed(parts: Path, tmp_path: Path) -> None:
    """The control of the test above: with the cache off, images are read from their files in every step."""
    root = shutil.copytree(parts, tmp_path / "root")
    with at_step(lambda: shutil.rmtree(root / "train"), 1), pytest.raises(DataError, match="no such file"):
        train(settings(root, tmp_path / "run", pixel_cache="off"))


def test_no_test_image_is_read_before_the_training_is_over(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(parts, tmp_path / "run", pixel_cache="off")
    read: set[str] = set()
    honest = DecodedPixels.read

    def reading(pixels: DecodedPixels, indices: np.ndarray) -> np.ndarray:
        done = False
        if (tmp_path / "run" / run_dir.LAST).exists():
            _, header = read_tensors(tmp_path / "run" / run_dir.LAST, STATE_KIND)
            done = header["progress"]["epoch"] > config.train.epochs
        if not done:
            read.update(pixels.source.image_ids[index].split("/")[0] for index in indices)
        return honest(pixels, indices)

    monkeypatch.setattr(DecodedPixels, "read", reading)
    train(config)
    assert read == {"train", "val"}


@pytest.mark.parametrize("model", ["scratch_cnn", "mini_resnet", pytest.param("resnet18", marks=pytest.mark.long)])
def test_evaluation_is_the_same_in_batches_of_1_and_64(model: str, images: Path) -> None:
    from deepbloom.models.registry import create_model, get_architecture

    torch.manual_seed(0)
    network = create_model(model, 3).train()
    preprocessing = get_architecture(model).preprocessing
    data = prepare(settings(images, Path("unused")).data, preprocessing, 0)
    indices = np.arange(len(data.source))
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    logits = {}
    for size in (1, 64):
        batches = evaluation_batches(data.pixels, indices, data.source.targets, preprocessing, size)
        logits[size], targets = predict_logits(network, batches, torch.device("cpu"))
        assert np.array_equal(targets, data.source.targets)
    assert np.abs(logits[1] - logits[64]).max() < TOLERANCE * max(1, np.abs(logits[1]).max())
    assert network.training
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    assert np.array_equal(before[2], after[2])


def test_evaluation_in_training_mode_would_depend_on_the_batch(images: Path, tmp_path: Path) -> None:
    """The control of the test above: dropout draws, and BatchNorm sees the batch."""
    network = read_model(train(settings(images, tmp_path / "run", epochs=1))).network.train()
    inputs = torch.rand(8, 3, 16, 16)
    state = torch.get_rng_state()
    together = network(inputs)
    assert not torch.equal(state, torch.get_rng_state())
    alone = torch.cat([network(inputs[i : i + 1]) for i in range(8)])
    assert (together - alone).abs().max() > TOLERANCE


def test_eval_writes_the_same_scores_for_batches_of_1_and_64(deepbloom: Callable, images: Path, tmp_path: Path) -> None:
    folder = train(settings(images, tmp_path / "run"))
    scores = []
    for size in (1, 64):
        place = tmp_path / str(size)
        assert deepbloom("eval", f"ckpt={folder}", f"output_dir={place}", f"batch_size={size}")[0] == 0
        scores.append(json.loads((place / run_dir.METRICS).read_text())["test"])
    assert flatten(scores[0]) == pytest.approx(flatten(scores[1]), rel=TOLERANCE)
