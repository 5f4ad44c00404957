"""Middleware that serves the page to this machine only, or to those who know a token, and to no other site."""

import secrets
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UPLOAD_TYPE = "application/octet-stream"
"""Another site's form cannot send this type, and its script only after a preflight request, which is refused."""
SECURITY_HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}


def refusal(method: str, headers: Headers, port: int, token: str = "") -> tuple[int, str] | None:
    """Return the HTTP status and message that refuse a request, or None if it may pass.

    DNS rebinding shows in Host; another site shows in Origin and Sec-Fetch-Site. With a token, which no other site
    knows, the page may be reached under any name of this machine.
    """
    given = [host.lower() for host in headers.getlist("host")]
    hosts = set(given) if token else {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
    if len(given) != 1 or given[0] not in hosts:
        return 403, f"This page is only at http://127.0.0.1:{port}."
    if any(origin.lower() not in {f"http://{host}" for host in hosts} for origin in headers.getlist("origin")):
        return 403, "Another site may not use this page."
    if method in ("GET", "HEAD"):
        return None
    if method != "POST":
        return 405, "Use GET or POST."
    if any(site != "same-origin" for site in headers.getlist("sec-fetch-site")):
        return 403, "Another site may not use this page."
    if headers.getlist("content-type") != [UPLOAD_TYPE]:
        return 415, f"Send the bytes of an image as {UPLOAD_TYPE}."
    return None


class Guard:
    """ASGI middleware: refuses requests that `refusal` names and adds `SECURITY_HEADERS` to each response.

    With a token, everything lies below ``/TOKEN/``, and nothing else is there.
    """

    def __init__(self, app: ASGIApp, port: int, token: str = "") -> None:
        self.app, self.port, self.token = app, port, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection; anything but HTTP is closed."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                if message["status"] >= 400:
                    headers["connection"] = "close"  # do not wait for the rest of a refused upload
            await send(message)

        refused = refusal(scope["method"], Headers(scope=scope), self.port, self.token)
        if self.token:
            first, slash, rest = scope["path"].removeprefix("/").partition("/")
            if not secrets.compare_digest(first.encode(), self.token.encode()) or not slash:
                refused = 404, "Not Found"
            scope = dict(scope) | {"path": f"/{rest}"}
        app = self.app if refused is None else PlainTextResponse(refused[1], refused[0])
        await app(scope, receive, send_with_headers)
