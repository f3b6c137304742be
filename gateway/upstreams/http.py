"""One HTTP call to a target: sends the body, yields Deltas, and raises the gateway's errors only.

Handles HTTP: redirects, proxies and content codings. `answers.reader` reads the body.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import Final

from yarl import URL

from gateway.enums import TargetApi
from gateway.errors import TargetMisconfigured, UpstreamError
from gateway.ports import HEARTBEAT, RelayText
from gateway.types import Delta, Query, Target
from gateway.upstreams.answers.content_encoding import (
    MAX_PIECE_BYTES,
    CorruptBody,
    UnsupportedEncoding,
    decoder_for,
)
from gateway.upstreams.answers.kept_bytes import keep_bytes
from gateway.upstreams.answers.pushed_stream import PushedStream
from gateway.upstreams.answers.reader import AnswerReader, read_document
from gateway.upstreams.answers.whole_reply import WholeReply
from gateway.upstreams.errors import TRANSLATED, from_response, translated
from gateway.upstreams.http_client.client import Destination, HttpClient, HttpResponse
from gateway.upstreams.proxies import Proxy

MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
MAX_ERROR_BYTES: Final = 64 * 1024
_MAX_REDIRECTS: Final = 3
_LINGER_S: Final = 0.2
_NOTHING: Final = deque[Delta]()
# After a complete answer, a stream only brings its usage and `[DONE]`.
_TRAILER_S: Final = 5.0
_ERROR_BODY_S: Final = 5.0
_FIXED: Final = {"content-type": "application/json", "accept-encoding": "identity"}
# Headers that calls have, in place of a target's own.
_PER_CALL: Final = frozenset(
    "x-request-id traceparent tracestate x-twolane-deadline-ms x-twolane-min-confidence".split()
)


class ErrorAnswer(Exception):  # noqa: N818 - says what came
    """A response with an error status; `body` is its decoded beginning."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status, self.body = status, body


class ChatEndpoint:
    """The URLs of a target's APIs, with the target's static headers and its proxy."""

    def __init__(self, target: Target, client: HttpClient, proxy: Proxy | None = None) -> None:
        self._client = client
        self._urls = {api: URL(target.url_of(api), encoded=True) for api in TargetApi}
        fixed = {**dict(target.headers), **_FIXED}
        self._replaced = {name: value for name, value in fixed.items() if name in _PER_CALL}
        self._headers = {name: value for name, value in fixed.items() if name not in _PER_CALL}
        self._problem = proxy.problem if proxy else None
        self._proxy = URL(proxy.url) if proxy and not proxy.problem else None
        self._destinations: dict[TargetApi, tuple[str, Destination]] = {}  # with the key that is sent there

    async def post(
        self, body: bytes, headers: Mapping[str, str], query: Query, api: TargetApi = TargetApi.CHAT, *, key: str = ""
    ) -> "Reply":
        """Returns when the headers of the response have arrived. `headers` are those of this call, of `_PER_CALL`; with
        a `key`, there is also one for it. Raises AttemptFailed: its cause is an ErrorAnswer if the status is an
        error."""
        try:
            known = self._destinations.get(api)
            if known is None or known[0] != key:
                known = self._destination(api, key)
            response = await known[1].post(body, {**self._replaced, **headers} if self._replaced else headers)
            if 200 <= response.status < 300:
                return _reply(response, query, api)
            if key:
                headers = {**headers, "authorization": f"Bearer {key}"}
            return await self._redirected(response, body, headers, query, api)
        except Exception as fault:  # what is not of the HTTP client is raised as it is
            if (error := translated(fault)) is None:
                raise
            raise error from fault

    def _destination(self, api: TargetApi, key: str) -> tuple[str, Destination]:
        """Where requests for this API are sent with this key, whose header is checked and encoded once."""
        if self._problem is not None:
            raise UpstreamError("The configured proxy cannot be used.", detail=self._problem)
        headers = {**self._headers, "authorization": f"Bearer {key}"} if key else self._headers
        known = key, self._client.at(self._urls[api], headers, proxy=self._proxy)
        self._destinations[api] = known
        return known

    async def _redirected(
        self, response: HttpResponse, body: bytes, headers: Mapping[str, str], query: Query, api: TargetApi
    ) -> "Reply":
        """Follow redirects that keep method and body (307, 308) on the same host. The credentials are sent again only
        to the same origin, or where http becomes https. Another host never receives the request."""
        url, sent = self._urls[api], {**self._headers, **self._replaced, **headers}
        for left in reversed(range(_MAX_REDIRECTS)):
            if 200 <= response.status < 300:
                return _reply(response, query, api)
            next_url = _redirect(response, url)
            if next_url is None:
                answer = await _error_answer(response)
                raise from_response(answer.status, response.headers, answer.body) from answer
            response.close()
            if not left:
                break
            if not _keeps_credentials(url, next_url):
                sent = {name: value for name, value in {**_FIXED, **headers}.items() if name != "authorization"}
            url = next_url
            response = await self._client.post(url, body, sent, proxy=self._proxy)
        raise TargetMisconfigured("The target redirects too often.", detail=f"more than {_MAX_REDIRECTS - 1} redirects")


