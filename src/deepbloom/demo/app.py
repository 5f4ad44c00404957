"""The page and its server. Gradio draws the page; the image goes to a route of our own, and no file is ever made.

Gradio's own uploads are files in a cache, fetched again by path. Here the browser sends the bytes with each question,
keeps them itself, and gets everything back in one answer; all of Gradio's routes but the page's parts are closed.
"""

import asyncio
import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from deepbloom.demo.answers import PREDICTED, Network, answer, class_names
from deepbloom.demo.guard import ANSWER, Guard
from deepbloom.demo.uploads import MAX_BYTES, Desk, UploadRefused
from deepbloom.errors import ConfigError, DeepBloomError
from deepbloom.explain.cam import METHODS
from deepbloom.signals import Stopped

TITLE = "DeepBloom"
ADDRESS = "127.0.0.1"
FONT = ["system-ui", "sans-serif"]
MONOSPACE = ["ui-monospace", "monospace"]
MAX_CONNECTIONS = 128
IDLE_SECONDS = 20.0
"""A connection that has sent no complete request by then is closed."""
CLOSING_SECONDS = 2


def import_gradio() -> Any:
    """Return the module, told to send nothing anywhere.

    Raises
    ------
    ConfigError
        It is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise ConfigError(
            f"deepbloom demo needs the extra 'demo' ({error.name} is missing): pip install 'deepbloom[demo]'."
        ) from error
    return gradio


def build_page(gradio: Any, networks: Sequence[Network]) -> Any:
    """Return the page as a ``gradio.Blocks``: what is chosen goes to the script ``page.js``, which does the rest."""
    methods = [(f"{m.title} (slow)" if m.needs == "probe" else m.title, name) for name, m in METHODS.items()]
    targets = [("predicted class", PREDICTED), *((name, name) for name in class_names(networks))]
    with gradio.Blocks(title=TITLE, analytics_enabled=False) as page:
        gradio.HTML(_part("page.html").replace("MEGABYTES", f"{MAX_BYTES / 1e6:g}"), elem_id="image-part")
        with gradio.Row(elem_id="choices"):
            method = gradio.Dropdown(methods, value="gradcam", label="Method", interactive=True, elem_id="method")
            target = gradio.Dropdown(targets, value=PREDICTED, label="Heatmap for", interactive=True, elem_id="target")
            opacity = gradio.Slider(0, 100, value=45, step=1, label="Opacity (%)", interactive=True, elem_id="opacity")
        gradio.HTML('<div id="answers" aria-live="polite"></div>', elem_id="answers-part")
        for chosen in (method, target):
            chosen.change(None, [method, target], None, js="(...chosen) => window.deepbloom.choose(...chosen)")
        opacity.change(None, [opacity], None, js="(percent) => window.deepbloom.blend(percent)")
    return page


def build_app(networks: Sequence[Network], port: int, desk: Desk | None = None) -> Guard:
    """Return the ASGI application.

    Parameters
    ----------
    networks : sequence of Network
        Shown side by side.
    port : int
        Where it will be served: requests for another address are refused.
    desk : Desk or None
        Takes the uploads.
    """
    gradio = import_gradio()
    from fastapi import FastAPI
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse

    desk = desk or Desk()

    async def handle(request: Request) -> JSONResponse:
        method = request.query_params.get("method", "gradcam")
        target = request.query_params.get("target", PREDICTED)
        try:
            said = await desk.answer(
                request.headers.get("content-length"),
                request.stream(),
                lambda content: answer(content, networks, method, target),
                request.is_disconnected,
            )
            return JSONResponse(said)
        except ClientDisconnect:
            return JSONResponse({"error": "The upload was broken off."}, 400)
        except DeepBloomError as error:
            status = error.status if isinstance(error, UploadRefused) else 422
            headers = {"connection": "close"} if isinstance(error, UploadRefused) else None
            return JSONResponse({"error": str(error)}, status, headers)

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_route(ANSWER, handle, methods=["POST"])
    theme = gradio.themes.Soft(primary_hue="rose", neutral_hue="stone", font=FONT, font_mono=MONOSPACE).set(
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_padding="0",
    )
    page = build_page(gradio, networks)
    gradio.mount_gradio_app(
        app,
        page,
        path="",
        server_name=ADDRESS,
        server_port=port,
        ssr_mode=False,
        footer_links=[],
        show_error=False,
        theme=theme,
        css=_part("page.css"),
        js=_part("page.js"),
    )
    return Guard(app, port)


def _part(name: str) -> str:
    return files("deepbloom.demo").joinpath(name).read_text(encoding="utf-8")


def listen(port: int) -> socket.socket:
    """Return a socket on the loopback interface; port 0 takes any free one.

    Raises
    ------
    ConfigError
        The port is taken or not allowed.
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


def build_server(app: Any) -> Any:
    """Return a uvicorn server that leaves signals to its caller and closes connections which send no request."""
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(IDLE_SECONDS, self.close_if_silent)

        def close_if_silent(self) -> None:
            if self.cycle is None and not self.transport.is_closing():
                self.transport.close()

    class Server(uvicorn.Server):
        def capture_signals(self) -> Any:
            return contextlib.nullcontext()

    settings = uvicorn.Config(
        app,
        http=Impatient,
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )
    return Server(settings)


def serve(networks: Sequence[Network], port: int, announce: Any) -> None:
    """Serve the page until a signal comes; ``announce`` is called with its address as soon as it can be opened.

    Raises
    ------
    ConfigError
        The port cannot be used, or Gradio is not installed.
    Stopped
        By SIGINT or SIGTERM.
    """
    import_gradio()
    with listen(port) as listening, tempfile.TemporaryDirectory(prefix="deepbloom-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder))  # nothing is written there; if ever, it goes with the folder
        number = listening.getsockname()[1]
        server = build_server(build_app(networks, number))
        stopped = asyncio.run(_serve(server, listening, lambda: announce(f"http://{ADDRESS}:{number}")))
    raise Stopped(stopped)


async def _serve(server: Any, listening: socket.socket, announce: Any) -> int:
    received: list[int] = []

    def stop(number: int) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.02)
    announce()
    await serving
    return received[0] if received else int(signal.SIGTERM)
