"""Command lines that Hydra need not read mean what Hydra would make of them."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepbloom.cli.compose import compose
from deepbloom.cli.plain import plain_settings
from deepbloom.errors import ConfigError


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("predict", ["ckpt=model.onnx", "image=a b (1).jpg", "reject=auto", "target=0.9", "evidence=3"]),
        ("predict", ["ckpt=a=b", "image=~/x", "device=cpu", "batch_size=8"]),
        ("predict", ["ckpt=1e3", "image=null", "output_dir=12:30"]),
        ("gradcam", ["ckpt=run", "image=true", "save_raw=true", "method=gradcam"]),
        ("eval", ["ckpt=run", "data.root=2024_06", "data.allow_missing=true", "data.split.seed=7", "tta=mirror"]),
        ("robustness", ["ckpt=run", "suite=quick"]),
        ("export", ["ckpt=run", "format=openvino", "precision=int8", "data.root=photos"]),
        ("report", []),
        ("runs", ["runs=grüße"]),
    ],
)
def test_plain_overrides_give_the_settings_that_hydra_gives(
    command: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepbloom.cli.checkpoints.choose_checkpoint", lambda _, ckpt: ckpt)
    found = plain_settings(command, arguments)
    assert found is not None
    assert found == compose(command, arguments)


@settings(deadline=None, max_examples=12)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_that_is_read_as_plain_is_read_alike_by_hydra(text: str) -> None:
    found = plain_settings("report", [f"runs={text}"])
    assert found is None or found == compose("report", [f"runs={text}"])


@pytest.mark.parametrize("number", ["3", "0.5", "-1", "1e3", "007", "1_000", "true", "٣"])
@pytest.mark.parametrize("key", ["evidence", "target"])
def test_numbers_are_read_as_hydra_reads_them_or_left_to_it(key: str, number: str) -> None:
    arguments = ["ckpt=model.onnx", "image=x.jpg", "reject=auto", f"{key}={number}"]
    outcomes = []
    for read in (plain_settings, compose):
        try:
            outcomes.append(read("predict", arguments))
        except ConfigError as error:
            outcomes.append(str(error))
    assert outcomes[0] in (None, outcomes[1])


@pytest.mark.parametrize(
    ("command", "argument"),
    [
        ("train", "seed=1"),
        ("predict", "ckpt=[a,b]"),
        ("predict", "ckpt='a b'"),
        ("predict", "image=${ckpt}"),
        ("predict", "image=???"),
        ("predict", "picture=x.jpg"),
        ("predict", "x.jpg"),
        ("predict", "~image"),
        ("predict", "+image=x.jpg"),
        ("predict", "device=cpu,cuda"),
        ("eval", "data=imagefolder"),
        ("eval", "data={root: x}"),
        ("compress", "augment.ops.flip={}"),
    ],
)
def test_what_needs_composition_is_left_to_hydra(command: str, argument: str) -> None:
    assert plain_settings(command, [argument]) is None


def test_a_file_with_the_name_of_an_override_and_a_key_given_twice_are_left_to_hydra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert plain_settings("report", ["runs=a"]) is not None
    assert plain_settings("report", ["runs=a", "runs=b"]) is None
    Path("runs=a").touch()
    assert plain_settings("report", ["runs=a"]) is None
