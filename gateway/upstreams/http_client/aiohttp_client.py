"""The HttpClient over aiohttp: for TLS, proxies and everything else."""

import io
from collections.abc import Callable, Mapping
from typing import Final

import aiohttp
from yarl import URL

from gateway.upstreams.http_client.client import RelayChunks
from gateway.upstreams.http_client.limits import HEAD_BYTES, IDLE_S

_LARGE_BODY: Final = 1 << 20


def open_session(*, connect_s: float) -> aiohttp.ClientSession:
    """A connection pool. Attempts limit the time of their reads themselves."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_s),
        skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
        max_line_size=HEAD_BYTES,
        max_field_size=HEAD_BYTES,
        auto_decompress=False,
        trust_env=False,
    )


class AiohttpResponse:
    """An HttpResponse."""

    __slots__ = ("_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers

    @property
    def content_encoding(self) -> str:
        """See `HttpResponse`."""
        return ",".join(self._response.headers.getall("content-encoding", ()))

    @property
    def is_complete(self) -> bool:
        """See `HttpResponse`."""
        return self._response.content.at_eof()

    def whole(self, most: int) -> bytes | None:  # noqa: ARG002 - the interface's signature
        """See `HttpResponse`."""
        return None

    async def read(self) -> bytes:
        """See `HttpResponse`."""
        return await self._response.content.readany()

    def push(self, sink: Callable[[bytes], bool] | None, relay_text: RelayChunks | None = None) -> bool:  # noqa: ARG002
        """See `HttpResponse`."""
        return False

    def close(self) -> None:
        """See `HttpResponse`."""
        if self.is_complete:
            self._response.release()
        else:
            self._response.close()


class AiohttpDestination:
    """A Destination."""

    __slots__ = ("_client", "_headers", "_proxy", "_url")

    def __init__(self, client: "AiohttpClient", url: URL, headers: Mapping[str, str], proxy: URL | None) -> None:
        self._client, self._url, self._headers, self._proxy = client, url, headers, proxy

    async def post(self, body: bytes, headers: Mapping[str, str]) -> AiohttpResponse:
        """See `Destination`."""
        return await self._client.post(self._url, body, {**self._headers, **headers}, proxy=self._proxy)


class AiohttpClient:
    """An HttpClient. Closes its session."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    def at(self, url: URL, headers: Mapping[str, str], *, proxy: URL | None = None) -> AiohttpDestination:
        """See `HttpClient`."""
        return AiohttpDestination(self, url, headers, proxy)

    async def post(
        self, url: URL, body: bytes, headers: Mapping[str, str], *, proxy: URL | None = None
    ) -> AiohttpResponse:
        """See `HttpClient`."""
        data = body if len(body) < _LARGE_BODY else io.BytesIO(body)  # aiohttp writes a BytesIO in chunks
        found = await self._session.post(url, data=data, headers=headers, allow_redirects=False, proxy=proxy)
        return AiohttpResponse(found)

    async def aclose(self) -> None:
        """See `HttpClient`."""
        await self._session.close()
