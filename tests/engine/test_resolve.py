"""What decides a result is in a run's identity, and nothing else: each change with its control."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import deepbloom
from deepbloom import recipe
from deepbloom.config.data_settings import SplitConfig
from deepbloom.config.settings import AugmentConfig, RunConfig
from deepbloom.engine.checkpoint import write_tensors
from deepbloom.engine.resolve import resolve
from deepbloom.errors import CheckpointError, ConfigError
from deepbloom.models.registry import create_model

STILL = AugmentConfig({}, 1.0)
CROP = AugmentConfig({"crop": {"min_area": 0.4}}, 0.86)
PROGRESSIVE = AugmentConfig({"crop": {"min_area": 0.4}}, 0.86, first_resolution=0.6)
CUTMIX = AugmentConfig({"crop": {"min_area": 0.4}, "cutmix": {"alpha": 1.0}}, 0.86)
MIXUP = AugmentConfig({"crop": {"min_area": 0.4}, "mixup": {"alpha": 0.2}}, 0.86)


def settings(root: Path | str, model: str = "resnet18_partial", weights: str = "none", **train: Any) -> RunConfig:
    data = {"name": "imagefolder", "root": str(root)}
    return recipe(model, model={"weights": weights}, data=data, augment="crop", train=train)


def run_id(*arguments: Any, **train: Any) -> str:
    return resolve(settings(*arguments, **train)).run_id


@pytest.fixture
def photos(images: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(images, tmp_path / "photos"))


def test_where_the_images_lie_does_not_matter(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run_id(photos)
    monkeypatch.chdir(photos.parent)
    assert {run_id(name) for name in ("photos", "photos/", "./photos", f"{photos}/../photos")} == {expected}
    moved = photos.rename(photos.parent / "moved")
    assert run_id(moved) == expected


def test_one_pixel_is_another_run(photos: Path) -> None:
    before = run_id(photos)
    path = next(photos.rglob("*.png"))
    image = Image.open(path).convert("RGB")
    red, green, blue = image.getpixel((0, 0))  # type: ignore[misc]
    image.putpixel((0, 0), (red ^ 1, green, blue))
    image.save(path)
    assert run_id(photos) != before


def test_the_content_of_the_weights_is_named_and_not_their_path(images: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "start.safetensors"
    save_file(create_model("resnet18", 3).state_dict(), path)
    first = run_id(images, "resnet18_partial", str(path))
    moved = path.rename(tmp_path / "renamed.safetensors")
    assert run_id(images, "resnet18_partial", str(moved)) == first
    content = bytearray(moved.read_bytes())
    content[-1] ^= 1
    moved.write_bytes(content)
    assert run_id(images, "resnet18_partial", str(moved)) != first
    assert run_id(images) != first


@pytest.mark.parametrize(
    "change", [{"feature_copies": 3}, {"epochs": 3}, {"batch_size": 16}, {"ema_decay": 0.9}, {"precision": "bf16"}]
)
def test_a_setting_that_decides_the_result_is_another_run(images: Path, change: dict[str, Any]) -> None:
    assert run_id(images, precision="fp32") != run_id(images, **{"precision": "fp32"} | change)


@pytest.mark.parametrize(
    "change", [{"num_workers": 3}, {"num_threads": 1}, {"checkpoint_seconds": 1.0}, {"resume": "never"}]
)
def test_a_setting_of_the_machine_is_the_same_run(images: Path, change: dict[str, Any]) -> None:
    assert run_id(images) == run_id(images, **change)


def test_a_name_is_a_label(images: Path) -> None:
    config = settings(images)
    renamed = replace(config, model=replace(config.model, name="my_resnet"))
    assert resolve(renamed).run_id == resolve(config).run_id
    assert resolve(replace(config, model=replace(config.model, trainable=["head"]))).run_id != resolve(config).run_id


def test_an_explicit_value_that_says_what_auto_means_is_the_same_run(images: Path) -> None:
    plan = resolve(settings(images))
    assert run_id(images, precision=plan.precision, feature_copies=plan.schedule.copies) == plan.run_id


@pytest.mark.parametrize(
    ("model", "augment", "train", "copies"),
    [
        ("resnet18_partial", CROP, {}, 4),
        ("resnet18_partial", PROGRESSIVE, {}, 2),
        ("resnet18_partial", CROP, {"feature_cache": "off"}, 0),
        ("resnet18_partial", CROP, {"feature_cache": "off", "feature_copies": 4}, 4),
        ("resnet18_partial", MIXUP, {}, 0),
        ("resnet18_partial", CUTMIX, {}, 0),
        ("resnet18_partial", STILL, {}, 1),
        ("resnet18_partial", STILL, {"feature_cache": "off"}, 1),
        ("scratch_cnn", CROP, {}, 0),
        ("scratch_cnn", CROP, {"feature_copies": 2}, 2),
    ],
)
def test_the_copies_follow_from_the_settings(
    images: Path, model: str, augment: AugmentConfig, train: dict[str, Any], copies: int
) -> None:
    config = replace(settings(images, model, **train), augment=augment)
    assert resolve(config).schedule.copies == copies


@pytest.mark.parametrize("augment", [MIXUP, CUTMIX])
@pytest.mark.parametrize("copies", [0, 3])
def test_where_images_are_mixed_the_cache_changes_nothing_and_a_note_says_so(
    images: Path, augment: AugmentConfig, copies: int
) -> None:
    plans = [
        resolve(replace(settings(images, feature_cache=cache, feature_copies=copies), augment=augment))
        for cache in ("auto", "off")
    ]
    assert plans[0].run_id == plans[1].run_id
    assert not any(plan.splits_network for plan in plans)
    assert all("no feature cache" in " ".join(plan.notes) for plan in plans)
    unmixed = resolve(replace(settings(images), augment=CROP))
    assert unmixed.splits_network
    assert "no feature cache" not in " ".join(unmixed.notes)
    whole = resolve(replace(settings(images, "scratch_cnn"), augment=augment))
    assert "no feature cache" not in " ".join(whole.notes)


def test_without_a_frozen_part_in_front_every_epoch_augments_anew(images: Path) -> None:
    config = settings(images, "scratch_cnn")
    assert resolve(replace(config, model=replace(config.model, trainable=["block1"]))).schedule.copies == 0
    assert resolve(replace(config, model=replace(config.model, trainable=["fc"]))).schedule.copies == 4


def test_copies_of_images_that_do_not_change_are_refused(images: Path) -> None:
    with pytest.raises(ConfigError, match="feature_copies=4 makes equal copies"):
        resolve(replace(settings(images, feature_copies=4), augment=STILL))


def test_shares_that_give_the_same_resolution_are_the_same_run(images: Path) -> None:
    config, ops = settings(images), {"crop": {"min_area": 0.4}}
    first, second, other = (resolve(replace(config, augment=AugmentConfig(ops, share))) for share in (0.86, 0.85, 0.7))
    assert first.run_id == second.run_id != other.run_id


def test_room_on_the_disk_does_not_matter(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run_id(images)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: (10**12, 10**12, 0))
    assert run_id(images) == before


def test_a_precision_that_the_device_lacks_is_refused(images: Path) -> None:
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        run_id(images, precision="fp16", device="cpu")


def test_a_renamed_private_function_is_the_same_run(images: Path, tmp_path: Path) -> None:
    source = Path(deepbloom.__file__).parent
    package = Path(shutil.copytree(source, tmp_path / "src" / "deepbloom"))
    shutil.copytree(source.parents[1] / "conf", tmp_path / "conf")
    for path in package.rglob("*.py"):
        path.write_text(path.read_text().replace("_feature_copies", "_copies_of_features") + "\n# edited\n")
    code = "import sys; from test_resolve import run_id; print(run_id(sys.argv[1]))"
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join(map(str, (tmp_path / "src", tests, tests / "engine")))
    done = subprocess.run(
        [sys.executable, "-c", code, str(images)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == run_id(images)


def test_a_batch_larger_than_the_training_split_shrinks_to_it(images: Path) -> None:
    plan = resolve(settings(images, batch_size=100))
    count = len(plan.split.train)
    assert plan.config.train.batch_size == count < 100
    assert plan.notes == (f"train.batch_size=100 is reduced to {count}, the number of training images.",)
    assert {run_id(images, batch_size=size) for size in (count, count + 1, 100)} == {plan.run_id}
    assert run_id(images, batch_size=count - 1) != plan.run_id
    assert resolve(settings(images, batch_size=count)).notes == ()


@pytest.mark.parametrize(("augment", "shown"), [("crop", 6), ("from_scratch", 2)])
def test_more_copies_than_epochs_that_show_them_are_refused(images: Path, augment: str, shown: int) -> None:
    given = replace(settings(images, epochs=6), augment=recipe("scratch_cnn", augment=augment).augment)
    resolve(replace(given, train=replace(given.train, feature_copies=shown)))
    with pytest.raises(ConfigError, match=rf"train.feature_copies={shown + 1} is more than {shown} epochs"):
        resolve(replace(given, train=replace(given.train, feature_copies=shown + 1)))


def test_a_network_of_timm_is_timms_even_where_deepbloom_has_one_of_that_name(images: Path) -> None:
    timm = pytest.importorskip("timm")
    data = {"name": "imagefolder", "root": str(images)}
    arch = {"model.arch": "resnet18", "model.weights": "none"}
    plan = resolve(recipe("timm", data=data, **arch))
    name = f"resnet18.{timm.get_pretrained_cfg('resnet18').tag}"
    assert plan.config.model.arch == plan.identity.settings["model.arch"] == name
    assert plan.notes[0] == f"model.arch=resnet18 is timm's {name}."
    tensors = set(create_model(plan.config.model.arch, 3).state_dict())
    assert tensors == set(timm.create_model("resnet18", num_classes=3).state_dict())
    with pytest.raises(ConfigError, match=r"timm has no such network. DeepBloom's own is model=scratch_cnn\."):
        resolve(recipe("timm", data=data, **arch | {"model.arch": "scratch_cnn"}))


def test_weights_of_another_split_of_the_same_images_are_refused(images: Path, tmp_path: Path) -> None:
    plan = resolve(settings(images, "scratch_cnn"))
    network = create_model("scratch_cnn", 3)
    write_tensors(tmp_path / "model.safetensors", network.state_dict(), plan.model_header())
    again = settings(images, "scratch_cnn", str(tmp_path))
    assert resolve(again).weights
    other = replace(again, data=replace(again.data, split=SplitConfig(seed=7)))
    with pytest.raises(CheckpointError, match="another split of the images"):
        resolve(other)
    bare = tmp_path / "bare.safetensors"  # nothing says what trained it
    save_file(dict(network.state_dict()), bare)
    assert resolve(replace(other, model=replace(other.model, weights=str(bare)))).weights


def test_weights_of_other_images_are_taken(images: Path, photos: Path, tmp_path: Path) -> None:
    plan = resolve(settings(images, "scratch_cnn"))
    write_tensors(tmp_path / "model.safetensors", create_model("scratch_cnn", 3).state_dict(), plan.model_header())
    next(photos.rglob("*.png")).unlink()
    assert resolve(settings(photos, "scratch_cnn", str(tmp_path))).weights


def test_processes_that_train_together_are_part_of_the_identity(images: Path) -> None:
    plan = resolve(settings(images))
    assert "train.processes" not in plan.identity.settings
    assert replace(plan, processes=1).run_id == plan.run_id
    ids = {replace(plan, processes=count).run_id for count in (1, 2, 3)}
    assert len(ids) == 3