class HttpReply:
    """Any other UpstreamResponse over HTTP, in the form that the query asks for, whatever the target sends. It is its
    own iterator of deltas, because asynchronous generators cost the event loop more than their work here."""

    __slots__ = (
        *("_api", "_fault", "_first", "_found", "_is_over", "_is_single", "_parts", "_reader", "_response", "_stream"),
        "_trailer_until_s",
    )

    def __init__(
        self, response: HttpResponse, query: Query, api: TargetApi = TargetApi.CHAT, *, first: bytes | None = None
    ) -> None:
        self._response = response
        self._reader: AnswerReader | None = None  # of a body that is more than one document
        self._is_over = False
        self._trailer_until_s: float | None = None
        self._fault: Exception | None = None  # met by `push`
        self._first = first  # a whole body that is no JSON object
        self._stream = query.stream
        self._is_single = query.n == 1  # of several choices, one may begin when another has ended
        self._api = api
        # Of a body that is not read as it is.
        self._parts: AsyncGenerator[bytes, None] | None = _decoded(response) if response.content_encoding else None
        self._found = _NOTHING  # deltas to return, once there is a reader

    @property
    def headers(self) -> Mapping[str, str]:
        """Those of the response."""
        return self._response.headers

    def deltas(self) -> "HttpReply":
        """See `ports.UpstreamResponse`. A stream is complete with `[DONE]`, or if it ends after its finish reasons."""
        return self

    def __aiter__(self) -> "HttpReply":
        return self

    async def __anext__(self) -> Delta:
        """The next delta."""
        while not self._found:
            if self._fault is not None:
                raise self._fault
            if self._is_over:
                raise StopAsyncIteration
            reader = self._reader
            if reader is None:
                part = self._first or await self._part()
                self._first = None
                if part and not self._stream and part[:1] == b"{":
                    return await self._document(part)
                reader = AnswerReader(stream=self._stream, max_bytes=MAX_ANSWER_BYTES, api=self._api)
                self._reader, self._found = reader, deque()
            elif reader.is_done:
                await self._linger()
                part = None
            elif self._is_single and reader.is_finished:
                part = await self._trailer()
            else:
                part = await self._part()
            if part:
                self._found.extend(reader.feed(part))
                if reader.keeps_all:
                    keep_bytes(len(part))
                if not self._found and self._stream and not reader.is_done:
                    return HEARTBEAT  # a comment, or a part of an event
                continue
            self._is_over = True
            self._found.extend(reader.close())
        return self._found.popleft()

    async def _document(self, part: bytes) -> Delta:
        """A whole response that begins with this part."""
        parts, size = [], 0
        while part:
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise UpstreamError("The target's response is too large.", detail="answer too large")
            keep_bytes(len(part))
            parts.append(part)
            part = await self._part() or b""
        self._is_over = True
        return read_document(parts[0] if len(parts) == 1 else b"".join(parts), self._api)

    async def push(self, take: Callable[[list[Delta]], bool], relay: RelayText | None = None) -> None:
        """See `ports.Deltas`."""
        reader = self._reader
        if reader is None or reader.keeps_all or self._found or self._parts is not None:
            return
        if reader.is_done or (self._is_single and reader.is_finished):  # only the end of the stream is expected
            return
        pushed = PushedStream(reader, self._found, take, is_single=self._is_single, trailer_s=_TRAILER_S)
        try:
            if self._response.push(pushed.feed, None if relay is None else pushed.relaying(relay)):
                await pushed.end
        finally:
            self._response.push(None)
            pushed.close()
            self._fault, self._trailer_until_s = pushed.fault, pushed.trailer_until_s

    def arrived(self) -> list[Delta]:
        """See `ports.Deltas`."""
        found = list(self._found)
        self._found.clear()
        return found

    async def aclose(self) -> None:
        """Return the connection to the pool if the response was read to its end, else close it."""
        self._is_over = True
        self._found.clear()
        if self._parts is not None:
            await self._parts.aclose()
        self._response.close()

    async def _part(self) -> bytes | None:
        """The next part of the body without its content coding; None or nothing at its end."""
        if self._parts is None:
            try:
                part = await self._response.read()
            except Exception as fault:  # what is not of the HTTP client is raised as it is
                if (error := translated(fault)) is None:
                    raise
                raise error from fault
            if len(part) <= MAX_PIECE_BYTES:
                return part
            self._parts = _in_pieces(part, self._response)
        return await anext(self._parts, None)

    async def _trailer(self) -> bytes | None:
        """The next part of the body behind a complete answer. A target that breaks off there, falls silent or sends
        heartbeats has done its work."""
        now_s = asyncio.get_running_loop().time()
        self._trailer_until_s = self._trailer_until_s or now_s + _TRAILER_S
        try:
            async with asyncio.timeout_at(self._trailer_until_s):
                return await self._part()
        except (UpstreamError, TimeoutError):
            return None

    async def _linger(self) -> None:
        """Read the end of the body after `[DONE]`, so that the connection can be reused."""
        if self._response.is_complete:
            return
        with contextlib.suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                with TRANSLATED:
                    await self._response.read()


