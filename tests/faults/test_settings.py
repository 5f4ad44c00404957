"""Whatever is typed, the config reader answers: the settings, or exit code 2 with what to do; never a traceback."""

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.resolvers import oc

from deepbloom.cli import main as cli
from deepbloom.config.commands import COMMANDS
from deepbloom.config.schema import keys
from deepbloom.runs import folder as run_dir

KEYS = sorted(
    f"{command} {key}" for command in COMMANDS for key in (key.name for key in keys(COMMANDS[command].settings))
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

COUNTED = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""The tally is the same for all examples, as it should be."""


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


ACCEPTED: list[str] = []


def note(config: object) -> None:
    """Stand for a command: its settings were accepted."""
    ACCEPTED.append(type(config).__name__)


@contextlib.contextmanager
def no_command_runs() -> Iterator[list[str]]:
    """Let every command of the table note its settings instead of running."""
    ACCEPTED.clear()
    with pytest.MonkeyPatch.context() as patch:
        for name, row in COMMANDS.items():
            patch.setitem(COMMANDS, name, replace(row, function=f"{__name__}:note"))
        yield ACCEPTED


def answer(arguments: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.guarded(lambda: cli.dispatch(arguments))
        except SystemExit as left:
            code = int(left.code or 0)
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


@pytest.mark.hydra
@hypothesis_settings(COUNTED, max_examples=20)
@given(mistyped())
def test_anything_mistyped_is_answered_without_a_traceback(tally: Callable, arguments: list[str]) -> None:
    check(arguments)
    tally("fuzz cases answered")


@pytest.mark.long
@pytest.mark.timeout(1200)
@hypothesis_settings(COUNTED, max_examples=1500)
@given(mistyped())
def test_a_thousand_mistyped_lines_are_answered_without_a_traceback(tally: Callable, arguments: list[str]) -> None:
    check(arguments)
    tally("fuzz cases answered")


def test_the_settings_that_are_right_are_accepted() -> None:
    """The control: not everything is refused."""
    with no_command_runs() as accepted:
        assert answer(["train", "model=scratch_cnn", "train.epochs=3", "optimizer.lr=0.1"])[0] == 0
    assert accepted == ["RunConfig"]


CANARY = "canary-5f1d0c-secret"


@pytest.fixture
def environment_is_readable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take the protection away: ``${oc.env:NAME}`` means what it means in other programs."""
    taken_away = OmegaConf.clear_resolver
    OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)
    monkeypatch.setattr(OmegaConf, "clear_resolver", lambda name: False)
    yield
    taken_away("oc.env")


NAMED_BY = {
    "typed": ["train", "model.weights=${oc.env:CANARY}"],
    "typed with a default": ["train", "model.weights=${oc.env:CANARY,none}"],
    "typed for another command": ["predict", "ckpt=${oc.env:CANARY}", "image=x"],
    "within a text": ["train", "model.weights=a/${oc.env:CANARY}"],
    "from another key": ["train", "output_dir=${oc.env:CANARY}", "model.weights=${output_dir}"],
}


def answer_about_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Return exit code and output of printing settings that name a secret variable."""
    monkeypatch.setenv("CANARY", CANARY)
    code, out, err = answer([*NAMED_BY[name], "--cfg", "job"])
    return code, out + err


@pytest.mark.hydra
@pytest.mark.parametrize("name", NAMED_BY)
def test_no_setting_can_name_what_the_environment_holds(
    name: str, monkeypatch: pytest.MonkeyPatch, tally: Callable
) -> None:
    code, said = answer_about_the_environment(name, monkeypatch)
    assert code == 2
    assert "oc.env" in said
    assert CANARY not in said
    tally("attacks refused")


@pytest.mark.hydra
@pytest.mark.parametrize("name", NAMED_BY)
@pytest.mark.usefixtures("environment_is_readable")
def test_without_taking_the_resolver_away_it_could(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said = answer_about_the_environment(name, monkeypatch)
    assert code == 0
    assert CANARY in said


def keep_secrets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in ``folder``, with a secret in the environment under the names that secrets have."""
    for name in ("AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "DEEPBLOOM_SECRET"):
        monkeypatch.setenv(name, CANARY)
    monkeypatch.chdir(folder)


def holding_the_secret(folder: Path) -> set[str]:
    """Return the names of the files below ``folder`` in which the secret stands."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.name for path in files if CANARY.encode() in path.read_bytes()}


@pytest.mark.parametrize("more", [False, pytest.param(True, marks=pytest.mark.long)], ids=["commands", "all commands"])
def test_a_secret_in_the_environment_reaches_no_file_and_no_output(
    more: bool, deepbloom: Callable, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable
) -> None:
    keep_secrets(tmp_path, monkeypatch)
    common = ["data=imagefolder", f"data.root={images}", "train.epochs=1", "train.batch_size=9"]
    run = ["ckpt=outputs/run", f"image={images / 'lime' / '00.png'}"]
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
    assert CANARY not in "".join(out + err for _, out, err in said)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > (20 if more else 10)
    assert holding_the_secret(tmp_path) == set()
    tally("artifacts searched for a secret", len(files))


@pytest.mark.usefixtures("environment_is_readable")
def test_without_taking_the_resolver_away_a_secret_would_be_in_the_files_of_a_run(
    deepbloom: Callable, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: a setting that names a secret goes into what a run writes, and is found there."""
    keep_secrets(tmp_path, monkeypatch)
    line = ["train", "model=scratch_cnn", "data=imagefolder", f"data.root={images}", "train.epochs=1"]
    line += ["train.batch_size=9", "output_dir=outputs/run", "data.pixel_cache=${oc.env:HF_TOKEN}"]
    assert deepbloom(*line)[0] == 0
    assert run_dir.CONFIG in holding_the_secret(tmp_path)
