"""Uploads are processed one at a time, and only while the client waits."""

import http.client
import threading
import time
from collections.abc import Callable

import pytest

from demo_page import Page, image_bytes

PATIENCE_SECONDS = 30


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("patient", [True, False])
def test_an_upload_whose_client_has_disconnected_is_skipped(
    page: Page, monkeypatch: pytest.MonkeyPatch, patient: bool
) -> None:
    """The first upload blocks the queue; meanwhile the second client waits or disconnects."""
    processed: list[bytes] = []
    finish = threading.Event()

    def predict_image(content: bytes, *choices: object) -> dict:
        processed.append(content)
        finish.wait(PATIENCE_SECONDS)
        return {}

    monkeypatch.setattr("deepbloom.demo.app.predict_image", predict_image)
    contents = [image_bytes(seed) for seed in range(3)]
    connections = []
    for content in contents:
        connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=PATIENCE_SECONDS)
        connection.request("POST", "/predict", content, {"content-type": "application/octet-stream"})
        connections.append(connection)
        wait_until(lambda: bool(processed))
        time.sleep(0.3)  # until the next one waits in the queue
    if not patient:
        connections[1].close()
        time.sleep(0.3)
    finish.set()
    assert connections[2].getresponse().status == 200
    assert processed == (contents if patient else [contents[0], contents[2]])
    for connection in connections:
        connection.close()
