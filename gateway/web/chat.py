"""POST /v1/chat/completions as raw ASGI: bytes in, one answer out, whole or streamed.

Knows the wire; what to answer is the pipeline's business.
"""

import secrets
from collections.abc import Callable
from typing import Any

from starlette.types import Receive, Scope, Send

from gateway.attempts.response import GatewayResponse
from gateway.errors import AttemptFailed, BadRequest, BodyTooLarge, MethodNotAllowed
from gateway.pipeline import Pipeline
from gateway.ports import Clock
from gateway.trace_context import TraceContext, read_trace_context
from gateway.types import Query
from gateway.web import sse
from gateway.web.asgi_responses import send_bytes, send_error, send_json, start_stream
from gateway.web.client_disconnect import CancelOnDisconnect
from gateway.web.headers import REQUEST_ID, describe
from gateway.web.parse_request import once_each, parse_chat

PATH = "/v1/chat/completions"


class ClientDisconnected(Exception):  # noqa: N818 - says what happened
    """The client was gone before its request had come."""


class ChatCompletions:
    """An ASGI application for one path."""

    def __init__(
        self,
        pipeline: Pipeline,
        clock: Clock,
        *,
        max_body_bytes: int,
        begin: Callable[[TraceContext | None], TraceContext | None] = lambda caller: caller,
    ) -> None:
        """`begin` gives a request its place in a trace, below that of its caller."""
        self._pipeline = pipeline
        self._clock = clock
        self._max_body_bytes = max_body_bytes
        self._begin = begin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Exactly one answer, unless the client has left."""
        try:
            query = await self._read(scope, receive)
        except BadRequest as error:
            await send_error(send, error, [(REQUEST_ID, b"req_" + secrets.token_hex(12).encode())])
            return
        except ClientDisconnected:
            return
        with CancelOnDisconnect(receive) as client:
            answer = await self._pipeline.handle(query)
            try:
                await self._send(send, query, answer, client)
            finally:
                await answer.aclose()

    async def _read(self, scope: Scope, receive: Receive) -> Query:
        now_s = self._clock.now_s()
        if scope["method"] != "POST":
            raise MethodNotAllowed(f"{PATH} takes POST, not {scope['method']}.")
        headers = once_each(scope["headers"])
        body = await read_body(receive, headers, self._max_body_bytes)
        state: dict[str, Any] = scope.get("state") or {}
        trace = self._begin(read_trace_context(headers))
        return parse_chat(body, headers, now_s=now_s, principal=state.get("principal"), trace=trace)

    async def _send(self, send: Send, query: Query, answer: GatewayResponse, client: CancelOnDisconnect) -> None:
        headers = describe(answer.decision(self._clock.now_s()))
        if answer.error is not None:
            client.stop()
            await send_error(send, answer.error, headers)
        elif query.stream:
            await self._send_stream(send, answer, headers, client)
        else:
            async for delta in answer.deltas():
                client.stop()
                await send_json(send, delta.data, headers=headers)

    async def _send_stream(
        self, send: Send, answer: GatewayResponse, headers: list[tuple[bytes, bytes]], client: CancelOnDisconnect
    ) -> None:
        await start_stream(send, headers)
        last = sse.DONE
        try:
            async for delta in answer.deltas():
                await send_bytes(send, sse.event(delta.data))
        except AttemptFailed as error:
            last = sse.error_event(error)  # the point of no return is behind us: say so, and no [DONE]
        client.stop()
        await send_bytes(send, last, more=False)


async def read_body(receive: Receive, headers: dict[bytes, bytes], limit: int) -> bytes:
    """The whole body. Raises BodyTooLarge before reading what is announced to be too large; ClientDisconnected."""
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {limit} bytes.")
