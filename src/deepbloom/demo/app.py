"""The web application and its server. It makes no network requests and listens on the loopback interface only."""

import html
import socket
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from string import Template
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from deepbloom.demo.guard import Guard
from deepbloom.demo.predictions import PREDICTED, Network, class_names, predict_image
from deepbloom.demo.uploads import MAX_BYTES, UploadQueue, UploadRefused
from deepbloom.errors import ConfigError, DeepBloomError
from deepbloom.explain.methods import METHODS

ADDRESS = "127.0.0.1"
DEFAULT_METHOD = "gradcam"
MAX_CONNECTIONS = 128
IDLE_SECONDS = 20.0
"""A connection that has not sent a complete request head by then is closed."""
KEEP_ALIVE_SECONDS = 10
SHUTDOWN_SECONDS = 2


def build_app(networks: Sequence[Network], port: int, queue: UploadQueue | None = None) -> ASGIApp:
    """Return the ASGI application: the page, its script and style sheet, and ``POST /predict``.

    Parameters
    ----------
    networks : sequence of Network
        Shown side by side.
    port : int
        The port it is served on: requests that name another address are refused.
    queue : UploadQueue, optional
    """
    uploads = queue or UploadQueue()

    async def predict(request: Request) -> JSONResponse:
        method = request.query_params.get("method", DEFAULT_METHOD)
        target = request.query_params.get("target", PREDICTED)
        try:
            result = await uploads.process(request, lambda content: predict_image(content, networks, method, target))
            return JSONResponse(result)
        except ClientDisconnect:
            return JSONResponse({"error": "The upload was interrupted."}, 400)
        except UploadRefused as error:
            return JSONResponse({"error": str(error)}, error.status)
        except DeepBloomError as error:
            return JSONResponse({"error": str(error)}, 422)

    routes = [
        _static("/", build_page(networks), "text/html"),
        _static("/page.css", _read("page.css"), "text/css"),
        _static("/page.js", _read("page.js"), "text/javascript"),
        Route("/predict", predict, methods=["POST"]),
    ]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    return Guard(app, port)


def build_page(networks: Sequence[Network]) -> str:
    """Return the HTML of the page with the choices of method and class."""
    methods = ((name, f"{m.title} (slow)" if m.is_slow else m.title) for name, m in METHODS.items())
    targets = [(PREDICTED, "predicted class"), *((name, name) for name in class_names(networks))]
    return Template(_read("page.html")).substitute(
        max_bytes=MAX_BYTES,
        max_megabytes=f"{MAX_BYTES / 1e6:g}",
        methods=_options(methods, DEFAULT_METHOD),
        targets=_options(targets, PREDICTED),
    )


def _options(choices: Iterable[tuple[str, str]], selected: str) -> str:
    return "\n".join(
        f'<option value="{html.escape(value)}"{" selected" if value == selected else ""}>{html.escape(title)}</option>'
        for value, title in choices
    )


def _read(name: str) -> str:
    return files("deepbloom.demo").joinpath(name).read_text(encoding="utf-8")


def _static(path: str, text: str, media_type: str) -> Route:
    return Route(path, lambda _: Response(text, media_type=media_type))


def listen(port: int) -> socket.socket:
    """Return a socket bound to the loopback interface; port 0 takes any free one.

    Raises
    ------
    ConfigError
        The port is taken or not permitted.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((ADDRESS, port))
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"port={port} cannot be used ({error.strerror}). Give another, or port=0 for any free one."
        ) from error
    return listening


class ImpatientProtocol(H11Protocol):
    """Closes a connection that sends no request within `IDLE_SECONDS`."""

    def connection_made(self, transport: Any) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self.loop.call_later(IDLE_SECONDS, self.close_if_silent)

    def close_if_silent(self) -> None:
        """Close the connection unless a request has arrived."""
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """A uvicorn server that logs only errors, closes silent connections, and calls ``on_start`` when it is ready."""

    def __init__(self, app: ASGIApp, on_start: Callable[[], object] = lambda: None) -> None:
        self.on_start = on_start
        config = uvicorn.Config(
            app,
            http=ImpatientProtocol,
            ws="none",
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections; from here on a signal shuts the server down."""
        await super().startup(sockets)
        self.on_start()


def serve(networks: Sequence[Network], port: int, announce: Callable[[str], object]) -> None:
    """Serve the page until a signal arrives; ``announce`` is called with its URL.

    uvicorn shuts down on SIGINT and SIGTERM and then raises the signal again for its caller's handler.

    Raises
    ------
    ConfigError
        The port cannot be used.
    """
    with listen(port) as listening:
        bound_port = listening.getsockname()[1]
        app = build_app(networks, bound_port)
        Server(app, lambda: announce(f"http://{ADDRESS}:{bound_port}")).run(sockets=[listening])
