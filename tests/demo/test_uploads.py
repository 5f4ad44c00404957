"""Uploads are answered one at a time, and only while somebody waits."""

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
def test_an_upload_that_nobody_waits_for_is_not_answered(
    page: Page, monkeypatch: pytest.MonkeyPatch, patient: bool
) -> None:
    """The first upload holds the others up; meanwhile the second one's sender waits, or goes away."""
    answered: list[bytes] = []
    finish = threading.Event()

    def answer(content: bytes, *choices: object) -> dict:
        answered.append(content)
        finish.wait(PATIENCE_SECONDS)
        return {}

    monkeypatch.setattr("deepbloom.demo.app.answer", answer)
    contents = [image_bytes(seed) for seed in range(3)]
    connections = []
    for content in contents:
        connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=PATIENCE_SECONDS)
        connection.request("POST", "/answer", content, {"content-type": "application/octet-stream"})
        connections.append(connection)
        wait_until(lambda: bool(answered))
        time.sleep(0.3)  # until the next one waits for its turn
    if not patient:
        connections[1].close()
        time.sleep(0.3)
    finish.set()
    assert connections[2].getresponse().status == 200
    assert answered == (contents if patient else [contents[0], contents[2]])
    for connection in connections:
        connection.close()
