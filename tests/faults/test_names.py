"""Names from strangers, of classes and runs, stay names in what is written of them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from deepbloom.report import page, report

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def evil_run(write_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose folder and every class are named like an element that runs a script; it confuses some classes."""
    names = (EVIL, f"{EVIL} 2", f"{EVIL} 3")
    return write_run(tmp_path_factory.mktemp("evil") / EVIL, accuracy=0.5, num_images=30, class_names=names)


@pytest.mark.parametrize("escaped", [True, False])
def test_a_name_is_text_in_the_report(
    escaped: bool,
    evil_run: Path,
    deepbloom: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tally: Callable,
) -> None:
    """The control takes the escaping away: whoever opens the report runs the script."""
    if not escaped:
        monkeypatch.setattr(report, "select_autoescape", lambda *_, **__: False)
        monkeypatch.setattr(report, "_escape_markdown", lambda text: text)
    code, _, err = deepbloom("report", f'runs="{evil_run.parent}"', f"output_dir={tmp_path}")
    assert code == 0, err
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert ("<img src=x" in text) is not escaped
        assert "alert(1)" in text
    if escaped:
        tally("attacks refused")


@pytest.mark.parametrize("escaped", [True, False])
def test_a_name_is_text_in_a_page_of_figures(
    escaped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable
) -> None:
    """The control, again, takes the escaping away."""
    honest = page.Environment
    if not escaped:
        monkeypatch.setattr(page, "Environment", lambda **given: honest(**(given | {"autoescape": False})))
    table = page.PageTable((EVIL,), ((EVIL,),), EVIL)
    page.write_page(
        tmp_path / "page.html", EVIL, EVIL, [page.Section(EVIL, (EVIL,), (table,), meanings=((EVIL, EVIL),))]
    )
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("alert(1)") >= 8
    assert ("<img src=x" in text) is not escaped
    if escaped:
        tally("attacks refused")
