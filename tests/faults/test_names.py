"""Names from strangers, of classes and runs, stay names in what is written of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import settings

from deepbloom.commands.train import train
from deepbloom.report import page, report

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def evil_run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a class and a folder that are called like an element that runs a script."""
    folder = tmp_path_factory.mktemp("evil")
    for place in images.iterdir():
        (folder / "images" / (EVIL if place.name == "lime" else place.name)).mkdir(parents=True)
    for path in images.rglob("*.png"):
        name = EVIL if path.parent.name == "lime" else path.parent.name
        (folder / "images" / name / path.name).write_bytes(path.read_bytes())
    return train(settings(folder / "images", folder / "runs" / EVIL))


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
