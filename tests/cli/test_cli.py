"""What a user sees after a typo: one or two lines that say what to do, exit code 2, and no traceback."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepbloom.cli import main as cli
from deepbloom.config.commands import COMMANDS, Command
from deepbloom.config.settings import AugmentConfig
from deepbloom.data.resolution import train_resolutions
from deepbloom.engine.checkpoint import MODEL_KIND, read_tensors, write_tensors
from deepbloom.models.registry import get_architecture

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.hydra
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["trian"], ["Unknown command 'trian'", "Did you mean 'train'"]),
        (["train", "model=resnet19"], ["Unknown model 'resnet19'", "resnet18_partial"]),
        (["train", "data=flowers"], ["Unknown data 'flowers'", "flowers102"]),
        (["train", "train.epoch=3"], ["train.epoch", "Did you mean 'train.epochs'"]),
        (["train", "train.epochs=0"], ["train.epochs=0", "at least 1"]),
        (["train", "train.epochs=many"], ["train.epochs", "many"]),
        (["train", "train.device=tpu"], ["tpu", "auto, cpu, cuda, mps"]),
        (["train", "train.precision=int4"], ["int4", "bf16"]),
        (["train", "data.split.kind=random"], ["random", "stratified"]),
        (["train", "data.split.test_fraction=1.5"], ["test_fraction=1.5"]),
        (["train", "data=imagefolder"], ["data.root"]),
        (["train", "data=imagefolder", "data.root=/nowhere"], ["/nowhere"]),
        (["train", "epochs"], ["'epochs'", "key=value"]),
        (["train", "optimizer.lr=${oc.env:HOME}"], ["oc.env"]),
        (["train", "--experimental-rerun", "x.pickle"], ["Unknown option", "--multirun", "--cfg job"]),
        (["train", "--config-dir", "x"], ["Unknown option '--config-dir'", "--help"]),
        (["eval", "-x"], ["Unknown option '-x'"]),
        (["--frobnicate"], ["Unknown option '--frobnicate'", "--version"]),
        (["train", "--cfg"], ["--cfg job"]),
        (["train", "-m", "--cfg", "job"], ["exclude each other"]),
        (["eval", "-m", "ckpt=a,b"], ["-m is for deepbloom train"]),
        (["train", "seed=0,1"], ["add -m"]),
        (["train", "hydra.run.dir=x"], ["has no key 'hydra.run.dir'"]),
        (["train", "target=x"], ["deepbloom train has no key 'target'"]),
        (["train", "model=null"], ["Unknown model 'null'"]),
        (["train", "~model"], ["~model", "~augment.ops.flip"]),
        (["train", "~train.epochs"], ["~train.epochs", "only an operation can be removed"]),
        (["train", "~augment.ops.mixup"], ["~augment.ops.mixup: the recipe has no such operation"]),
        (["train", "model.weights=${nope}"], ["model.weights: ${nope} is the value of another key"]),
        (
            ["train", "-m", "seed=0,1", "hydra.sweeper.n_trials=3"],
            ["Nothing reads hydra.sweeper.n_trials", "hydra/sweeper=optuna"],
        ),
        (
            ["train", "-m", "seed=0,1", "hydra.launcher.n_jobs=2"],
            ["Nothing reads hydra.launcher.n_jobs", "hydra/launcher="],
        ),
        (["train", "~train"], ["only an operation can be removed"]),
        (["train", "train=null"], ["train=null", "train.epochs=VALUE"]),
        (["train", "train={epoch: 3}"], ["'train.epoch'"]),
        (["train", "output_dir=[a,b]"], ["output_dir takes one value, not a list"]),
        (["train", "train.epochs=[3]"], ["train.epochs=[3]", "a whole number"]),
        (["train", "train.epochs=3.5"], ["train.epochs=3.5", "a whole number"]),
        (["train", "train.compile=maybe"], ["train.compile='maybe'", "true or false"]),
        (["train", "augment.ops=null"], ["augment.ops=null", "{rotate: {degrees: 20}}"]),
        (["explain", "ckpt=[a,b]"], ["ckpt takes one value"]),
        (["explain", "ckpt=a,b"], ["No checkpoint at a,b"]),
        (["gradcam", "ckpt=a", "image=b", "method=gradcam,layercam"], ["'method=[gradcam,layercam]'"]),
        (["train", "model.trainable=layer4,fc"], ["'model.trainable=[layer4,fc]'"]),
        (["eval"], ["ckpt=RUN_OR_FILE"]),
        (["eval", "ckpt=/nowhere"], ["/nowhere"]),
        (["predict", "ckpt=x"], ["image="]),
        (["report", "runs=/nowhere"], ["/nowhere"]),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(
    deepbloom: Run, arguments: list[str], parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = deepbloom(*arguments)
    assert code == 2, err
    for part in parts:
        assert part in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= 2
    assert out == ""


@pytest.fixture
def odd_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    return {
        "long": "a" * 300,
        "long below": f"a/{'b' * 5000}",
        "nobody's home": "~nobody-of-that-name/x",
        "loop": "loop",
    }


@pytest.mark.parametrize("kind", ["long", "long below", "nobody's home", "loop"])
@pytest.mark.parametrize(
    "line",
    [
        "predict ckpt=PATH image=x",
        "predict ckpt=RUN image=PATH",
        "gradcam ckpt=RUN image=PATH",
        "eval ckpt=PATH",
        "eval ckpt=RUN data.root=PATH",
        "eval ckpt=RUN output_dir=PATH/x",
        "train data=imagefolder data.root=PATH",
        "train data=flowers102 data.root=PATH",
        "train data=imagefolder data.root=IMAGES train.epochs=1 train.batch_size=1 output_dir=PATH/x",
        "eval ckpt=RUN data.pixel_cache=PATH/x",
        "data data=imagefolder data.root=PATH",
        "report runs=PATH",
        "runs runs=PATH",
    ],
)
def test_a_path_that_can_be_nowhere_is_a_persons_mistake(
    line: str, kind: str, deepbloom: Run, odd_paths: dict[str, str], trained_run: Path, images: Path
) -> None:
    given = {"PATH": odd_paths[kind], "RUN": str(trained_run), "IMAGES": str(images)}
    for name, value in given.items():
        line = line.replace(name, value)
    code, _, err = deepbloom(*line.split())
    makes_it = kind == "nobody's home" and line.startswith("eval") and line.endswith("/x/x")
    assert code == (0 if makes_it else 2), err
    assert "Traceback" not in err
    assert makes_it or "deepbloom: " in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("data.split.fold=1", "Nothing reads data.split.fold here"),
        ("data.split.folds=3 data.split.fold=3", "at most 2."),
        ("seed=4294967296", "at most 4294967295."),
        ("optimizer.lr=inf", "give a finite number greater than 0."),
        ("train.num_threads=3000000000", "at most 1024."),
        ("train.num_workers=3000000000", "at most 1024."),
    ],
)
def test_a_range_is_named_exactly(deepbloom: Run, words: str, said: str) -> None:
    code, _, err = deepbloom("train", *words.split(), "--cfg", "job")
    assert code == 2
    assert said in err


def test_too_long_a_name_is_no_lack_of_space(deepbloom: Run) -> None:
    code, _, err = deepbloom("predict", f"ckpt={'a' * 300}", "image=x")
    assert code == 2
    assert "Free space" not in err


def test_no_name_is_an_instruction_to_the_terminal(
    deepbloom: Run, trained_run: Path, images: Path, tmp_path: Path
) -> None:
    evil = "$\\q$\x1b]0;title\x07\x1b[31m\u202e\n\r\x9b2J"
    tensors, header = read_tensors(trained_run / "model.safetensors", MODEL_KIND)
    write_tensors(tmp_path / "model", tensors, header | {"classes": [f"{evil}{n}" for n in range(3)]})
    (tmp_path / "data").mkdir()
    for number, folder in enumerate(sorted(images.iterdir())):
        shutil.copytree(folder, tmp_path / "data" / f"{evil}{number}")
    for line in (
        ["predict", f"ckpt={tmp_path / 'model'}", f"image={tmp_path / 'data'}"],
        ["data", "data=imagefolder", f"data.root={tmp_path / 'data'}", f"output_dir={tmp_path / 'out'}"],
    ):
        code, out, err = deepbloom(*line)
        assert code == 0, err
        assert "\\x1b[31m\\u202e\\n\\r\\x9b2J1" in out
        assert not {sign for sign in out if not sign.isprintable()} - {"\n"}
    _, out, _ = deepbloom("predict", f"ckpt={trained_run}", f"image={images / 'lime'}")
    assert "lime/00.png\n" in out  # ordinary names stay as they are


def test_changes_to_a_runs_data_that_nothing_reads_are_refused(deepbloom: Run, trained_run: Path) -> None:
    code, _, err = deepbloom("eval", f"ckpt={trained_run}", "data.num_classes=3")
    assert (code, "Nothing reads data.num_classes here" in err) == (2, True)


def test_a_batch_of_one_image_is_refused_before_training(deepbloom: Run, images: Path, tmp_path: Path) -> None:
    code, _, err = deepbloom(
        "train",
        "model=scratch_cnn",
        "data=imagefolder",
        f"data.root={images}",
        f"output_dir={tmp_path / 'run'}",
        "train.batch_size=1",
    )
    assert code == 2
    assert "train.batch_size=1 makes steps of 1 of the 27 training images, and BatchNorm needs at least two." in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.hydra
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_for_people(deepbloom: Run, command: str) -> None:
    code, out, _ = deepbloom(command, "--help")
    assert code == 0
    assert out.startswith(f"deepbloom {command}")
    assert f"  deepbloom {command}" in out
    assert max(map(len, out.splitlines())) <= 150


@pytest.mark.hydra
def test_help_lists_the_choices(deepbloom: Run) -> None:
    _, out, _ = deepbloom("train", "--help")
    for name in ("efficientnet_lite0_partial", "flowers102", "one_cycle", "train.batch_size", "data.split.seed=42"):
        assert name in out


@pytest.mark.hydra
def test_help_names_exactly_the_methods_there_are(deepbloom: Run) -> None:
    from deepbloom.explain.methods import METHODS

    for command in ("gradcam", "explain"):
        _, out, _ = deepbloom(command, "--help")
        listed = out.partition("\n  method ")[2].partition("\n\n")[0]
        assert [name.strip() for name in listed.split(",")] == list(METHODS)


def test_frozen_networks_see_images_as_they_are_unless_told_otherwise(deepbloom: Run) -> None:
    for arguments, zooms in (
        (["model=resnet18_frozen"], False),
        (["model=efficientnet_lite0_frozen"], False),
        (["model=resnet18_frozen", "augment=crop"], True),
        (["model=resnet18_partial"], True),
        (["model=scratch_cnn"], True),
    ):
        code, out, _ = deepbloom("train", *arguments, "--cfg", "job")
        assert code == 0
        assert ("min_area" in out) == zooms, arguments
        assert ("flip: {}" in out) == zooms, arguments
    code, out, _ = deepbloom("train", "model=resnet18_frozen", "experiment=as_published", "--cfg", "job")
    assert (code, "flip: {}" in out) == (0, True)


@pytest.mark.parametrize("model", ["scratch_cnn", "mini_resnet", "resnet18_frozen", "efficientnet_lite0_partial"])
def test_a_chosen_recipe_replaces_a_models_own(deepbloom: Run, model: str) -> None:
    def settings(*arguments: str) -> dict[str, Any]:
        code, out, _ = deepbloom("train", f"model={model}", *arguments, "--cfg", "job")
        assert code == 0
        return dict(yaml.safe_load(out))

    published = settings("experiment=as_published")
    chosen = {key: published["optimizer"][key] for key in ("name", "lr", "weight_decay")}
    assert chosen == {"name": "adam", "lr": 3e-4, "weight_decay": 0.0}
    assert published["scheduler"]["name"] == "step"
    assert (published["train"]["epochs"], published["train"]["batch_size"]) == (20, 32)
    assert settings("optimizer=sgd")["optimizer"] == settings("experiment=as_published", "optimizer=sgd")["optimizer"]
    assert settings("optimizer=adamw")["optimizer"]["lr"] == 1e-3
    assert settings("optimizer.lr=0.5", "optimizer=sgd")["optimizer"]["lr"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "sides"),
    [
        (["model=scratch_cnn"], (64, 96, 112)),
        (["model=mini_resnet"], (64, 96, 112)),
        (["model=mini_resnet", "experiment=long"], (64, 96, 112)),
        (["model=resnet18_partial"], (192,)),
        (["model=efficientnet_b0_partial", "augment=mixup"], (192,)),
        (["model=resnet18_frozen"], (224,)),
        (["model=resnet18_partial", "augment.train_resolution=1"], (224,)),
        (["model=mini_resnet", "augment=crop"], (128,)),
        (["model=mini_resnet", "experiment=as_published"], (144,)),
    ],
)
def test_training_images_are_as_large_as_the_readme_says(
    deepbloom: Run, arguments: list[str], sides: tuple[int, ...]
) -> None:
    code, out, _ = deepbloom("train", *arguments, "--cfg", "job")
    assert code == 0
    settings = yaml.safe_load(out)
    size = get_architecture(settings["model"]["arch"]).preprocessing.size
    assert train_resolutions(AugmentConfig(**settings["augment"]), size, epochs=20) == sides


def test_cfg_shows_the_settings_without_running(deepbloom: Run) -> None:
    code, out, _ = deepbloom("train", "model=resnet18_partial", "train.epochs=7", "--cfg", "job")
    assert code == 0
    assert "name: resnet18_partial" in out
    assert "weights: imagenet" in out
    assert "epochs: 7" in out


@pytest.mark.hydra
def test_nothing_heavy_is_imported_for_help_or_settings() -> None:
    check = (
        "import sys; from deepbloom.cli import main as cli\n"
        "cli.guarded(lambda: cli.dispatch(sys.argv[1:]))\n"
        "print(sorted({'torch', 'hydra', 'matplotlib', 'scipy'} & set(sys.modules)), file=sys.stderr)"
    )
    for arguments, allowed in ((["--help"], "[]"), (["train", "--cfg", "job"], "['hydra']")):
        done = subprocess.run([sys.executable, "-c", check, *arguments], capture_output=True, text=True, check=True)
        assert done.stderr.strip() == allowed


def test_importing_the_package_loads_neither_torch_nor_hydra() -> None:
    check = "import sys, deepbloom; print({'torch', 'hydra', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


THROWAWAY = """
from dataclasses import dataclass

