"""The page in a headless Chromium."""

import base64
import io
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from demo_page import CLASSES, SCRIPT, Page, image_bytes

WAIT_MS = 60_000
EXAMPLES = 8
api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = api.expect
expect.set_options(timeout=WAIT_MS)


def drop_file(tab, name: str, content: bytes) -> None:
    """Drop a file on the page."""
    given = {"name": name, "content": base64.b64encode(content).decode()}
    transfer = tab.evaluate_handle(
        """({ name, content }) => {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name));
            return transfer;
        }""",
        given,
    )
    for event in ("dragenter", "dragover", "drop"):
        tab.dispatch_event("#drop", event, {"dataTransfer": transfer})


def read_heatmaps(tab) -> list[str]:
    """Return the URLs of the heatmaps after checking that each image is decoded and visible."""
    for image in tab.locator(".image img").all():
        image.evaluate("(image) => image.decode()")
        assert image.evaluate("(image) => image.naturalWidth") > 0
        assert image.evaluate("(image) => image.getBoundingClientRect().width") > 100
    return [heatmap.get_attribute("src") for heatmap in tab.locator("img.heatmap").all()]


def count_colors(tab) -> int:
    """Return how many colors the first image shows on the screen."""
    shown = Image.open(io.BytesIO(tab.locator(".image").first.screenshot())).convert("RGB")
    return len(shown.getcolors(shown.width * shown.height) or [])


