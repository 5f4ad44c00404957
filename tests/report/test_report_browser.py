"""The report in a headless Chromium, opened from disk: on a desk and on a phone, light and dark."""

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from test_audits import CLEAN
from test_corrupted import write_robustness

from deepbloom.report.report import write_report
from deepbloom.report.statistics import mcnemar_exact

ACCURACIES = {"scratch_cnn": 0.55, "mini_resnet": 0.72, "resnet18_frozen": 0.74, "resnet18_partial": 0.9}

REJECTION = {"target": 0.99, "threshold": 0.953, "coverage": 0.75, "accuracy": 0.995, "area_under_risk_coverage": 0.01}
KNOWN = {"audit": CLEAN, "latency_ms": 12.3, "size_bytes": 44_700_000, "rejection": REJECTION}
MEASURES = ("road_score", "insertion_area", "deletion_area", "energy_inside")


DOCUMENT = Path(__file__).parents[2] / "docs" / "report.md"


def write_explanation(run: Path) -> None:
    content = {
        "methods": ["gradcam"],
        "measures": {"gradcam": {name: {"mean": 0.25, "low": 0.2, "high": 0.3} for name in MEASURES}},
        "described": {name: {"title": name.replace("_", " "), "meaning": f"About {name}."} for name in MEASURES},
    }
    (run / "explain" / "explain.json").write_text(json.dumps(content))


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
            write_explanation(run)
            write_robustness(run)
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


@pytest.fixture
def tab(browser, page):
    tab = browser.new_page(viewport={"width": 1280, "height": 800})
    tab.goto(page.as_uri())
    yield tab
    tab.close()


def read_units(tab):
    return tab.evaluate("JSON.parse(document.querySelector('script[type=\"application/json\"]').textContent)")


def test_a_cell_of_the_confusion_matrix_shows_its_images(tab):
    """By mouse from the list, and by keys from the matrix; both show as many images as the cell counts."""
    button = tab.locator(".frequent button").first
    count = int(button.inner_text().rsplit(" ", 1)[1])
    button.click()
    assert tab.locator("dialog h4").inner_text().endswith(f": {count} image{'s' * (count > 1)}")
    assert tab.locator("dialog article").count() == count
    tab.keyboard.press("Escape")
    assert not tab.locator("dialog").is_visible()
    tab.locator(".matrix canvas").focus()
    for key in (*["ArrowLeft", "ArrowUp"] * 5, "ArrowRight", "ArrowDown", "Enter"):
        tab.keyboard.press(key)
    data = read_units(tab)
    cell = data["order"][1]
    first = data["units"][0]["predicted"]
    right = sum(t == p == cell for t, p in zip(data["targets"], first, strict=True))
    assert tab.locator("dialog h4").inner_text().endswith(f": {right} images")


def test_a_class_that_is_found_is_scrolled_into_view(tab):
    tab.set_viewport_size({"width": 375, "height": 140})
    tab.locator("nav a", has_text="The test images").click()
    assert tab.locator(".explorer").bounding_box()["y"] < 140
    tab.get_by_label("Zoom").evaluate("e => { e.value = e.max; e.dispatchEvent(new Event('input')); }")
    matrix = tab.locator(".matrix")
    assert matrix.evaluate("e => e.scrollTop") == 0
    data = read_units(tab)
    last = data["classes"][data["order"][-1]]
    tab.get_by_label("Find").fill(last)
    assert matrix.evaluate("e => e.scrollTop") > 0
    assert tab.locator(".status").inner_text().startswith(f"{last} predicted as {last}: ")
    matrix.locator("canvas").press("Enter")
    assert tab.locator("dialog h4").inner_text().startswith(last)


def test_the_images_of_a_comparison_are_those_of_the_paired_test(tab):
    data = read_units(tab)
    rows = [[p == t for p, t in zip(unit["predicted"], data["targets"], strict=True)] for unit in data["units"]]
    controls = tab.locator(".controls select")
    controls.nth(1).select_option("0")
    controls.nth(2).select_option("3")
    for place, (better, worse) in enumerate(((0, 3), (3, 0))):
        expected = sum(a and not b for a, b in zip(rows[better], rows[worse], strict=True))
        button = tab.locator("p:has-text('McNemar') button").nth(place)
        assert button.inner_text().endswith(f": {expected}")
    p_value = mcnemar_exact(rows[0], rows[3])
    shown = "< 0.0001" if p_value < 0.0001 else f"{p_value:.2g}"
    assert shown in tab.locator("p:has-text('McNemar')").inner_text()


