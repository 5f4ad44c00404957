"""Attacks on the demo from other sites, other programs on this machine, and the network."""

import asyncio
import json
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deepbloom.demo import guard, uploads
from demo_page import SLOW_SECONDS

FORBIDDEN = [
    "/file=/etc/passwd",
    "/file=../../etc/passwd",
    "/file/etc/passwd",
    "/page.html",
    "/app.py",
    "/predict/",
    "/docs",
    "/openapi.json",
    "/assets/../../../../../../../etc/passwd",
    "/assets/..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/assets/%252e%252e/%252e%252e/etc/passwd",
    "/assets/..\\..\\etc\\passwd",
    "/static//etc/passwd",
    "/page.css/../page.html",
    "//page.css",
]
OTHER_SITES = [
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:1"},
    {"host": "evil.example"},
    {"host": "127.0.0.1.evil.example"},
    {"sec_fetch_site": "cross-site"},
    {"sec_fetch_site": "same-site"},
]
FORMS = ["text/plain", "multipart/form-data", "application/x-www-form-urlencoded"]


@pytest.mark.parametrize("path", FORBIDDEN)
def test_nothing_but_the_page_can_be_fetched(page, path: str, tally: Callable) -> None:
    status, body = page.request(path, method="GET")
    assert status == 404
    assert b"root:" not in body
    tally("attacks refused")


def test_the_page_itself_can_be_fetched(page) -> None:
    assert page.request("/", method="GET")[0] == 200
    assert page.request("/page.css", method="GET")[0] == 200
    assert page.request("/page.js", method="GET")[0] == 200
    assert page.request("/predict", method="GET")[0] == 405


@pytest.mark.parametrize(("path", "status"), [("/", 405), ("/page.js", 405), ("/upload", 404), ("/predict/", 404)])
def test_only_one_route_takes_uploads(page, path: str, status: int, image: bytes, tally: Callable) -> None:
    assert page.request(path, image)[0] == status
    tally("attacks refused")


@pytest.mark.parametrize("headers", OTHER_SITES)
def test_a_request_from_another_site_is_refused(page, image: bytes, headers: dict[str, str], tally: Callable) -> None:
    assert page.request(body=image, **headers)[0] == 403
    assert page.request(body=image, origin=f"http://127.0.0.1:{page.port}", sec_fetch_site="same-origin")[0] == 200
    tally("attacks refused")


@pytest.mark.parametrize("kind", FORMS)
def test_a_type_that_forms_can_send_is_refused(page, image: bytes, kind: str, tally: Callable) -> None:
    assert page.request(body=image, content_type=kind)[0] == 415
    tally("attacks refused")


def test_a_preflight_request_is_refused(page, tally: Callable) -> None:
    status, _ = page.request(method="OPTIONS", origin="http://evil.example", access_control_request_method="POST")
    assert status == 403
    tally("attacks refused")


def test_a_path_or_url_instead_of_bytes_is_not_opened(page, tmp_path: Path, image: bytes, tally: Callable) -> None:
    (tmp_path / "secret.png").write_bytes(image)
    for text in (tmp_path / "secret.png", json.dumps({"path": str(tmp_path / "secret.png")}), "http://127.0.0.1/a.png"):
        assert page.request(body=str(text).encode())[0] == 422
        tally("attacks refused")


def test_an_upload_that_is_too_large_is_refused(page, tally: Callable) -> None:
    for head in (f"Content-Length: {10**9}", "Transfer-Encoding: chunked"):
        with _connect(page, head) as connection:
            if "chunked" in head:
                _send_21_megabytes(connection)
            assert b" 413 " in connection.recv(200)
            tally("attacks refused")


def test_slow_uploads_time_out_while_others_are_answered(page, image: bytes, tally: Callable) -> None:
    slow = [_connect(page, "Content-Length: 1000") for _ in range(8)]
    assert page.request(body=image)[0] == 200
    for connection in slow:
        connection.settimeout(10)
        assert b" 408 " in connection.recv(200)
        connection.close()
        tally("attacks refused")


def test_uploads_beyond_the_limit_are_refused_until_others_leave(page, image: bytes, tally: Callable) -> None:
    slow = [_connect(page, "Content-Length: 1000") for _ in range(16)]
    time.sleep(0.3)
    status, body = page.request(body=image)
    assert status == 503
    assert "Too many" in json.loads(body)["error"]
    tally("attacks refused")
    for connection in slow:
        connection.close()
    deadline = time.monotonic() + 10
    while page.request(body=image)[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_concurrent_uploads_get_the_predictions_of_sequential_ones(page, images_bytes: list[bytes]) -> None:
    alone = [page.predict(content) for content in images_bytes]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(page.predict, images_bytes))
    assert together == alone


def test_an_upload_is_not_written_to_disk(page, image: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    watching = threading.Event()

    def record(event: str, arguments: tuple) -> None:
        if watching.is_set() and event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            written.append(str(arguments[0]))

    sys.addaudithook(record)
    watching.set()
    try:
        page.predict(image)
        assert not written
        (tmp_path / "control").write_bytes(b"")
        assert written  # the hook works
    finally:
        watching.clear()


# Negative controls: the same attacks with one protection removed


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "refusal", lambda *_: None)


@pytest.mark.usefixtures("unguarded")
@pytest.mark.parametrize("headers", [*OTHER_SITES, *({"content_type": kind} for kind in FORMS)])
def test_without_the_guard_other_sites_and_forms_would_get_predictions(page, image: bytes, headers: dict) -> None:
    status, body = page.request(body=image, **headers)
    assert status == 200
    assert json.loads(body)["networks"]


def test_without_the_size_limit_a_large_upload_would_be_received(page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_BYTES", 10**12)
    with _connect(page, "Transfer-Encoding: chunked") as connection:
        _send_21_megabytes(connection)
        connection.sendall(b"0\r\n\r\n")
        assert b" 422 " in connection.recv(200)  # all of it was received, and is no image


def test_without_the_time_limit_a_slow_upload_would_stay_in_the_queue(page, monkeypatch: pytest.MonkeyPatch) -> None:
    async def patient(work: Awaitable[bytes], seconds: float) -> bytes:
        return await work

    monkeypatch.setattr(asyncio, "wait_for", patient)
    with _connect(page, "Content-Length: 1000") as connection:
        connection.settimeout(2 * SLOW_SECONDS)
        with pytest.raises(TimeoutError):
            connection.recv(200)


def test_without_the_queue_limit_every_upload_would_be_accepted(
    page, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = uploads.MAX_WAITING
    monkeypatch.setattr(uploads, "MAX_WAITING", 10**6)
    slow = [_connect(page, "Content-Length: 1000") for _ in range(2 * limit)]
    time.sleep(0.3)
    assert page.request(body=image)[0] == 200
    for connection in slow:
        connection.close()


def _send_21_megabytes(connection: socket.socket) -> None:
    for _ in range(21):
        connection.sendall(b"f4240\r\n" + b"x" * 1_000_000 + b"\r\n")


def _connect(page, head: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", page.port), timeout=20)
    lines = ["POST /predict HTTP/1.1", f"Host: 127.0.0.1:{page.port}", "Content-Type: application/octet-stream", head]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection
