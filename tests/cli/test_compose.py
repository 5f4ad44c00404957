"""Settings are what was typed, or what was given from Python, and nothing else."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hypothesis import example, given, settings
from hypothesis import strategies as st

import deepbloom
from deepbloom.cli.compose import compose, multirun, recipe
from deepbloom.config.data_settings import DataConfig
from deepbloom.config.groups import choices
from deepbloom.config.schema import from_dict, keys
from deepbloom.config.settings import RunConfig
from deepbloom.errors import ConfigError
from hydra_plugins.deepbloom_launcher import GridSweeper

pytestmark = pytest.mark.hydra

Run = Callable[..., tuple[int, str, str]]
ODD = ("2024_06", "1e3", "null", "12:30", "true", "a b", " a ", "a=b", "{a:1}", "a,b", "it's", "'it's'", '"', "a\\", "")
ODD += (
    "~nobody-of-that-name/x",
    "grüße (1)",
    "$x",
    "${x",
    "a'b\"c\\'",
    "[a",
    "a]",
    "@a|b?*",
    "-1",
    "0x1F",
    "a\n#b",
    "%",
)


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("key", ["output_dir", "model.weights"])
def test_a_path_is_text_exactly_as_typed(key: str, value: str) -> None:
    composed = compose("train", [f"{key}={value}"])
    assert composed.output_dir == value if key == "output_dir" else composed.model.weights == value


@settings(deadline=None, max_examples=30)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
@example("a\\${b")
@example("\\'")
def test_any_text_is_a_path(text: str) -> None:
    if "${" in text or text in ("???", "~") or text[0] in "~'\"[":
        return
    assert compose("report", [f"runs={text}"]).runs == text


@pytest.mark.parametrize("value", ["2024_06", "1e3", "null", "12:30", "a,b", "~rose"])
@pytest.mark.parametrize("key", ["target", "contrast"])
def test_a_class_name_is_text_exactly_as_typed(key: str, value: str) -> None:
    assert getattr(compose("gradcam", ["ckpt=x", "image=y", f"{key}={value}"]), key) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("'a, b'", "a, b"),
        ('"null"', "null"),
        (r"'it\'s'", "it's"),
        ("${output_dir}/x", "out/x"),
        ("a (1)/${output_dir}", "a (1)/out"),
        ("[a.jpg,b.jpg]", ["a.jpg", "b.jpg"]),
        ("[2024_06, 1e3,null, 'c, d',it's]", ["2024_06", "1e3", "null", "c, d", "it's"]),
        ("[${output_dir}/a,b]", ["out/a", "b"]),
        ("[]", None),
    ],
)
def test_three_forms_of_hydra_stay(value: str, expected: Any) -> None:
    arguments = ["ckpt=x", "output_dir=out", f"image={value}"]
    if expected is None:
        with pytest.raises(ConfigError, match="needs image="):
            compose("gradcam", arguments)
    else:
        assert compose("gradcam", arguments).image == expected


def test_a_list_in_brackets_is_a_file_if_one_has_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["ckpt=x", "image=[a,b]"]
    assert compose("predict", arguments).image == ["a", "b"]
    (tmp_path / "[a,b]").mkdir()
    assert compose("predict", arguments).image == "[a,b]"


NAMES = (
    *("epoch=9-step=8.jpg", "a,b.jpg", "IMG (1).jpg", "[group] rose.jpg", "rose#1.jpg", "100%.jpg", "it's.jpg"),
    *("${HOME}.jpg", "$5.jpg", r"back\slash.jpg", r"a\${b}.jpg", r"a\\${b", "~tilde.jpg", "übung 花.jpg"),
    *("trailing .jpg", "null.jpg", "a:b.jpg", "-dash.jpg", "2024", "1e3", "'q'", "[a]", "[a,b]", "[a] [b]"),
    *('"quoted".jpg', "???"),
)


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_an_existing_file_is_taken_as_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    composed = compose("gradcam", [f"ckpt={name}", f"image={name}", f"output_dir={name}"])
    assert (composed.ckpt, composed.image, composed.output_dir) == (name, name, name)
    assert compose("eval", ["ckpt=x", f"data.root={name}"]).data == {"root": name}


def test_only_paths_look_at_the_files_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a class name or a layer means the same in every folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("[a,b]", "${ckpt}", "'q'"):
        (tmp_path / name).touch()
    composed = compose("gradcam", ["ckpt=x", "image=y", "layer=[a,b]", "target=${ckpt}", "contrast='q'"])
    assert (composed.layer, composed.target, composed.contrast) == (["a", "b"], "x", "q")


@pytest.mark.parametrize("value", ["[2024] roses/*.jp[g]", "[ab]*.jpg", "*[ab]", "[a] [b]", "[a]b]"])
def test_brackets_of_a_pattern_are_no_list(value: str) -> None:
    assert compose("predict", ["ckpt=x", f"image={value}"]).image == value


@pytest.mark.parametrize("value", ["1_0", "1e3", "null", "resnet10t.c3_in1k"])
def test_names_are_text_exactly_as_typed(value: str) -> None:
    assert compose("train", ["model=timm", f"model.arch={value}"]).model.arch == value
    assert compose("train", [f"model.trainable=[{value},fc]"]).model.trainable == [value, "fc"]


def test_operations_given_as_a_whole_replace_those_of_the_recipe() -> None:
    ops: dict[str, Any]
    for ops in ({}, {"flip": {}}, {"flip": {}, "rotate": {"degrees": 7.0}}):
        typed = str(ops).replace("'", "")
        composed = compose("train", ["model=mini_resnet", f"augment.ops={typed}"]).augment
        assert list(composed.ops.items()) == list(ops.items())
        assert composed == recipe("mini_resnet", **{"augment.ops": ops}).augment
        assert composed == recipe("mini_resnet", augment={"ops": ops}).augment
    added = ["augment.ops.rotate.degrees=5", "augment.ops={flip: {}}", "augment.ops.mixup.alpha=0.3"]
    assert compose("train", added).augment.ops == {"flip": {}, "mixup": {"alpha": 0.3}}
    removed = compose("train", ["~augment.ops.flip"]).augment.ops
    assert removed.keys() == compose("train", []).augment.ops.keys() - {"flip"}


def test_a_tilde_is_the_home_folder_in_paths_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/rose")
    composed = compose("gradcam", ["ckpt=[~/a,~/b]", "image=~/c", "target=~/d"])
    assert (composed.ckpt, composed.image, composed.target) == (["/home/rose/a", "/home/rose/b"], "/home/rose/c", "~/d")
    assert compose("eval", ["ckpt=x", "data.root=~/d"]).data == {"root": "/home/rose/d"}
    assert recipe("mini_resnet", output_dir="~/x").output_dir == "/home/rose/x"
    assert recipe("mini_resnet", output_dir=Path("~/x")).output_dir == "/home/rose/x"
    assert recipe("mini_resnet", train={"teacher": [Path("a"), "b"]}).train.teacher == ["a", "b"]


class Noting(GridSweeper):
    """Composes the jobs and runs none."""

    seen: list[RunConfig]

    def sweep(self, arguments: list[str]) -> Any:
        Noting.seen = [self.compose(job) for job in BasicSweeper.split_arguments(self.parse(arguments), None)[0]]


@pytest.fixture
def jobs_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[RunConfig]]:
    """Return a function that composes the jobs of a multirun."""
    Noting.__module__ = "hydra_plugins.noting"  # Hydra takes plugins from there only
    monkeypatch.setitem(sys.modules, Noting.__module__, sys.modules[__name__])
    Plugins.instance().register(Noting)
    node = {"_target_": "hydra_plugins.noting.Noting"}
    ConfigStore.instance().store(group="hydra/sweeper", name="noting", node=node)

    def jobs_of(*arguments: str) -> list[RunConfig]:
        multirun("train", ["hydra/sweeper=noting", *arguments])
        return Noting.seen

    return jobs_of


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024_06,null,1e3", ["2024_06", "null", "1e3"]),
        ("12:30", ["12:30"]),
        ("'a,b',c d", ["a,b", "c d"]),
        ("a=1, {b} ,it's", ["a=1", "{b}", "it's"]),
        ("w/${seed},x", ["w/7", "x"]),
        ("~/a,b", ["/home/rose/a", "b"]),
    ],
)
def test_commas_separate_values_in_a_multirun(
    value: str, expected: list[str], jobs_of: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/rose")
    assert [job.model.weights for job in jobs_of("seed=7", f"model.weights={value}")] == expected


def test_a_comma_in_the_name_of_a_folder_makes_no_second_job(
    jobs_of: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    roots = ["data=imagefolder", "data.root=my photos,2024"]
    assert [job.data.root for job in jobs_of(*roots)] == ["my photos", "2024"]
    (tmp_path / "my photos,2024").mkdir()
    assert [job.data.root for job in jobs_of(*roots)] == ["my photos,2024"]
    (tmp_path / "${x},b").mkdir()
    assert [job.data.root for job in jobs_of("data=imagefolder", "data.root=${x},b")] == ["${x},b"]


def test_a_multirun_combines_values_and_each_job_is_checked(jobs_of: Callable) -> None:
    jobs = jobs_of("model=scratch_cnn,mini_resnet", "seed=0,1")
    assert [(job.model.name, job.seed) for job in jobs] == [
        ("scratch_cnn", 0),
        ("scratch_cnn", 1),
        ("mini_resnet", 0),
        ("mini_resnet", 1),
    ]
    with pytest.raises(ConfigError, match=r"Nothing reads scheduler\.gamma"):
        jobs_of("scheduler=step,cosine", "scheduler.gamma=0.1")
    with pytest.raises(ConfigError, match="Unknown model 'nothing'"):
        jobs_of("model=mini_resnet,nothing")


@pytest.mark.parametrize("name", choices()["model"])
def test_a_recipe_is_what_the_command_line_composes(name: str, deepbloom: Run) -> None:
    arch = {"model.arch": "resnet10t"} if name == "timm" else {}
    _, shown, _ = deepbloom(
        "train", f"model={name}", *(f"{key}={value}" for key, value in arch.items()), "--cfg", "job"
    )
    assert asdict(recipe(name, **arch)) == yaml.safe_load(shown)


def test_a_recipe_takes_groups_keys_and_nested_settings() -> None:
    config = deepbloom.recipe(
        "mini_resnet", seed=1, data="imagefolder", train={"epochs": 3}, **{"data.root": Path("photos")}
    )
    same = compose("train", ["model=mini_resnet", "seed=1", "data=imagefolder", "data.root=photos", "train.epochs=3"])
    assert config == same
    assert recipe("scratch_cnn", optimizer="sgd", **{"optimizer.lr": 1}).optimizer.lr == 1.0


@pytest.mark.parametrize("root", ["null", "a,b", "${seed}", "'q'", "[a,b]", "???"])
def test_values_of_a_recipe_are_never_parsed(root: str) -> None:
    assert recipe("mini_resnet", data="imagefolder", **{"data.root": root}).data.root == root


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("resnet19", {}, "Unknown model 'resnet19'"),
        ("mini_resnet", {"data": "flowers"}, "Did you mean 'flowers102'"),
        ("mini_resnet", {"train": {"epoch": 3}}, r"Did you mean 'train\.epochs'"),
        ("mini_resnet", {"train": {"epochs": "3"}}, r"train\.epochs='3': give a whole number"),
        ("mini_resnet", {"train": {"epochs": 0}}, r"train\.epochs=0"),
        ("mini_resnet", {"train": 3}, "give its settings one by one"),
        ("mini_resnet", {"model": "scratch_cnn"}, "names the model already"),
        ("mini_resnet", {"data.num_classes": 3, "data": "flowers102"}, r"Nothing reads data\.num_classes"),
    ],
)
def test_a_mistake_in_a_recipe_is_a_config_error(name: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(name, **overrides)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["data=flowers102", "data.num_classes=10"], "data.num_classes"),
        (["data.allow_missing=true"], "data.allow_missing"),
        (["data.root=x"], "data.root"),
        (["scheduler=one_cycle", "scheduler.gamma=0.5"], "scheduler.gamma"),
        (["scheduler=step", "scheduler.warmup_fraction=0.1"], "scheduler.warmup_fraction"),
        (["logger=none", "logger.tracking_uri=x"], "logger.tracking_uri"),
        (["data.split.fold=0"], "data.split.fold"),
        (["data.split={fold: 0}"], "data.split.fold"),
        (["model=resnet18_partial", "model.arch=resnet18"], "model.arch"),
        (["data.verify=full"], "data.verify"),
        (["data.split.folds=5", "data.split.test_fraction=0.2"], "data.split.test_fraction"),
    ],
)
def test_a_key_that_nothing_reads_is_an_error_even_with_its_default(arguments: list[str], key: str) -> None:
    with pytest.raises(ConfigError, match=f"Nothing reads {key} here"):
        compose("train", arguments)


@pytest.mark.parametrize("value", ["nan", *(pytest.param(value, marks=pytest.mark.long) for value in ("inf", "-inf"))])
def test_no_number_of_a_run_may_be_infinite(value: str) -> None:
    numbers = [
        key.name
        for key in keys(RunConfig)
        if not key.group and get_type_hints(key.owner)[key.field.name] in (int, float)
    ]
    assert "optimizer.lr" in numbers
    for name in numbers:
        with pytest.raises(ConfigError, match=name):
            compose("train", [f"{name}={value}", "model=scratch_cnn"])


def test_a_key_is_read_where_its_choice_is_made() -> None:
    """The control: each of the keys above is accepted with the choice that reads it."""
    compose("train", ["data.num_classes=10", "scheduler=step", "scheduler.gamma=0.5"])
    compose("train", ["logger=mlflow", "logger.tracking_uri=x", "data.split.folds=5", "data.split.fold=0"])
    compose("train", ["model=timm", "model.arch=resnet10t", "data=imagefolder", "data.root=x", "data.verify=full"])
    compose("train", ["data=imagefolder", "data.root=x", "data.allow_missing=true", "data.split.test_fraction=0.3"])


def test_settings_are_read_back_from_what_they_are_written_as() -> None:
    config = recipe("scratch_cnn", train={"epochs": 2})
    assert from_dict(RunConfig, asdict(config)) == config
    with pytest.raises(ConfigError, match=r"data\.name has no value"):
        from_dict(DataConfig, {}, "data.")
