"""What the gateway needs of an HTTP client, and how calls fail.

`CannotConnect` and `TimeoutError` say that no byte of the request was sent. After `HungUp` the server may have
processed it.
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, Protocol

from yarl import URL

PUSHED_BYTES: Final = 1 << 14
# Takes whole chunks of a body, each of them an event that adds text to the same choice, the index of the choice, and
# the characters of the text. Returns whether there is room for more; None: the chunks must be read.
RelayChunks = Callable[[bytes, int, int], bool | None]


class CannotConnect(Exception):  # noqa: N818 - says what happened
    """No connection could be opened."""


class HungUp(Exception):  # noqa: N818 - says what happened
    """The server closed the connection before the end of its response."""


class InvalidResponse(Exception):  # noqa: N818 - says what happened
    """The response breaks the rules of HTTP/1.1 or a limit; the message says which."""


class ResponseTimeout(Exception):  # noqa: N818 - says what happened
    """The head of the response did not arrive in time."""


class HttpResponse(Protocol):
    """A response whose head has arrived. It has one reader. Names of headers are found in lower case."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def content_encoding(self) -> str:
        """All `content-encoding` headers."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether the end of the body was read."""
        ...

    def whole(self, most: int) -> bytes | None:
        """The body, if all of it has arrived, at most so many bytes, and none was read; otherwise None, as for an empty
        one."""
        ...

    def read(self) -> Awaitable[bytes]:
        """What has arrived of the body since the last call, at least one byte; nothing at its end."""
        ...

    def push(self, sink: Callable[[bytes], bool] | None, relay_text: RelayChunks | None = None) -> bool:
        """Call `sink` with what arrives, as soon as it does, in place of `read`, until it returns False, or until None
        takes its place. It is called with nothing, once, when `read` must be called: at the end, after a failure, and
        for a part of more than PUSHED_BYTES. Returns False if the client cannot do this. `relay_text` may be called in
        place of it; see `RelayChunks`."""
        ...

    def close(self) -> None:
        """Close the connection at once unless the response is complete; then it may be reused."""
        ...


class Destination(Protocol):
    """Where requests are sent, with the headers that all of them have."""

    def post(self, body: bytes, headers: Mapping[str, str]) -> Coroutine[Any, Any, HttpResponse]:
        """See `HttpClient`. `headers` are those of this request, with other names."""
        ...


class HttpClient(Protocol):
    """Sends requests over connections that it keeps open."""

    def at(self, url: URL, headers: Mapping[str, str], *, proxy: URL | None = None) -> Destination:
        """Requests to this URL that all have these headers. Raises nothing: calls do."""
        ...

    def post(
        self, url: URL, body: bytes, headers: Mapping[str, str], *, proxy: URL | None = None
    ) -> Coroutine[Any, Any, HttpResponse]:
        """Returns when the head of the response has arrived. Follows no redirects."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class ClientByScheme:
    """Calls http:// URLs without a proxy by one client, and everything else by another, which `make_other` makes when
    it is first needed."""

    def __init__(self, plain: HttpClient, make_other: Callable[[], HttpClient]) -> None:
        self._plain = plain
        self._make_other = make_other
        self._other: HttpClient | None = None

    def at(self, url: URL, headers: Mapping[str, str], *, proxy: URL | None = None) -> Destination:
        """See `HttpClient`."""
        return self._client_of(url, proxy).at(url, headers, proxy=proxy)

    def post(
        self, url: URL, body: bytes, headers: Mapping[str, str], *, proxy: URL | None = None
    ) -> Coroutine[Any, Any, HttpResponse]:
        """See `HttpClient`."""
        return self._client_of(url, proxy).post(url, body, headers, proxy=proxy)

    def _client_of(self, url: URL, proxy: URL | None) -> HttpClient:
        return self._plain if url.scheme == "http" and proxy is None else self.other()

    def other(self) -> HttpClient:
        """The client for everything else."""
        if self._other is None:
            self._other = self._make_other()
        return self._other

    async def aclose(self) -> None:
        """Close the connections of both clients."""
        await self._plain.aclose()
        if self._other is not None:
            await self._other.aclose()
