"""POST /v1/chat/completions as raw ASGI, whole or streamed. The pipeline decides the response."""

import secrets
from collections.abc import Callable
from typing import Any

from starlette.types import Receive, Scope, Send

from gateway.attempts.response import GatewayResponse
from gateway.errors import AttemptFailed, BadRequest, BodyTooLarge, MethodNotAllowed
from gateway.pipeline import Pipeline
from gateway.ports import Clock
from gateway.types import Query
from gateway.web import sse
from gateway.web.asgi_responses import send_bytes, send_error, send_json, start_stream
from gateway.web.client_disconnect import CancelOnDisconnect
from gateway.web.headers import REQUEST_ID, describe, describe_quota
from gateway.web.parse_request import parse_chat, unique_headers
from twolane.process.http_body import BodyTooLargeError, ClientDisconnected, read_body
from twolane.process.json_log import TRACE_ID
from twolane.process.trace_context import Trace, read_trace

PATH = "/v1/chat/completions"


class ChatCompletions:
    """The ASGI application of this path."""

    def __init__(
        self,
        pipeline: Pipeline,
        clock: Clock,
        *,
        max_body_bytes: int,
        begin: Callable[[Trace | None], Trace | None] = lambda caller: caller,
    ) -> None:
        """`begin` starts the request's span in the caller's trace."""
        self._pipeline = pipeline
        self._clock = clock
        self._max_body_bytes = max_body_bytes
        self._begin = begin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Exactly one response, unless the client has disconnected."""
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
            raise MethodNotAllowed(f"Method {scope['method']} is not allowed for {PATH}; use POST.")
        headers = unique_headers(scope["headers"])
        announced = headers.get(b"content-length", b"")
        try:
            body = await read_body(receive, content_length=announced, limit=self._max_body_bytes)
        except BodyTooLargeError as error:
            raise BodyTooLarge(str(error)) from error
        state: dict[str, Any] = scope.get("state") or {}
        trace = self._begin(read_trace(headers))
        TRACE_ID.set(trace.hex_id if trace else None)  # of every line that is logged for this request
        return parse_chat(body, headers, now_s=now_s, key=state.get("key"), trace=trace)

    async def _send(self, send: Send, query: Query, answer: GatewayResponse, client: CancelOnDisconnect) -> None:
        headers = describe(answer.decision(self._clock.now_s())) + describe_quota(self._pipeline.quota(query))
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
            last = sse.error_event(error)  # bytes have been sent, so end with an error event and no [DONE]
        client.stop()
        await send_bytes(send, last, more=False)
