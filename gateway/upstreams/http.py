"""One HTTP call to a target: sends the body, yields Deltas, and raises the gateway's errors only.

Handles OpenAI's framing (whole or streamed), not the content.
"""

import asyncio
import contextlib
import io
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

import aiohttp
from yarl import URL

from gateway.errors import UpstreamError
from gateway.types import Delta
from gateway.upstreams.errors import from_response, translate_errors
from gateway.upstreams.parse_response import read_delta
from gateway.upstreams.sse_reader import EventReader, EventTooLarge

MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
MAX_ERROR_BYTES: Final = 64 * 1024
DONE: Final = b"[DONE]"
_LARGE_BODY: Final = 1 << 20
_LINGER_S: Final = 0.2


def open_session(*, connect_s: float) -> aiohttp.ClientSession:
    """The connection pool of the gateway. Attempts limit the time of their reads themselves.

    Idle connections are closed before common servers close them (5 s), so that a request does not meet a closed one.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_s),
        skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
        auto_decompress=False,
        trust_env=False,
    )


async def post(session: aiohttp.ClientSession, url: URL, body: bytes, headers: dict[str, str]) -> "HttpReply":
    """Returns when the headers of a 200 response have arrived. Raises AttemptFailed for any other; follows no
    redirects."""
    data = body if len(body) < _LARGE_BODY else io.BytesIO(body)  # aiohttp writes a BytesIO in chunks
    with translate_errors():
        response = await session.post(url, data=data, headers=headers, allow_redirects=False)
        if response.status == 200:
            return HttpReply(response)
        try:
            error_body = await response.content.read(MAX_ERROR_BYTES)
        finally:
            response.close()
    raise from_response(response.status, response.headers, error_body)


class HttpReply:
    """An UpstreamResponse over HTTP. The content type of the response determines whether it is streamed."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.headers = response.headers

    @property
    def is_stream(self) -> bool:
        """Whether the response is an event stream."""
        return self._response.content_type == "text/event-stream"

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """See `ports.UpstreamResponse`. A stream is complete only after `[DONE]`."""
        if not self.is_stream:
            yield read_delta(await self._whole())
            return
        async for data in self._events():
            yield read_delta(data)
        await self._linger()

    async def aclose(self) -> None:
        """Return the connection to the pool if the response was read to its end, else close it."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()

    async def _whole(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        with translate_errors():
            async for part in self._response.content.iter_any():
                parts.append(part)
                size += len(part)
                if size > MAX_ANSWER_BYTES:
                    raise UpstreamError("The target's response is too large.", detail="answer too large")
        return b"".join(parts)

    async def _events(self) -> AsyncIterator[bytes]:
        reader = EventReader()
        try:
            with translate_errors():
                async for part in self._response.content.iter_any():
                    for data in reader.feed(part):
                        if data == DONE:
                            return
                        yield data
        except EventTooLarge as fault:
            raise UpstreamError("The target's response is too large.", detail="event too large") from fault
        raise UpstreamError(
            "The target closed the connection before the response was complete.", detail="stream cut short"
        )

    async def _linger(self) -> None:
        """Read the end of the body after `[DONE]`, so that the connection can be reused."""
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(_LINGER_S):
                await self._response.content.readany()
