"""The upload queue: limits on size, duration and number. Uploads stay in memory and are never written to disk."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request

from deepbloom.errors import DeepBloomError

MAX_BYTES = 20_000_000
UPLOAD_SECONDS = 30.0
"""Longest time from the first byte of an upload to its last."""
MAX_WAITING = 16
"""Uploads that are being received, waiting or being processed; one is processed at a time."""

T = TypeVar("T")


class UploadRefused(DeepBloomError):
    """An upload is too large, too slow, or one too many.

    Parameters
    ----------
    message : str
    status : int
        HTTP status of the response.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class UploadQueue:
    """Receives uploads and processes them one at a time.

    Parameters
    ----------
    seconds : float
        See `UPLOAD_SECONDS`.
    """

    def __init__(self, seconds: float = UPLOAD_SECONDS) -> None:
        self.seconds = seconds
        self._waiting = 0
        self._turn = asyncio.Lock()

    async def process(self, request: Request, work: Callable[[bytes], T]) -> T:
        """Return ``work(body)``, run in a thread. A client that has disconnected before its turn is skipped.

        Raises
        ------
        UploadRefused
            A limit is exceeded. Exceptions of ``work`` pass through.
        """
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > MAX_BYTES:
            raise _too_large()
        if self._waiting >= MAX_WAITING:
            raise UploadRefused("Too many images at once. Try again in a moment.", 503)
        self._waiting += 1
        try:
            try:
                content = await asyncio.wait_for(_read(request), self.seconds)
            except asyncio.TimeoutError as error:
                raise UploadRefused(f"The upload took longer than {self.seconds:g} seconds.", 408) from error
            async with self._turn:
                if await request.is_disconnected():
                    raise UploadRefused("The client has disconnected.", 499)
                return await asyncio.to_thread(work, content)
        finally:
            self._waiting -= 1


async def _read(request: Request) -> bytes:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MAX_BYTES:
            raise _too_large()
    return bytes(content)


def _too_large() -> UploadRefused:
    return UploadRefused(f"This file is larger than {MAX_BYTES / 1e6:g} MB. Scale the image down first.", 413)
