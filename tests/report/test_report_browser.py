"""The report in a headless Chromium, opened from disk: on a desk and on a phone, light and dark."""

from pathlib import Path

import pytest
from PIL import Image
from test_audits import CLEAN

from deepbloom.report.report import write_report

ACCURACIES = {"scratch_cnn": 0.55, "mini_resnet": 0.72, "resnet18_frozen": 0.74, "resnet18_partial": 0.9}

KNOWN = {"audit": CLEAN, "latency_ms": 12.3, "size_bytes": 44_700_000}


def write_dozen(write_run, folder: Path) -> Path:
    """Write a report of 13 runs, one with a long name, and a failed one; return its page."""
    for model, accuracy in ACCURACIES.items():
        for seed in range(3):
            epochs = 30 if model == "scratch_cnn" else 10
            name = f"{model}-synthetic-s{seed}-0a1b2c3d"
            run = write_run(folder / "runs" / name, model, seed, accuracy, epochs=epochs, **KNOWN)
            heatmap = run / "explain" / "heatmaps" / "daisy" / "0000.png"
            heatmap.parent.mkdir(parents=True)
            Image.linear_gradient("L").save(heatmap)
    write_run(folder / "runs" / ("a_long_name_of_a_run_" * 6), lr=0.01, epochs=10, **KNOWN)
    failed = folder / "runs" / "crashed"
    failed.mkdir()
    (failed / "failed.txt").write_text("DivergedError: the loss became nan\n")
    return write_report(folder / "runs", folder / "report").html


@pytest.fixture(scope="module")
def page(write_run, tmp_path_factory) -> Path:
    return write_dozen(write_run, tmp_path_factory.mktemp("dozen"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_the_page_is_whole_on_every_screen_and_asks_nobody(browser, page, width, scheme):
    asked, complaints = [], []
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(page.as_uri())
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert complaints == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    if width == 1280:
        benchmark = tab.locator(".scroll:has(.benchmark)").first
        assert benchmark.evaluate("e => e.scrollWidth <= e.clientWidth")
    images = tab.evaluate("[...document.images].map(i => [i.alt, i.naturalWidth, i.complete])")
    assert len(images) >= 8
    assert all(alt and natural > 0 and complete for alt, natural, complete in images)
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(18, 18, 18)") == (scheme == "dark")
    tab.close()


def test_a_page_that_is_too_wide_would_be_noticed(browser, page, tmp_path):
    """Negative control of the test above."""
    wide = tmp_path / "wide.html"
    wide.write_text(page.read_text(encoding="utf-8").replace("<main>", "<main><div style='width: 999px'>x</div>"))
    tab = browser.new_page(viewport={"width": 375, "height": 800})
    tab.goto(wide.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") > 375
    tab.close()