@dataclass
class CountConfig:
    number: int = 3
    '''How far to count.'''

def run(config: CountConfig) -> None:
    print(*range(config.number))
"""


def test_a_command_is_one_module_and_one_row(deepbloom: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "counting.py").write_text(THROWAWAY)
    monkeypatch.syspath_prepend(tmp_path)
    row = Command("Count.", "counting:CountConfig", ("deepbloom count number=5",), "counting:run")
    monkeypatch.setitem(COMMANDS, "count", row)
    assert ["count", "Count."] in [line.split() for line in deepbloom("--help")[1].splitlines()]
    _, out, _ = deepbloom("count", "--help")
    assert "  deepbloom count number=5\n" in out
    assert "  number=3\n      How far to count." in out
    assert deepbloom("count", "number=4")[:2] == (0, "0 1 2 3\n")
    assert deepbloom("count", "number=4", "--cfg", "job")[:2] == (0, "number: 4\n")
    code, _, err = deepbloom("count", "numbr=4")
    assert (code, "Did you mean 'number'?" in err) == (2, True)


def test_a_bug_shows_its_traceback_and_exit_code_1(capsys: pytest.CaptureFixture) -> None:
    assert cli.guarded(lambda: 1 / 0) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_training_says_what_it_does_on_stderr_and_in_its_log(deepbloom: Run, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = (
        "model=scratch_cnn",
        "data=imagefolder",
        f"data.root={images}",
        "train.epochs=1",
        "train.batch_size=99",
    )
    code, out, err = deepbloom("train", *arguments, f"output_dir={folder}")
    assert code == 0
    assert "epoch   1/1" in err
    assert "test accuracy" in err
    assert "train.batch_size=99 is reduced to 27, the number of training images." in err
    assert yaml.safe_load((folder / "config.yaml").read_text())["train"]["batch_size"] == 27
    assert "epoch   1/1" in (folder / "train.log").read_text()
    assert out.strip() == str(folder)
