"""Who may ask the page's server for what: its own page only, at this machine's own address, and few things."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]

PAGES = {"/", "/theme.css", "/config", "/favicon.ico"}
FOLDERS = ("/assets/", "/static/")
"""What the page consists of. Gradio's other routes (uploads, files, proxy, queue, documentation) do not exist here."""
ANSWER = "/answer"
UPLOAD_TYPE = "application/octet-stream"
"""A type that another site's form cannot send, and its script only after asking, which is refused."""
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; base-uri 'self'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def refusal(scope: Scope, port: int) -> tuple[int, str] | None:
    """Return the HTTP status and the message with which a request is refused, or None for one to be answered.

    A name that leads to this machine by another's doing (DNS rebinding) shows in Host; another site in Origin and
    Sec-Fetch-Site.
    """
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
    if len(headers.get("host", [])) != 1 or headers["host"][0].lower() not in hosts:
        return 403, f"This page is only at http://127.0.0.1:{port}."
    if any(origin.lower() not in {f"http://{host}" for host in hosts} for origin in headers.get("origin", [])):
        return 403, "Another site may not use this page."
    path, method = scope["path"], scope["method"]
    if path == ANSWER:
        if headers.get("sec-fetch-site", ["same-origin"])[-1] != "same-origin":
            return 403, "Another site may not use this page."
        if method != "POST":
            return 405, "Send an image."
        if headers.get("content-type") != [UPLOAD_TYPE]:
            return 415, f"Send the image's bytes as {UPLOAD_TYPE}."
        return None
    if method not in ("GET", "HEAD"):
        return 405, "There is nothing to send to here."
    strange = ".." in path or "\\" in path or "//" in path or "\0" in path or "%" in path
    if strange or not (path in PAGES or path.startswith(FOLDERS)):
        return 404, "There is nothing here."
    return None


class Guard:
    """ASGI middleware: refuses what `refusal` names, and adds headers that keep the page to itself."""

    def __init__(self, app: App, port: int) -> None:
        self.app, self.port = app, port

    async def __call__(self, scope: Scope, receive: Callable, send: Callable) -> None:
        """Answer one request; other kinds of connection than HTTP are closed."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if name.lower() not in _REPLACED]
                message["headers"] = [*kept, *_ADDED]
                if not scope["path"].startswith(FOLDERS):
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        refused = refusal(scope, self.port)
        if refused is None:
            await self.app(scope, receive, send_with_headers)
            return
        status, text = refused
        body = text.encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        if scope["method"] != "GET":  # what may still be on its way is not waited for
            headers.append((b"connection", b"close"))
        await send_with_headers({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


_ADDED = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
_REPLACED = {name for name, _ in _ADDED} | {b"access-control-allow-origin", b"access-control-allow-credentials"}
