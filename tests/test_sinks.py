"""Names from outside never act, in any output of any command, and ordinary names stay as they are."""

import csv
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepbloom.report.pages import Section, render_html, render_markdown
from deepbloom.runs.parsing import read_columns
from deepbloom.runs.reading import read_run
from deepbloom.sinks import LogFormatter, from_cell, printable, to_cell
from small_data import SMALL, draw_images

Run = Callable[..., tuple[int, str, str]]
EVIL = "=1+1\x1b]0;title\x07\x1b[31m\u202e\n2026 INFO forged\r\x9b2J"
FORMULA, ORDINARY = "@SUM(1)", 'Ünal, 蓮 "q" नी\u200dल'
ACTS = set(map(chr, [*range(32), *range(127, 160), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]))


@pytest.fixture(scope="module")
def evil_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = draw_images(tmp_path_factory.mktemp("evil") / "images", per_class=10)
    for folder, name in zip(sorted(root.iterdir()), (EVIL, FORMULA, ORDINARY), strict=True):
        for image in folder.iterdir():
            image.rename(image.with_name(f"={image.stem}\x1b[2J.png"))
        folder.rename(root / name)
    return root


def is_inert(text: str) -> bool:
    return not set(text) & ACTS - {"\n"} and "\n2026 INFO forged" not in text


def cells_of(path: Path) -> list[str]:
    with open(path, newline="", encoding="utf-8") as file:
        return [cell for row in csv.reader(file) for cell in row]


def test_no_output_of_any_command_acts(deepbloom: Run, evil_images: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "runs" / "one\x1b[31m\n=x", tmp_path / "out"
    data = ("data=imagefolder", f"data.root={evil_images}")
    for arguments in (
        ("data", *data, f"output_dir={out / 'data'}"),
        ("train", "model=scratch_cnn", *data, *SMALL, "train.epochs=1", f"output_dir={run}"),
        ("predict", f"ckpt={run}", f"image={evil_images}", f"output_dir={out / 'predict'}"),
        (
            "gradcam",
            f"ckpt={run}",
            f"image={min((evil_images / EVIL).iterdir())}",
            "page=true",
            f"output_dir={out / 'gradcam'}",
        ),
        ("eval", f"ckpt={run}", f"output_dir={out / 'eval'}"),
        ("runs", f"runs={tmp_path / 'runs'}"),
        ("report", f"runs={tmp_path / 'runs'}", f"output_dir={out / 'report'}"),
        ("predict", f"ckpt={run}", f"image={evil_images / EVIL}/none"),
    ):
        code, shown, errors = deepbloom(*arguments)
        assert code == (2 if arguments[-1].endswith("none") else 0), errors
        assert is_inert(shown), arguments
        assert is_inert(errors.replace("\r", "\n").replace("\x1b[A", "")), arguments
    assert is_inert((run / "train.log").read_text(encoding="utf-8"))
    for page in (out / "report" / "report.html", out / "report" / "report.md", out / "gradcam" / "heatmaps.html"):
        assert not set(page.read_text(encoding="utf-8")) & ACTS - {"\n"}
    tables = [*run.glob("*.csv"), *out.rglob("*.csv")]
    assert len(tables) == 10
    for table in tables:
        assert not [cell for cell in cells_of(table) if cell[:1] in ("=", "@", "\t", "\r")]
    ids = {f"{name}/{image.name}" for name in (EVIL, FORMULA, ORDINARY) for image in (evil_images / name).iterdir()}
    assert set(read_run(run).predictions.image_ids) < ids
    names = read_columns(run / "class_report.csv", ("class_name",))["class_name"]
    assert set(names) == {EVIL, FORMULA, ORDINARY}
    assert ORDINARY in cells_of(run / "class_report.csv")


@given(st.text() | st.text("=+-@'1a\t"))
def test_every_text_comes_back_from_a_csv_file(text: str) -> None:
    cell = str(to_cell(text))
    assert from_cell(cell) == text
    assert cell == text or cell == f"'{text}"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1", "'=1"),
        ("+a", "'+a"),
        ("-2+3", "'-2+3"),
        ("@x", "'@x"),
        ("\t=1", "'\t=1"),
        ("'=1", "''=1"),
        ("-0.25", "-0.25"),
        ("'Iceberg'", "'Iceberg'"),
        ("rose", "rose"),
        ("", ""),
    ],
)
def test_formulas_get_an_apostrophe_and_nothing_else_does(text: str, cell: str) -> None:
    assert to_cell(text) == cell


def test_names_of_all_scripts_are_printed_as_they_are() -> None:
    for name in (ORDINARY, "a, b", "Gänseblümchen", "مى\u200cرود", "🌹", "a\u3000b"):
        assert printable(name) == name
    assert printable("a\x1b[31m\udcff\u2066\n") == "a\\x1b[31m\\udcff\\u2066\\n"


def test_a_logged_name_cannot_look_like_another_line() -> None:
    record = logging.LogRecord("x", 20, "", 0, "class %s", (EVIL,), None)
    assert is_inert(LogFormatter("%(message)s").format(record))


def test_pages_show_what_a_name_holds() -> None:
    section = Section(EVIL, paragraphs=[EVIL, ORDINARY])
    for page in (render_html("t", "", [section]), render_markdown("t", "", [section], Path())):
        assert not set(page) & ACTS - {"\n"}
        assert "\\u202e" in page.replace("\\\\", "\\")
        assert "蓮" in page


PRINT_THEN_WRITE = """
import sys
from pathlib import Path
from deepbloom.exit_codes import guarded
def work():
    for number in range(20_000):
        print("line", number)
        print("line", number, file=sys.stderr)
    Path(sys.argv[1]).write_text("whole")
sys.exit(guarded(work))
"""


@pytest.mark.parametrize("closed", ["out", "err"])
def test_a_command_whose_reader_leaves_still_writes_its_files(tmp_path: Path, closed: str) -> None:
    read, write = os.pipe()
    out, err = (write, subprocess.PIPE) if closed == "out" else (subprocess.PIPE, write)
    command = [sys.executable, "-c", PRINT_THEN_WRITE, str(tmp_path / "file")]
    process = subprocess.Popen(command, stdout=out, stderr=err)
    os.close(write)
    os.close(read)
    shown, errors = process.communicate()
    assert process.returncode == 0
    assert (tmp_path / "file").read_text() == "whole"
    assert b"Error" not in (errors or b"") + (shown or b"")
