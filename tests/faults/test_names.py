"""Names from strangers, of classes and runs, stay names in what is written of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from deepbloom.report import pages
from deepbloom.report.pages import Badge, Class, Illustration, PageTable, Photo, Section

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def evil_run(write_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose folder and every class are named like an element that runs a script; it confuses some classes."""
    names = (EVIL, f"{EVIL} 2", f"{EVIL} 3")
    return write_run(tmp_path_factory.mktemp("evil") / EVIL, accuracy=0.5, num_images=30, class_names=names)


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that takes the escaping of both renderers away."""
    honest = pages.Environment

    def trust() -> None:
        monkeypatch.setattr(pages, "Environment", lambda **given: honest(**(given | {"autoescape": False})))
        monkeypatch.setattr(pages, "escape", lambda text: text)

    return trust


@pytest.mark.parametrize("escaped", [True, False])
def test_a_name_is_text_in_the_report(
    escaped: bool, evil_run: Path, deepbloom: Callable, tmp_path: Path, trusting: Callable, tally: Callable
) -> None:
    """The control takes the escaping away: whoever opens the report runs the script."""
    if not escaped:
        trusting()
    code, _, err = deepbloom("report", f'runs="{evil_run.parent}"', f"output_dir={tmp_path}")
    assert code == 0, err
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert ("<img src=x" in text) is not escaped
        assert "alert(1)" in text
    if escaped:
        tally("attacks refused")


@pytest.mark.parametrize("escaped", [True, False])
def test_a_name_is_text_everywhere_in_a_page(
    escaped: bool, tmp_path: Path, trusting: Callable, tally: Callable
) -> None:
    """The control, again, takes the escaping away."""
    if not escaped:
        trusting()
    Image.new("RGB", (4, 4)).save(tmp_path / "figure.png")
    figure = Illustration(tmp_path / "figure.png", EVIL, EVIL, EVIL)
    cells = (EVIL, f"x\n{EVIL}", Badge(EVIL, "good"), Photo(b"RIFF", EVIL, EVIL), Class(EVIL, 0))
    table = PageTable([EVIL] * 5, [cells], EVIL, title=EVIL)
    terms = [(EVIL, EVIL)]
    inner = Section(EVIL, [EVIL], [table], [EVIL], terms, [figure], terms, [EVIL])
    section = Section(EVIL, sections=[inner])
    pages.write_page(tmp_path / "page.html", EVIL, EVIL, [section])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for text, places in ((page, 27), (pages.render_markdown(EVIL, EVIL, [section], tmp_path, EVIL), 24)):
        assert text.count("alert(1)") >= places
        assert ("<img src=x" in text) is not escaped
    if escaped:
        tally("attacks refused")
