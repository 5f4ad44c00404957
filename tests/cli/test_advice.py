"""What the command line answers to the words of other programs and to slips: what to write instead."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deepbloom import __version__
from deepbloom.cli.advice import ABSENT, WRITE
from deepbloom.cli.compose import compose
from deepbloom.config.commands import COMMANDS
from deepbloom.config.groups import groups_of
from deepbloom.config.schema import is_key
from deepbloom.errors import closest

pytestmark = pytest.mark.hydra

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with images, a folder of photos, and an archive."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg", "-dash.jpg", "epoch=9.jpg", "photos.zip"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("train --model resnet18_partial", "written without dashes: model=resnet18_partial."),
        ("train --model=resnet18_partial", "written without dashes: model=resnet18_partial."),
        ("predict --ckpt x image=a.jpg", "written without dashes: ckpt=x."),
        ("predict --model x image=a.jpg", "written without dashes: ckpt=x."),
        ("train --lr 0.1 seed=1", "written without dashes: optimizer.lr=0.1."),
        ("train --batch-size=8", "written without dashes: train.batch_size=8."),
        ("train resnet18_partial", "Write deepbloom train model=resnet18_partial"),
        ("train photos seed=1", "Write deepbloom train data=imagefolder data.root=photos seed=1"),
        ("train epochs", "'epochs'"),
        ("train seed", "'seed' has no value: write seed=VALUE."),
        ("predict outputs/RUN flower.jpg", "Write deepbloom predict ckpt=outputs/RUN image=flower.jpg"),
        ("predict flower.jpg outputs/RUN", "Write deepbloom predict image=flower.jpg ckpt=outputs/RUN"),
        ("predict ckpt=x a.jpg b.jpg", "Write deepbloom predict ckpt=x 'image=[a.jpg,b.jpg]'"),
        ("predict ckpt=x image=a.jpg b.jpg", "'b.jpg' is a second image: quote the pattern, as in 'image=*.jpg'"),
        ("predict ckpt=x -dash.jpg", "Write deepbloom predict ckpt=x image=-dash.jpg"),
        ("predict ckpt=x epoch=9.jpg", "Write deepbloom predict ckpt=x image=epoch=9.jpg"),
        ("runs outputs", "Write deepbloom runs runs=outputs"),
        ("data photos", "Write deepbloom data data=imagefolder data.root=photos"),
        ("predict ckpt = X", "Write ckpt=X, without blanks around the equals sign."),
        ("predict ckpt= X", "Write ckpt=X, without blanks around the equals sign."),
        ("predict ckpt =X image=a.jpg", "Write ckpt=X, without blanks around the equals sign."),
        ("train data=photos", "write data=imagefolder data.root=photos."),
        ("train model=convnext_atto", "model=timm model.arch=convnext_atto."),
        ("train optimizer=adamW", "Did you mean 'adamw'?"),
        ("train train.device=gpu", "Did you mean 'cuda'?"),
        ("gradcam ckpt=a,b image=a.jpg", "write 'ckpt=[a,b]'"),
        ("train lr=0.1", "Write optimizer.lr=0.1."),
        ("train train.lr=0.1", "Write optimizer.lr=0.1."),
        ("train lr0=0.1", "Write optimizer.lr=0.1."),
        ("train batch=8", "Write train.batch_size=8."),
        ("predict batch=8", "Write batch_size=8."),
        ("train workers=2", "Write train.num_workers=2."),
        ("train pretrained=true", "Write model.weights=imagenet."),
        ("train weights=x.pth", "Write model.weights=x.pth."),
        ("eval weights=x.pth", "Write ckpt=x.pth."),
        ("predict source=a.jpg", "Write image=a.jpg."),
        ("train exp_name=x", "Write output_dir=x."),
        ("train epochs=3", "Did you mean 'train.epochs'?"),
        ("train patience=3", "There is no early stopping"),
        ("train imgsz=224", "augment.train_resolution"),
        ("train input_size=224", "augment.train_resolution"),
        ("train num_classes=3", "Each folder of images is a class"),
        (
            "train zzz=1",
            "It has augment.*, data.*, experiment, logger.*, model.*, name, optimizer.*, output_dir,",
        ),
    ],
)
def test_the_answer_says_what_to_write(deepbloom: Run, files: Path, line: str, advice: str) -> None:
    code, out, err = deepbloom(*line.split())
    assert (code, out) == (2, "")
    assert advice in err
    assert len(err.splitlines()) == 1
    assert len(err) < 450


def test_each_word_of_another_program_leads_to_a_key_of_some_command() -> None:
    for words, ours in WRITE.items():
        for name in (candidate.partition("=")[0] for candidate in ours.split()):
            schemas = [row.settings for row in COMMANDS.values()]
            assert any(is_key(schema, name) or name in groups_of(schema) for schema in schemas), words
    every = " ".join([*WRITE, *ABSENT]).split()
    assert len(every) == len(set(every))
    assert [word for word in every if is_key(COMMANDS["train"].settings, word)] == ["model"]  # of other commands


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("resnet18", ["resnet18_frozen", "resnet18_partial"]),
        ("ResNet18_Partial", ["resnet18_partial"]),
        ("mini_resnt", ["mini_resnet"]),
        ("epochs", ["train.epochs"]),
        ("train.epoch", ["train.epochs"]),
        ("dropout", []),
        ("pretrained", []),
        ("input_size", []),
        ("--model", []),
    ],
)
def test_a_suggestion_is_near_what_was_typed(typed: str, near: list[str]) -> None:
    names = ["resnet18_frozen", "resnet18_partial", "mini_resnet", "scratch_cnn", "train.epochs", "train.batch_size"]
    assert closest(typed, [*names, "train", "data.root", "--help"]) == near


@pytest.mark.parametrize("arguments", [["--version"], ["train", "--version"], ["train", "seed=1", "--version"]])
def test_the_version_is_that_of_deepbloom(deepbloom: Run, arguments: list[str]) -> None:
    assert deepbloom(*arguments) == (0, f"deepbloom {__version__}\n", "")


def test_help_may_stand_before_the_command(deepbloom: Run) -> None:
    assert deepbloom("help", "eval") == deepbloom("--help", "eval") == deepbloom("eval", "--help")


@pytest.fixture
def runs(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an old and a new run, and a partial one that is newer."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("old", "sweep/new", "partial")):
        shutil.copytree(trained_run, tmp_path / "outputs" / name)
        os.utime(tmp_path / "outputs" / name / "metrics.json", (number, number))
    (tmp_path / "outputs/partial/metrics.json").unlink()
    return tmp_path


def test_last_is_the_newest_complete_run(runs: Path) -> None:
    assert compose("eval", ["ckpt=last"]).ckpt == "outputs/sweep/new"
    assert compose("gradcam", ["ckpt=[last,outputs/old]", "image=x"]).ckpt == ["outputs/sweep/new", "outputs/old"]
    (runs / "last").mkdir()
    (runs / "last" / "model.safetensors").touch()
    assert compose("eval", ["ckpt=last"]).ckpt == "last"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["eval"], "deepbloom eval needs ckpt=RUN_OR_FILE."),
        (["predict", "ckpt=", "image=x"], "deepbloom predict needs ckpt=RUN_OR_FILE."),
        (["eval", "ckpt=outputs"], "outputs holds no run of its own."),
    ],
)
def test_without_a_run_the_newest_ones_are_named(
    deepbloom: Run, runs: Path, arguments: list[str], problem: str
) -> None:
    code, _, err = deepbloom(*arguments)
    said = f"{problem} The newest runs: outputs/sweep/new, outputs/old. ckpt=last takes the first."
    assert (code, err) == (2, f"deepbloom: {said}\n")


def test_without_any_run_training_comes_first(deepbloom: Run, files: Path) -> None:
    for arguments in (["eval"], ["eval", "ckpt=last"]):
        code, _, err = deepbloom(*arguments)
        assert (code, "There is no complete run in outputs; deepbloom train makes one." in err) == (2, True)


def test_a_run_or_file_is_taken_as_it_is(runs: Path) -> None:
    """The control: a partial run, a file and a path that is nowhere are left to the command."""
    for ckpt in ("outputs/partial", "outputs/old/model.safetensors", "nowhere"):
        assert compose("eval", [f"ckpt={ckpt}"]).ckpt == ckpt
