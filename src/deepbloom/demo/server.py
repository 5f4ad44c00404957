"""The server of the page. It listens on the loopback interface unless told otherwise."""

import errno
import secrets
import socket
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from deepbloom.config.command_settings import LOOPBACK
from deepbloom.demo.app import build_app
from deepbloom.demo.predictions import Network
from deepbloom.errors import ConfigError

TOKEN_BYTES = 16
MAX_CONNECTIONS = 128
IDLE_SECONDS = 20.0
"""A connection that has not sent a complete request head by then is closed."""
KEEP_ALIVE_SECONDS = 10
SHUTDOWN_SECONDS = 2


def listen(port: int, host: str = LOOPBACK) -> socket.socket:
    """Return a socket bound to an address of this machine; port 0 takes any free one.

    Raises
    ------
    ConfigError
        The port is taken or not permitted, or the address is not this machine's.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        if host == LOOPBACK or isinstance(error, PermissionError) or error.errno == errno.EADDRINUSE:
            fix = f"port={port} cannot be used ({error.strerror}). Give another, or port=0 for any free one."
        else:
            fix = f"host={host} is not an address of this machine ({error.strerror}). host=0.0.0.0 means all of them."
        raise ConfigError(fix) from error
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


def serve(networks: Sequence[Network], host: str, port: int, announce: Callable[[str], object]) -> None:
    """Serve the page until a signal arrives; ``announce`` is called with its URL.

    Beyond the loopback interface, the URL has a random token, new at each start, without which nothing is served.
    uvicorn shuts down on SIGINT and SIGTERM and then raises the signal again for its caller's handler.

    Raises
    ------
    ConfigError
        The port or the address cannot be used.
    """
    with listen(port, host) as listening:
        bound_port = listening.getsockname()[1]
        token = "" if host == LOOPBACK else secrets.token_urlsafe(TOKEN_BYTES)
        url = f"http://{_reachable(host)}:{bound_port}/" + (f"{token}/" if token else "")
        Server(build_app(networks, bound_port, token=token), lambda: announce(url)).run(sockets=[listening])


def _reachable(host: str) -> str:
    """Return an address under which others reach this machine; no packet is sent to find it."""
    if host != "0.0.0.0":
        return host
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # reserved for documentation
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()
