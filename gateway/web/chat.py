"""POST of every API that generates, as raw ASGI, whole or streamed. The pipeline decides the response.

`apis.table` lists the APIs. Chat completions are the pipeline's own form of an answer and are sent unchanged."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.attempts.request_context import RequestContext
from gateway.attempts.response import GatewayResponse
from gateway.decision import Decision
from gateway.errors import AttemptFailed, BadRequest, GatewayError, MethodNotAllowed, StoreUnavailable
from gateway.pipeline import Pipeline
from gateway.policy_types import LocationLimit
from gateway.ports import Clock
from gateway.types import Delta, Query
from gateway.web import sse
from gateway.web.apis.client_api import ClientApi, Writer
from gateway.web.apis.table import APIS
from gateway.web.asgi_responses import (
    JSON_TYPE,
    refuse_body,
    send_early_error,
    send_error,
    send_json,
    send_now,
)
from gateway.web.client_disconnect import CancelOnDisconnect
from gateway.web.event_stream import EventStream
from gateway.web.headers import ResponseHeaders, describe, describe_count, describe_quota, request_id_headers
from gateway.web.parse_request import LARGE_BYTES, check_encoding, unique_headers
from twolane.process.http.byte_budget import BudgetExceededError, hold_more
from twolane.process.http.request_cycle import BODY, NAMED
from twolane.process.http_body import ClientDisconnected, read_body
from twolane.process.json_log import TRACE
from twolane.process.trace_context import Trace, read_trace


class GenerationApis:
    """The ASGI application of all paths of `apis`."""

    def __init__(
        self,
        pipeline: Pipeline,
        clock: Clock,
        *,
        heartbeat_s: float,
        begin: Callable[[Trace | None], Trace | None] = lambda caller: caller,
        apis: Mapping[str, ClientApi] = APIS,
    ) -> None:
        """`begin` starts the request's span in the caller's trace."""
        self._apis = apis
        self._pipeline = pipeline
        self._clock = clock
        # Few threads: parsing takes ten times the memory of a body, and more would not be faster.
        self._parsers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="parse")
        self._heartbeat_s = heartbeat_s
        self._begin = begin
        self.streams = 0  # that have begun and are in progress

    @property
    def routes(self) -> Mapping[str, ASGIApp]:
        """This application at each of its paths."""
        return dict.fromkeys(self._apis, self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Exactly one response, unless the client has disconnected."""
        api = self._apis[scope["path"]]
        try:
            query = await self._read(api, scope, receive)
        except (BadRequest, StoreUnavailable) as error:
            await send_early_error(send, error, path=api.path)
            return
        except BudgetExceededError as fault:
            await refuse_body(send, fault, path=api.path)
            return
        except ClientDisconnected:
            return
        scope.setdefault("state", {})["request_id"] = query.request_id
        with CancelOnDisconnect(scope) as client:
            if api.counts_tokens:
                await self._count(api, query, send, client)
            elif query.stream:
                await self._stream(api, query, send, client)
            else:
                await self._whole(api, query, send, client)

    async def _read(self, api: ClientApi, scope: Scope, receive: Receive) -> Query:
        state: dict[str, Any] = scope.get("state") or {}
        now_s = state.get("received_s") or self._clock.now_s()
        if scope["method"] != "POST":
            raise MethodNotAllowed(f"Method {scope['method']} is not allowed for {api.path}; use POST.", allow="POST")
        headers = scope.get(NAMED) or unique_headers(scope["headers"])
        if b"content-encoding" in headers:
            check_encoding(headers)
        body: bytes = scope.get(BODY) or await read_body(receive)
        trace = self._begin(read_trace(headers) if b"traceparent" in headers else None)
        if trace is not None:
            TRACE.set(trace)  # of every line that is logged for this request, in its own context
        if len(body) <= LARGE_BYTES and api.prepare is None:
            return api.read(body, headers, now_s=now_s, key=state.get("key"), trace=trace)
        if api.prepare is not None:
            api = replace(api, parse=await api.prepare(body, state.get("key")))
        parse = partial(api.read, body, headers, now_s=now_s, key=state.get("key"), trace=trace)
        query = await asyncio.get_running_loop().run_in_executor(self._parsers, parse)
        beyond = query.beyond_chat
        hold_more(max(0, len(query.body) - len(body)) + len(beyond.items_to_store or b""))
        hold_more(len(beyond.response_body or b""))
        return query

    def _headers(self, query: Query, decision: Decision) -> ResponseHeaders:
        quota = self._pipeline.quota(query)
        return describe(decision) if quota is None else describe(decision) + describe_quota(quota)

    def _writer(self, api: ClientApi, query: Query, answer: GatewayResponse) -> Writer | None:
        """None for the pipeline's own form. Writers are told what a route made private or limited to locations."""
        if api.writer is None:
            return None
        plan = answer.plan
        if plan.private is not query.private or plan.locations is not None:
            limits = () if plan.locations is None else (LocationLimit("the request", plan.locations),)
            query = replace(query, private=plan.private, locations=limits)
        return api.writer(query, self._clock.wall_s())

    async def _whole(self, api: ClientApi, query: Query, send: Send, client: CancelOnDisconnect) -> None:
        answer = await self._pipeline.handle(query)
        try:
            headers = self._headers(query, answer.decision(self._clock.now_s()))
            if answer.error is not None:
                client.stop()
                await send_error(send, api.in_its_terms(answer.error, query), headers, path=api.path)
                return
            writer = None if api.writer is None else self._writer(api, query, answer)
            [delta] = answer.buffered()
            data = delta.data
            if writer is not None:
                answer.release()
                client.stop()
                await writer.keep(delta.data, delta.original)
                data = writer.whole(delta.data, delta.original)
            if not send_now(send, [JSON_TYPE, *headers], data):
                answer.release()
                client.stop()
                await send_json(send, data, headers=headers)
            answer.sent()
        finally:
            await answer.aclose()

    async def _count(self, api: ClientApi, query: Query, send: Send, client: CancelOnDisconnect) -> None:
        headers = request_id_headers(query.request_id, api.path)
        try:
            count = await self._pipeline.count_tokens(query)
        except GatewayError as error:
            client.stop()
            await send_error(send, api.in_its_terms(error, query), headers, path=api.path)
            return
        client.stop()
        await send_json(send, b'{"input_tokens":%d}' % count.tokens, headers=headers + describe_count(count))

    async def _stream(self, api: ClientApi, query: Query, send: Send, client: CancelOnDisconnect) -> None:
        contexts: list[RequestContext] = []

        def headers() -> ResponseHeaders:
            return self._headers(query, contexts[0].decision(self._clock.now_s()))

        stream = EventStream(send, headers, heartbeat_s=self._heartbeat_s, path=api.path)
        stream.start()
        try:
            answer = await self._pipeline.handle(query, on_start=contexts.append)
            named = partial(api.in_its_terms, query=query)
            self.streams += 1
            try:
                await _send_deltas(stream, answer, client, self._writer(api, query, answer), named)
            finally:
                self.streams -= 1
                await answer.aclose()
        finally:
            await stream.aclose()