def test_a_card_shows_the_heatmap_and_the_most_similar_training_images(browser, trained_run, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "runs" / "only")
    for image_id in {row.split(",")[0] for row in (run / "predictions.csv").read_text().splitlines()[1:]}:
        path = run / "explain" / "heatmaps" / f"{image_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").save(path)
    tab = browser.new_page(viewport={"width": 390, "height": 800})
    tab.goto(write_report(run.parent, tmp_path / "report").html.as_uri())
    tab.locator("button", has_text="Show class").click()
    card = tab.locator("dialog article").first
    assert card.locator("img[alt^='Where']").evaluate("e => e.naturalWidth") > 0
    assert "Most similar training images" in card.inner_text()
    assert card.locator("figure img").evaluate_all("all => all.map(e => e.naturalWidth > 0)") == [True] * 3
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.close()


def test_names_of_hard_classes_and_images_and_of_confusions_show_their_images(tab):
    data = read_units(tab)
    name = tab.locator("[data-target]:not([data-predicted]) .link").first
    name.click()
    target = data["classes"].index(name.inner_text())
    assert tab.locator("dialog h4").inner_text() == f"{name.inner_text()}: {data['targets'].count(target)} images"
    tab.keyboard.press("Escape")
    pair = tab.locator("[data-predicted]").first
    row, column = (int(pair.get_attribute(f"data-{key}")) for key in ("target", "predicted"))
    pair.locator("button").click()
    wrong = [
        any(unit["predicted"][image] == column for unit in data["units"])
        for image, target in enumerate(data["targets"])
        if target == row
    ]
    assert tab.locator("dialog h4").inner_text().endswith(f": {sum(wrong)} images")
    tab.keyboard.press("Escape")
    image = tab.locator("[data-image] .link").first
    image.click()
    assert tab.locator("dialog h4").inner_text() == f"{image.inner_text()}: 1 image"


def test_a_card_shows_the_heatmap_of_the_model_that_it_names(tab):
    """All models have one of daisy/0000."""
    data = read_units(tab)
    controls = tab.locator(".controls select")
    controls.nth(4).select_option(str(data["classes"].index("daisy")))
    for unit in (0, 2):
        controls.nth(3).select_option(str(unit))
        tab.locator("button", has_text="Show class").click()
        card = tab.locator("dialog article", has_text="daisy/0000")
        name = data["units"][unit]["name"]
        assert card.locator("img").evaluate_all("all => all.map(e => e.alt)") == [f"Where {name} looks in daisy/0000"]
        tab.keyboard.press("Escape")


# What a reader does for each question of docs/report.md: choices in a menu (its place and value) and clicks.
STEPS: dict[str, list[str | tuple[int, str]]] = {
    "Which model is best": [],
    "Which two classes": [".frequent button"],
    "Which images does the best": ["p:has-text('McNemar') button"],
    "The same for any two": [(1, "2"), (2, "3"), "p:has-text('McNemar') button"],
    "Which errors": ["button:has-text('Most confident errors')"],
    "Which class is hardest": ["[data-target]:not([data-predicted]) .link"],
    "Which image is hardest": ["[data-image] .link"],
    "All images of a class": [(3, "1"), (4, "0"), "button:has-text('Show class')"],
    "Which classes": [],
    "Is accuracy lower": [],
}


def test_questions_cost_as_many_clicks_as_the_documents_say(tab):
    found = re.findall(r"^\| (.+[.?]) \| .+ \| (\d) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    costs = {question: int(cost) for question, cost in found}
    assert len(costs) == len(STEPS) == 10
    for question, steps in STEPS.items():
        (cost,) = (cost for text, cost in costs.items() if text.startswith(question))
        assert cost == len(steps)
        for step in steps:
            if isinstance(step, str):
                tab.locator(step).first.click()
            else:
                tab.locator(".controls select").nth(step[0]).select_option(step[1])
        assert tab.locator("dialog article").first.is_visible() == bool(steps)
        tab.keyboard.press("Escape")


def test_columns_that_do_not_fit_can_be_chosen(tab):
    """Of the least important ones alone; choosing one shows it in all rows."""
    assert tab.locator(".benchmark th", has_text="ECE").first.is_visible()
    trainable = tab.locator(".benchmark th", has_text="Trainable").first
    assert not trainable.is_visible()
    choice = tab.locator(".columns summary").first
    assert "more" in choice.inner_text()
    choice.click()
    tab.locator(".columns label", has_text="Trainable").first.click()
    assert trainable.is_visible()
    place = trainable.evaluate("e => e.cellIndex")
    rows = tab.locator(".benchmark").first.locator("tr")
    assert rows.evaluate_all("(rows, place) => rows.every(row => row.cells[place].offsetWidth > 0)", place)


def test_columns_can_be_left_out(tab):
    heading = tab.locator(".benchmark th", has_text="MACs").first
    assert heading.is_visible()
    tab.locator(".columns summary").first.click()
    tab.locator(".columns label", has_text="MACs").first.click()
    assert not heading.is_visible()


def test_the_page_is_whole_without_javascript(browser, page):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(page.as_uri())
    assert tab.locator("h3", has_text="Most frequent confusions").first.is_visible()
    assert tab.locator(".explorer").first.is_hidden()
    assert "With JavaScript" in tab.locator(".note", has_text="JavaScript").first.inner_text()
    context.close()
