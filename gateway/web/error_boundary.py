"""Outermost ASGI middleware: unexpected errors and the end of a drain become responses."""

import asyncio
import logging
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import Draining, GatewayError
from gateway.web import sse
from gateway.web.asgi_responses import send_bytes, send_early_error
from twolane.process.http.request_cycle import CYCLE, PIECE_BYTES, Headers, RequestCycle
from twolane.process.running_requests import RunningRequests

_log = logging.getLogger("gateway")
_RETRY_S = 1.0  # another replica, or the next process of this one, takes over
_EVENTS = b"text/event-stream"


class ErrorBoundary:
    """Every request ends with exactly one response. `running` ends those that outlast the drain period."""

    def __init__(
        self,
        app: ASGIApp,
        running: RunningRequests,
        on_status: Callable[[int], None] = lambda _status: None,
        direct: Callable[[Scope], ASGIApp | None] = lambda _scope: None,
    ) -> None:
        """`on_status` receives the HTTP status of every response. `direct` finds the application of a request to which
        the layers of `app` add nothing; None: it passes through them."""
        self._app = app
        self._direct = direct
        self._running = running
        self._on_status = on_status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond with the error, or end a stream with an error event; any other response that began is cut."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        cycle: RequestCycle | None = scope.get(CYCLE)
        task = (cycle.task if cycle is not None else None) or asyncio.current_task()
        assert task is not None
        response = _Response(scope, send, cycle, self._on_status)
        if self._running.has_ended:
            await response.fail(_draining())
            return
        tasks = self._running.tasks
        tasks.add(task)
        try:
            await (self._direct(scope) or self._app)(scope, receive, response)
        except asyncio.CancelledError:
            tasks.discard(task)
            if not self._running.is_over():
                raise
            await response.fail(_draining())
        except Exception:  # any unexpected error must still end in exactly one response
            _log.exception("request failed")
            tasks.discard(task)  # the error is sent, whatever ends meanwhile
            if not await response.fail(GatewayError("Internal error of the gateway; see its log.")):
                raise
        finally:
            tasks.discard(task)


def _draining() -> Draining:
    return Draining("The gateway is shutting down, and the request did not finish in time.", retry_after_s=_RETRY_S)


class _Response:
    """An ASGI send that knows what was sent."""

    __slots__ = ("_cycle", "_headers", "_on_status", "_scope", "_send", "_state")

    def __init__(self, scope: Scope, send: Send, cycle: RequestCycle | None, on_status: Callable[[int], None]) -> None:
        self._scope = scope
        self._send = send
        self._cycle = cycle
        self._on_status = on_status
        self._state = ""
        self._headers: Headers = ()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._state, self._headers = "started", message["headers"]
            self._on_status(message["status"])
        elif not message.get("more_body", False):
            self._state = "complete"
        await self._send(message)

    def respond(self, status: int, headers: Headers, body: bytes) -> bool:
        """Send a whole response at once, if it is small and the connection takes such."""
        if self._cycle is None or len(body) > PIECE_BYTES:
            return False
        self._state = "complete"
        self._on_status(status)
        self._cycle.respond(status, headers, body)
        return True

    @property
    def push(self) -> Callable[[bytes], bool] | None:
        """Sends a part of the body at once, and returns whether there is room for more; None: only messages can."""
        return None if self._cycle is None else self._cycle.push

    @property
    def relay(self) -> Callable[[bytes], bool] | None:
        """Likewise, for whole chunks of HTTP. Ask when the head was sent."""
        return None if self._cycle is None else self._cycle.relay

    async def fail(self, error: GatewayError) -> bool:
        """Send the error, if the response allows it."""
        is_stream = any(name == b"content-type" and value.startswith(_EVENTS) for name, value in self._headers)
        request_id, path = self._scope.get("state", {}).get("request_id"), self._scope["path"]
        if not self._state:
            self._on_status(error.status)
            await send_early_error(self._send, error, request_id=request_id, path=path)
        elif self._state == "started" and is_stream:
            await send_bytes(self._send, sse.error_event(error, path, request_id), more=False)
        return not self._state or is_stream
