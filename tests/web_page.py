"""The exported page in a browser."""

from pathlib import Path
from typing import Any

import pytest

from deepbloom.errors import DataError
from deepbloom.export import web

WAIT_MS = 120_000


@pytest.fixture(scope="session")
def web_runtime() -> None:
    """ONNX Runtime Web, downloaded once; the test is skipped without a network."""
    try:
        web.read_runtime()
    except DataError as error:
        pytest.skip(str(error))


def open_page(browser: Any, page: Path) -> tuple[Any, list[str]]:
    """Return the tab in which a page is ready, and the list that the URLs it requests are added to."""
    tab, requests = browser.new_page(), []
    tab.set_default_timeout(WAIT_MS)
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.as_uri())
    tab.wait_for_selector("body[data-ready]")
    return tab, requests


def classify(tab: Any, path: Path) -> list[tuple[int, float]]:
    """Return the best classes that a page shows for an image, each with its probability; its name is like no other."""
    tab.set_input_files("#file", path)
    tab.wait_for_function("name => document.getElementById('notice').textContent.startsWith(name + ',')", arg=path.name)
    lines = tab.locator("#best li").evaluate_all("lines => lines.map(line => ({...line.dataset}))")
    return [(int(line["index"]), float(line["probability"])) for line in lines]
