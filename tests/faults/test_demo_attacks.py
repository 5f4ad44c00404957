"""What others on this machine or in a browser may try on the page's server."""

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
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/proxy=http://127.0.0.1:1/",
    "/gradio_api/upload",
    "/gradio_api/queue/join",
    "/gradio_api/info",
    "/gradio_api/openapi.json",
    "/docs",
    "/openapi.json",
    "/monitoring",
    "/assets/../../../../../../../etc/passwd",
    "/assets/..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/assets/%252e%252e/%252e%252e/etc/passwd",
    "/assets/..\\..\\etc\\passwd",
    "/static//etc/passwd",
    "/theme.css/../config",
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
    status, body = page.ask(path, method="GET")
    assert status == 404
    assert b"root:" not in body
    tally("attacks refused")


def test_the_page_itself_can_be_fetched(page) -> None:
    assert page.ask("/", method="GET")[0] == 200
    assert page.ask("/theme.css", method="GET")[0] == 200


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/run/predict", "/login"])
def test_gradios_own_routes_take_nothing(page, path: str, tally: Callable) -> None:
    assert page.ask(path, b"{}", content_type="application/json")[0] == 405
    tally("attacks refused")


@pytest.mark.parametrize("headers", OTHER_SITES)
def test_another_sites_page_is_refused(page, image: bytes, headers: dict[str, str], tally: Callable) -> None:
    assert page.ask(body=image, **headers)[0] == 403
    assert page.ask(body=image, origin=f"http://127.0.0.1:{page.port}", sec_fetch_site="same-origin")[0] == 200
    tally("attacks refused")


@pytest.mark.parametrize("kind", FORMS)
def test_what_a_form_can_send_is_refused(page, image: bytes, kind: str, tally: Callable) -> None:
    assert page.ask(body=image, content_type=kind)[0] == 415
    tally("attacks refused")


def test_another_site_gets_no_leave_to_ask(page, tally: Callable) -> None:
    status, _ = page.ask(method="OPTIONS", origin="http://evil.example", access_control_request_method="POST")
    assert status == 403
    tally("attacks refused")


def test_a_path_or_address_in_place_of_bytes_is_no_image(page, tmp_path: Path, image: bytes, tally: Callable) -> None:
    (tmp_path / "secret.png").write_bytes(image)
    for text in (tmp_path / "secret.png", json.dumps({"path": str(tmp_path / "secret.png")}), "http://127.0.0.1/a.png"):
        assert page.ask(body=str(text).encode())[0] == 422
        tally("attacks refused")


def test_an_upload_that_is_too_large_is_refused(page, tally: Callable) -> None:
    for head in (f"Content-Length: {10**9}", "Transfer-Encoding: chunked"):
        with _connect(page, head) as connection:
            if "chunked" in head:
                _send_21_megabytes(connection)
            assert b" 413 " in connection.recv(200)
            tally("attacks refused")


def test_slow_uploads_end_and_others_are_answered_meanwhile(page, image: bytes, tally: Callable) -> None:
    slow = [_connect(page, "Content-Length: 1000") for _ in range(8)]
    assert page.ask(body=image)[0] == 200
    for connection in slow:
        connection.settimeout(10)
        assert b" 408 " in connection.recv(200)
        connection.close()
        tally("attacks refused")


def test_more_uploads_than_there_are_places_are_turned_away_and_forgotten(page, image: bytes, tally: Callable) -> None:
    slow = [_connect(page, "Content-Length: 1000") for _ in range(16)]
    time.sleep(0.3)
    status, body = page.ask(body=image)
    assert status == 503
    assert "Too many" in json.loads(body)["error"]
    tally("attacks refused")
    for connection in slow:
        connection.close()
    deadline = time.monotonic() + 10
    while page.ask(body=image)[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_many_at_once_get_the_answers_of_one_at_a_time(page, images_bytes: list[bytes]) -> None:
    alone = [page.answer(content) for content in images_bytes]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(page.answer, images_bytes))
    assert together == alone


def test_no_file_is_made_for_an_upload(page, image: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    watching = threading.Event()

    def note(event: str, arguments: tuple) -> None:
        if watching.is_set() and event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            made.append(str(arguments[0]))

    sys.addaudithook(note)
    watching.set()
    try:
        page.answer(image)
        assert not made
        (tmp_path / "control").write_bytes(b"")
        assert made  # the watcher works
    finally:
        watching.clear()


# Controls: the same attacks where one protection is taken away


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "refusal", lambda *_: None)


@pytest.mark.usefixtures("unguarded")
@pytest.mark.parametrize("headers", [*OTHER_SITES, *({"content_type": kind} for kind in FORMS)])
def test_without_the_guard_another_sites_page_and_form_would_be_answered(page, image: bytes, headers: dict) -> None:
    status, body = page.ask(body=image, **headers)
    assert status == 200
    assert json.loads(body)["networks"]


@pytest.mark.usefixtures("unguarded")
def test_without_the_guard_anybody_could_leave_files_here(page, image: bytes) -> None:
    assert page.ask("/gradio_api/info", method="GET")[0] == 200
    lines = ["--x", 'Content-Disposition: form-data; name="files"; filename="a.png"', "", ""]
    body = "\r\n".join(lines).encode() + image + b"\r\n--x--\r\n"
    status, answer = page.ask("/gradio_api/upload", body, content_type="multipart/form-data; boundary=x")
    assert status == 200
    (made,) = map(Path, json.loads(answer))
    assert made.read_bytes() == image
    made.unlink()
    made.parent.rmdir()


def test_without_the_limit_an_upload_of_any_size_would_be_taken_in(page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_BYTES", 10**12)
    with _connect(page, "Transfer-Encoding: chunked") as connection:
        _send_21_megabytes(connection)
        connection.sendall(b"0\r\n\r\n")
        assert b" 422 " in connection.recv(200)  # all of it was received, and is no image


def test_without_the_time_limit_a_slow_upload_would_keep_its_place(page, monkeypatch: pytest.MonkeyPatch) -> None:
    async def patient(work: Awaitable[bytes], seconds: float) -> bytes:
        return await work

    monkeypatch.setattr(asyncio, "wait_for", patient)
    with _connect(page, "Content-Length: 1000") as connection:
        connection.settimeout(2 * SLOW_SECONDS)
        with pytest.raises(TimeoutError):
            connection.recv(200)


def test_without_the_places_every_upload_would_be_kept(page, image: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    places = uploads.MAX_WAITING
    monkeypatch.setattr(uploads, "MAX_WAITING", 10**6)
    slow = [_connect(page, "Content-Length: 1000") for _ in range(2 * places)]
    time.sleep(0.3)
    assert page.ask(body=image)[0] == 200
    for connection in slow:
        connection.close()


def _send_21_megabytes(connection: socket.socket) -> None:
    for _ in range(21):
        connection.sendall(b"f4240\r\n" + b"x" * 1_000_000 + b"\r\n")


def _connect(page, head: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", page.port), timeout=20)
    lines = ["POST /answer HTTP/1.1", f"Host: 127.0.0.1:{page.port}", "Content-Type: application/octet-stream", head]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection
