"""Beyond this machine, the page is there only for those who know the token."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra 'demo' is not installed")

from starlette.types import Message

from deepbloom.demo import server
from deepbloom.demo.app import build_app
from deepbloom.demo.predictions import load_networks
from demo_page import image_bytes

TOKEN = "a-long-random-text"
App = Callable[..., tuple[int, bytes]]


@pytest.fixture(scope="module")
def app(checkpoints: list[Path]) -> App:
    """Send one request to the application, which is served with a token."""
    served = build_app(load_networks([str(checkpoints[0])], "cpu"), 80, token=TOKEN)

    def request(path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        given = {"host": "192.0.2.7:80", "content-type": "application/octet-stream"} | headers
        scope = {
            "type": "http",
            "method": "POST" if body else "GET",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        }
        sent: list[Message] = []
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if not waiting:
                await asyncio.sleep(3600)
            return waiting.pop()

        async def send(message: Message) -> None:
            sent.append(message)

        async def serve() -> None:
            await served(scope, receive, send)

        asyncio.run(serve())
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)

    return request


@pytest.mark.parametrize("path", ["/", "/page.js", "/predict", "/wrong/", f"/{TOKEN}", f"/{TOKEN}x/", f"//{TOKEN}/"])
def test_nothing_is_there_without_the_token(app: App, path: str) -> None:
    assert app(path)[0] == 404


def test_the_page_and_predictions_are_below_the_token(app: App) -> None:
    assert app(f"/{TOKEN}/")[0] == app(f"/{TOKEN}/page.js")[0] == app(f"/{TOKEN}/examples/0")[0] == 200
    assert app(f"/{TOKEN}/predict", image_bytes(), origin="http://192.0.2.7:80")[0] == 200
    assert app(f"/{TOKEN}/nothing")[0] == 404


def test_another_site_may_not_use_the_page_even_with_the_token(app: App) -> None:
    assert app(f"/{TOKEN}/predict", image_bytes(), origin="http://evil.example")[0] == 403
    assert app(f"/{TOKEN}/predict", image_bytes(), **{"sec-fetch-site": "cross-site"})[0] == 403


@pytest.mark.parametrize(("host", "has_token"), [("0.0.0.0", True), ("127.0.0.1", False), ("localhost", False)])
def test_the_address_has_a_token_and_a_warning_unless_it_is_this_machine_alone(
    deepbloom: Callable[..., tuple[int, str, str]],
    checkpoints: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    has_token: bool,
) -> None:
    monkeypatch.setattr(server.Server, "run", lambda self, sockets: self.on_start())
    addresses = set()
    for _ in range(2):
        code, out, _ = deepbloom("demo", f"ckpt={checkpoints[0]}", f"host={host}", "port=0")
        assert code == 0
        assert ("Whoever has this address" in out) == has_token
        addresses.add(out.split("open ")[1].split()[0].split("/", 3)[3])
    assert (addresses == {""}) != has_token
    assert len(addresses) == 1 + has_token  # a new token at each start


@pytest.mark.parametrize(("host", "said"), [("", "host is empty"), ("192.0.2.1", "is not an address of this machine")])
def test_an_address_that_is_not_of_this_machine_is_refused(
    deepbloom: Callable[..., tuple[int, str, str]], checkpoints: list[Path], host: str, said: str
) -> None:
    code, _, err = deepbloom("demo", f"ckpt={checkpoints[0]}", f"host={host}", "port=0")
    assert code == 2
    assert said in err