Reply = WholeReply | HttpReply


def _reply(response: HttpResponse, query: Query, api: TargetApi) -> Reply:
    part = None if query.stream or response.content_encoding else response.whole(MAX_PIECE_BYTES)
    if part and part.startswith(b"{"):
        return WholeReply(response, part, api)
    return HttpReply(response, query, api, first=part)


async def _decoded(response: HttpResponse) -> AsyncGenerator[bytes, None]:
    """The parts of the body without their content coding."""
    with TRANSLATED:
        try:
            decoder = decoder_for(response.content_encoding)
            while part := await response.read():
                for piece in _pieces(part) if decoder is None else decoder.decode(part):
                    if piece:
                        yield piece
                    await asyncio.sleep(0)  # a small part may expand to very many pieces: let time limits end it
        except UnsupportedEncoding as fault:
            raise UpstreamError(
                "The target's response has a content encoding that was not requested.",
                detail=f"content-encoding {fault}",
            ) from fault
        except CorruptBody as fault:
            raise UpstreamError("The target's compressed response is corrupt.", detail="corrupt encoding") from fault


async def _in_pieces(part: bytes, response: HttpResponse) -> AsyncGenerator[bytes, None]:
    """A large part and what follows, so that parsing does not hold up other requests."""
    while part:
        for piece in _pieces(part):
            yield piece
            await asyncio.sleep(0)
        with TRANSLATED:
            part = await response.read()


def _pieces(part: bytes) -> Iterator[bytes]:
    """A large part in smaller ones."""
    for at in range(0, len(part), MAX_PIECE_BYTES):
        yield part[at : at + MAX_PIECE_BYTES]


async def _error_answer(response: HttpResponse) -> ErrorAnswer:
    """Reads as much of the body as is needed for its message. The status counts even if the body cannot be read, or
    does not come."""
    body = bytearray()
    try:
        async with asyncio.timeout(_ERROR_BODY_S):
            async for part in _decoded(response):
                body += part
                if len(body) >= MAX_ERROR_BYTES:
                    break
    except (UpstreamError, TimeoutError):
        pass
    finally:
        response.close()
    return ErrorAnswer(response.status, bytes(body[:MAX_ERROR_BYTES]))


def _redirect(response: HttpResponse, url: URL) -> URL | None:
    """The URL to follow; None if the response is no redirect, or one that is not followed."""
    location = response.headers.get("location")
    if response.status not in (307, 308) or not location:
        return None
    try:
        found = url.join(URL(location))
    except ValueError:
        return None
    is_downgrade = url.scheme == "https" and found.scheme != "https"
    return None if found.host != url.host or found.scheme not in ("http", "https") or is_downgrade else found


def _keeps_credentials(url: URL, next_url: URL) -> bool:
    if url.origin() == next_url.origin():
        return True
    return (url.scheme, url.port, next_url.scheme, next_url.port) == ("http", 80, "https", 443)