def test_dropped_image_gets_predictions_without_requests_to_other_hosts(page: Page, browser, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no image")
    requests: list[str] = []
    tab = browser.new_page()
    tab.set_default_timeout(WAIT_MS)
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(f"http://127.0.0.1:{page.port}/")
    tab.wait_for_selector("#drop")
    drop_file(tab, "flower.png", image_bytes())
    tab.wait_for_selector(".prediction")
    assert "flower.png, 30 × 24 pixels" in tab.inner_text("#notice")
    assert "over" not in (tab.locator("#drop").get_attribute("class") or "").split()
    assert tab.locator(".prediction").count() == 2
    assert tab.locator(".prediction").first.locator(".best li").count() == 3
    assert SCRIPT in tab.locator(".prediction").first.inner_text().replace("\n", "")
    assert tab.evaluate("window.ran") is None  # a class name is text, not markup

    first = read_heatmaps(tab)
    assert len(first) == 2
    assert count_colors(tab) > 1000

    sent = [url for url in requests if "/predict" in url]
    tab.get_by_label("Share of the plain image").first.fill("80")
    for heatmap in tab.locator("img.heatmap").all():
        expect(heatmap).to_have_css("clip-path", "inset(0px 0px 0px 80%)")
    assert [url for url in requests if "/predict" in url] == sent  # no new request

    tab.get_by_label("Method").select_option(label="Eigen-CAM")
    expect(tab.locator("img.heatmap").first).not_to_have_attribute("src", first[0])
    assert any("method=eigencam" in url for url in requests)
    assert read_heatmaps(tab) != first
    expect(tab.locator("img.heatmap").first).to_have_css("clip-path", "inset(0px 0px 0px 80%)")

    tab.get_by_label("Heatmap for").select_option(label="tulip")
    expect(tab.locator("#predictions")).to_contain_text("does not know the class tulip")
    assert tab.locator("img.heatmap").count() == 1

    tab.set_input_files("#image-file", tmp_path / "bad.jpg")
    tab.wait_for_selector("#notice.bad")
    assert "it is not a JPEG, PNG, WEBP, AVIF" in tab.inner_text("#notice")
    assert tab.locator(".prediction").count() == 0

    outside = [url for url in requests if urlsplit(url).scheme not in ("data", "blob")]
    assert outside
    assert {urlsplit(url).netloc for url in outside} == {f"127.0.0.1:{page.port}"}
    tab.close()


def test_page_works_with_the_keyboard_alone(page: Page, browser) -> None:
    tab = browser.new_page()
    tab.goto(f"http://127.0.0.1:{page.port}/")
    reached = []
    for _ in range(1 + EXAMPLES + 2):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.id || document.activeElement.className"))
    assert reached == ["image-file", *["example"] * EXAMPLES, "method", "target"]
    tab.locator(".example").first.press("Enter")
    tab.wait_for_selector(".prediction")
    tab.locator(".wipe").first.press("ArrowRight")
    assert tab.locator(".wipe").last.input_value() == "21"
    tab.close()


def test_an_example_gets_predictions_and_the_result_can_be_downloaded_as_one_image(page: Page, browser) -> None:
    tab = browser.new_page()
    tab.goto(f"http://127.0.0.1:{page.port}/")
    assert tab.locator("#download").is_disabled()
    tab.get_by_role("button", name="flower.jpg").click()
    tab.wait_for_selector(".prediction")
    assert tab.get_by_role("status").inner_text() == "flower.jpg, 640 × 427 pixels"
    with tab.expect_download(timeout=WAIT_MS) as download:
        tab.locator("#download").click()
    assert download.value.suggested_filename == "flower_gradcam.png"
    with Image.open(download.value.path()) as figure:
        assert figure.format == "PNG"
        assert figure.width > 2 * figure.height  # the image and two heatmaps side by side
    tab.close()


def test_a_network_says_none_of_these_and_shows_the_training_images_most_alike(page: Page, browser) -> None:
    tab = browser.new_page()
    tab.goto(f"http://127.0.0.1:{page.port}/")
    drop_file(tab, "flower.png", image_bytes())
    tab.wait_for_selector(".prediction")
    first, second = tab.locator(".prediction").all()
    assert first.locator(".rejected, .evidence").count() == 0  # the control: it holds nothing about validation
    assert second.locator(".rejected").inner_text().split("\n")[0] == "none of these"
    assert "unlike the training images" in second.locator(".rejected").inner_text()
    names = second.locator(".evidence li").all_inner_texts()
    assert len(names) == 3
    assert all(name.startswith("x/") for name in names)  # the images are not on this machine
    assert first.locator("h2").inner_text() == page.checkpoints[0].name
    tab.close()


def test_the_classes_that_a_network_knows_are_listed(page: Page, browser) -> None:
    tab = browser.new_page()
    tab.goto(f"http://127.0.0.1:{page.port}/")
    known = tab.locator("#known details").first
    assert not known.get_by_text("iris", exact=True).is_visible()
    known.locator("summary").click()
    assert known.locator("li").all_inner_texts() == sorted(CLASSES[0])
    tab.close()


def test_every_control_and_image_has_an_accessible_name(page: Page, browser) -> None:
    tab = browser.new_page()
    tab.goto(f"http://127.0.0.1:{page.port}/")
    drop_file(tab, "flower.png", image_bytes())
    tab.wait_for_selector(".prediction")
    assert tab.locator("select, input").count() == 5
    for role, name, count in [("combobox", "Method", 1), ("combobox", "Heatmap for", 1), ("slider", "plain image", 2)]:
        assert tab.get_by_role(role, name=name).count() == count
    assert all(button.get_attribute("alt") for button in tab.locator("button img").all())
    assert tab.locator("input[type=file]").evaluate("(input) => input.labels[0].innerText").startswith("Drop an image")
    assert all(image.get_attribute("alt") for image in tab.locator("img").all())
    assert tab.get_by_role("status").inner_text() == "flower.png, 30 × 24 pixels"
    tab.close()


def test_page_fits_a_phone_and_follows_the_color_scheme(page: Page, browser) -> None:
    backgrounds = []
    for scheme in ("light", "dark"):
        tab = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
        tab.goto(f"http://127.0.0.1:{page.port}/")
        drop_file(tab, "flower.png", image_bytes())
        tab.wait_for_selector(".prediction")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        predictions, controls = (tab.locator(name).bounding_box()["y"] for name in ("#predictions", "#choices"))
        assert predictions < controls
        backgrounds.append(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        tab.close()
    assert backgrounds == ["rgb(255, 255, 255)", "rgb(28, 25, 23)"]


def test_a_violation_of_the_content_security_policy_is_blocked(page: Page, browser) -> None:
    tab = browser.new_page()
    errors: list[str] = []
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.goto(f"http://127.0.0.1:{page.port}/")
    drop_file(tab, "flower.png", image_bytes())
    tab.wait_for_selector(".prediction")
    assert not errors  # the page itself needs nothing that the policy forbids
    tab.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.ran = true";
        document.body.append(script);
    }""")
    assert tab.evaluate("window.ran") is None
    assert errors
    tab.close()
