"""Images as they come in: so many bytes, so long, so many at once; in memory only, never a file."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from deepbloom.errors import DeepBloomError

MAX_BYTES = 20_000_000
UPLOAD_SECONDS = 30.0
"""Longest time from an upload's first byte to its last."""
MAX_WAITING = 16
"""Uploads that are received, waiting or being answered; one is answered at a time."""


class UploadRefused(DeepBloomError):
    """An upload is too large, too slow, or one too many.

    Parameters
    ----------
    message : str
    status : int
        Of the HTTP answer.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Desk:
    """Takes uploads and hands them on one at a time.

    Parameters
    ----------
    seconds : float
        See `UPLOAD_SECONDS`.
    """

    def __init__(self, seconds: float = UPLOAD_SECONDS) -> None:
        self.seconds = seconds
        self._inside = 0
        self._turn = asyncio.Lock()

    async def answer(
        self,
        announced: str | None,
        parts: AsyncIterator[bytes],
        work: Callable[[bytes], Any],
        gone: Callable[[], Awaitable[bool]],
    ) -> Any:
        """Return ``work`` of the uploaded bytes, run in a thread.

        Parameters
        ----------
        announced : str or None
            The upload's Content-Length.
        parts : asynchronous iterator of bytes
        work : callable
        gone : asynchronous callable
            Whether nobody waits for the answer any more: asked when the upload's turn has come.

        Raises
        ------
        UploadRefused
            See there. What ``work`` raises is passed on.
        """
        if announced and announced.isdecimal() and int(announced) > MAX_BYTES:
            raise _too_large()
        if self._inside >= MAX_WAITING:
            raise UploadRefused("Too many images at once. Try again in a moment.", 503)
        self._inside += 1
        try:
            try:
                content = await asyncio.wait_for(_read(parts), self.seconds)
            except asyncio.TimeoutError as error:
                raise UploadRefused(f"The upload took longer than {self.seconds:g} seconds.", 408) from error
            async with self._turn:
                if await gone():
                    raise UploadRefused("Nobody waits for this answer any more.", 499)
                return await asyncio.to_thread(work, content)
        finally:
            self._inside -= 1


async def _read(parts: AsyncIterator[bytes]) -> bytes:
    content = bytearray()
    async for part in parts:
        content += part
        if len(content) > MAX_BYTES:
            raise _too_large()
    return bytes(content)


def _too_large() -> UploadRefused:
    return UploadRefused(f"This file is larger than {MAX_BYTES / 1e6:g} MB. Scale the image down first.", 413)
