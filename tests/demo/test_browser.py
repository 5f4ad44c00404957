"""The page in a headless Chromium, as a person uses it."""

import base64
import io
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image

from demo_page import SCRIPT, Page, image_bytes

WAIT_MS = 60_000


def drop_file(tab, name: str, content: bytes) -> None:
    """Let a file fall on the page, as from a folder's window."""
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
    """Return the addresses of the heatmaps, all of which are painted, as is the image below them."""
    for image in tab.locator(".image img").all():
        image.evaluate("(image) => image.decode()")
        assert image.evaluate("(image) => image.naturalWidth") > 0
        assert image.evaluate("(image) => image.getBoundingClientRect().width") > 100
    return [heatmap.get_attribute("src") for heatmap in tab.locator("img.heatmap").all()]


def count_colors(tab) -> int:
    """Return how many colors the first image shows on the screen."""
    shown = Image.open(io.BytesIO(tab.locator(".image").first.screenshot())).convert("RGB")
    return len(shown.getcolors(shown.width * shown.height))


def test_a_person_drops_a_image_and_sees_answers_from_this_machine_alone(page: Page, browser, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no image")
    asked: list[str] = []
    tab = browser.new_page()
    tab.set_default_timeout(WAIT_MS)
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(f"http://127.0.0.1:{page.port}/")
    tab.wait_for_selector("#drop")
    tab.wait_for_function("window.deepbloom")
    drop_file(tab, "flower.png", image_bytes())
    tab.wait_for_selector(".answer")
    assert "flower.png, 30 × 24 pixels" in tab.inner_text("#notice")
    assert "over" not in (tab.locator("#drop").get_attribute("class") or "").split()
    assert tab.locator(".answer").count() == 2
    assert tab.locator(".answer").first.locator(".best li").count() == 3
    assert SCRIPT in tab.locator(".answer").first.inner_text().replace("\n", "")
    assert tab.evaluate("window.ran") is None  # a class name is text, not markup

    first = read_heatmaps(tab)
    assert len(first) == 2
    assert count_colors(tab) > 1000

    questions = [url for url in asked if "/answer" in url]
    slider = tab.locator("#opacity input[type=range]")
    slider.fill("80")
    tab.wait_for_function("document.querySelector('img.heatmap').style.opacity === '0.8'")
    assert [url for url in asked if "/answer" in url] == questions  # the network is not asked again

    tab.locator("#method input").click()
    tab.get_by_role("option", name="Eigen-CAM").click()
    tab.wait_for_function("(old) => document.querySelector('img.heatmap').src !== old", arg=first[0])
    assert any("method=eigencam" in url for url in asked)
    assert read_heatmaps(tab) != first
    assert tab.evaluate("document.querySelector('img.heatmap').style.opacity") == "0.8"

    tab.locator("#target input").click()
    tab.get_by_role("option", name="tulip").click()
    tab.wait_for_function("document.querySelector('#answers').innerText.includes('does not know the class tulip')")
    assert tab.locator("img.heatmap").count() == 1

    tab.set_input_files("#image-file", tmp_path / "bad.jpg")
    tab.wait_for_selector("#notice.bad")
    assert "it is no JPEG, PNG or WEBP image" in tab.inner_text("#notice")
    assert tab.locator(".answer").count() == 0

    outside = [url for url in asked if urlsplit(url).scheme not in ("data", "blob")]
    assert outside
    assert {urlsplit(url).netloc for url in outside} == {f"127.0.0.1:{page.port}"}
    tab.close()