async def _send_deltas(
    stream: EventStream,
    answer: GatewayResponse,
    client: CancelOnDisconnect,
    writer: Writer | None,
    named: Callable[[GatewayError], GatewayError],
) -> None:
    """Send the answer. A failure in the middle is the end of the stream."""
    pushes = writer is None  # another form may not fit into the memory, which is no fault of the target

    def push(found: list[Delta]) -> bool:
        return stream.push(b"data: %b\n\n" % found[0].data if len(found) == 1 else _events(None, found))

    error: GatewayError | None = answer.error
    if error is None:
        try:
            found = answer.buffered() or await answer.more()
            while found:
                if events := _events(writer, found):
                    await stream.write(events)
                takes_pushes = pushes and stream.takes_pushes
                found = await answer.more(*((push, stream.relay()) if takes_pushes else ()))
        except AttemptFailed as fault:
            error = fault
    client.stop()
    if error is None:
        if writer is not None:
            await writer.keep()
        await stream.end(sse.DONE if writer is None else writer.end())
        return
    error = named(error)
    await stream.end(sse.error_event(error) if writer is None else writer.failed(error), error)


def _events(writer: Writer | None, deltas: list[Delta]) -> bytes:
    """Events of a part of the answer, in the form of the API."""
    if writer is None:
        return sse.events([delta.data for delta in deltas])
    return b"".join([writer.events(delta.data, delta.original) for delta in deltas])
