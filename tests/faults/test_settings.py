"""Whatever is typed, the config reader answers: the settings, or exit code 2 with what to do; never a traceback."""

import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from deepbloom import cli, hydra_app
from deepbloom.command_config import COMMANDS
from deepbloom.errors import ConfigError

KEYS = sorted(
    f"{command} {key}"
    for command in COMMANDS
    for key in hydra_app._known_keys(COMMANDS[command])
    if command != "doctor"
)
VALUES = (
    st.text(max_size=12)
    | st.integers(-(2**70), 2**70).map(str)
    | st.floats().map(str)
    | st.sampled_from(
        ["", "null", "true", "[]", "[1,2]", "{a:1}", "{}", "nan", "1e999", "-1", "0", "'", '"', "${x}", "???"]
    )
    | st.sampled_from(
        ["${oc.env:HOME}", "${oc.env:X,1}", "${now:%Y}", "${hydra:runtime.cwd}", "${model.name}", "$", "~"]
    )
    | st.sampled_from(["{_target_: os.system}", "[${x}]", "a,b", "range(1,3)", "choice(1,2)", "glob(*)", "int(1.5)"])
)


@st.composite
def mistyped(draw: st.DrawFn) -> list[str]:
    """Draw a command and one or two settings with a slip of the finger in the key, or any value at all."""
    command, key = draw(st.sampled_from(KEYS)).split()
    arguments = [command]
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.integers(0, len(key) - 1))
        slip = draw(st.sampled_from(["none", "drop", "double", "swap", "sign", "prefix"]))
        typed = {
            "none": key,
            "drop": key[:place] + key[place + 1 :],
            "double": key[:place] + key[place] + key[place:],
            "swap": key[:place] + key[place : place + 2][::-1] + key[place + 2 :],
            "sign": key[:place] + draw(st.sampled_from("-_./@ =:~+,'\"\\\n\0é")) + key[place:],
            "prefix": draw(st.sampled_from(["+", "++", "~", "-", "--"])) + key,
        }[slip]
        arguments.append(draw(st.sampled_from(["", "="])) + typed if slip == "sign" else typed)
        if draw(st.integers(0, 9)):
            arguments[-1] += "=" + draw(VALUES)
    return arguments


@contextlib.contextmanager
def no_command_runs() -> Iterator[list[str]]:
    """Replace what the commands do by a note that the settings were accepted."""
    accepted: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_task", lambda command: lambda config: accepted.append(command))
        yield accepted


def answer(arguments: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.guarded(lambda: cli.dispatch(arguments))
        except SystemExit as left:
            code = int(left.code or 0)
    sys.argv = before
    return code, out.getvalue(), err.getvalue()


def check(arguments: list[str]) -> None:
    with no_command_runs() as accepted:
        code, out, err = answer(arguments)
    assert "Traceback" not in err, (arguments, err)
    assert code in (0, 2), (arguments, code, err)
    if code == 2:
        assert err.startswith("deepbloom: "), (arguments, err)
        assert len(err) < 2000
        assert not accepted
    else:
        assert accepted or out, arguments


@hypothesis_settings(deadline=None, max_examples=20)
@given(mistyped())
def test_anything_mistyped_is_answered_without_a_traceback(arguments: list[str]) -> None:
    check(arguments)


@pytest.mark.long
@hypothesis_settings(deadline=None, max_examples=1500)
@given(mistyped())
def test_a_thousand_mistyped_lines_are_answered_without_a_traceback(arguments: list[str]) -> None:
    check(arguments)


def test_the_settings_that_are_right_are_accepted() -> None:
    """The control: not everything is refused."""
    with no_command_runs() as accepted:
        assert answer(["train", "model=scratch_cnn", "train.epochs=3", "optimizer.lr=0.1"])[0] == 0
    assert accepted == ["train"]


def test_without_the_translation_an_error_of_the_library_would_be_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hydra_app, "_readable", lambda error: error)
    with no_command_runs():
        assert answer(["train", "train.epochs=many"])[0] == 1


@pytest.mark.parametrize("folder", ["conf", "other"])
def test_a_config_folder_of_a_stranger_has_no_environment(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--config-dir`` may add settings; what the environment holds does not reach them."""
    monkeypatch.setenv("CANARY", "secret-canary-value")
    (tmp_path / folder / "experiment").mkdir(parents=True)
    text = "# @package _global_\nmodel:\n  weights: ${oc.env:CANARY}\n"
    (tmp_path / folder / "experiment" / "evil.yaml").write_text(text)
    arguments = ["train", "--config-dir", str(tmp_path / folder), "+experiment=evil"]
    with no_command_runs() as accepted:
        code, out, err = answer(arguments)
    assert code == 2
    assert not accepted
    assert "secret-canary-value" not in out + err
    assert re.search("oc.env|experiment", err)


def test_errors_are_of_one_family() -> None:
    with pytest.raises(ConfigError):
        hydra_app._check_overrides("train", ["no.such.key=1"])


@pytest.mark.parametrize("more", [False, pytest.param(True, marks=pytest.mark.long)], ids=["commands", "all commands"])
def test_a_secret_in_the_environment_reaches_no_file_and_no_output(
    more: bool, deepbloom: Callable, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable
) -> None:
    canary = "canary-5f1d0c-secret"
    for name in ("AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "DEEPBLOOM_SECRET"):
        monkeypatch.setenv(name, canary)
    monkeypatch.chdir(tmp_path)
    common = ["data=imagefolder", f"data.root={pictures}", "train.epochs=1", "train.batch_size=9"]
    run = ["ckpt=outputs/run", f"image={pictures / 'lime' / '00.png'}"]
    lines = [
        ["train", "model=scratch_cnn", *common, "output_dir=outputs/run"],
        ["eval", run[0]],
        ["predict", *run, "output_dir=outputs/predict"],
        ["data", *common[:2]],
        ["train", "model=scratch_cnn", *common, "data.root=${oc.env:HF_TOKEN}"],
        ["train", "model=nothing", *common],
    ]
    if more:
        lines[1:1] = [
            ["train", "-m", "model=scratch_cnn", *common, "seed=1"],
            ["gradcam", *run],
            ["report"],
            ["doctor"],
        ]
    said = [deepbloom(*line) for line in lines]
    assert [code for code, _, _ in said] == [0] * (len(lines) - 2) + [2] * 2, [err[-300:] for _, _, err in said]
    assert canary not in "".join(out + err for _, out, err in said)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > (20 if more else 10)
    holding = [path for path in files if canary.encode() in path.read_bytes()]
    assert holding == []
    (tmp_path / "control").write_text(canary)
    assert canary.encode() in (tmp_path / "control").read_bytes()
    tally("artifacts searched for a secret", len(files))
