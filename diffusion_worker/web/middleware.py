"""Outermost ASGI middleware: authentication, common response headers and error responses.

The wrapped application may raise WorkerError until its response has started.
"""

import asyncio
import logging
import re
import secrets

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffusion_worker.errors import Draining, WorkerError
from diffusion_worker.web import request_log
from diffusion_worker.web.error_body import InvalidKey, PermissionDenied, problem_of
from diffusion_worker.web.http_io import JSON, header, send_response
from diffusion_worker.web.response_parts import event
from diffusion_worker.web.serving_state import ServingState
from twolane.process.api_keys import INVALID_KEY, KeyScope, key_of
from twolane.process.http_body import ClientDisconnected

OPEN_PATHS = frozenset({"/live", "/health"})  # probes need no key; with a keys file every other path does
METRICS = "/metrics"  # unless `open_metrics` is set
REQUEST_ID, TRACE_PARENT, TRACE_RESPONSE = b"x-request-id", b"traceparent", b"traceresponse"
_EVENTS = b"text/event-stream"
PREDICTED_WAIT = b"x-twolane-worker-predicted-wait-ms"
_REPEATABLE = re.compile(r"[\x21-\x7e]{1,128}")  # header values that are safe to return
_log = logging.getLogger("twolane.worker")


class Middleware:
    """The outermost application."""

    def __init__(self, app: ASGIApp, serving_state: ServingState) -> None:
        self._app = app
        self._state = serving_state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; it gets exactly one response unless its client has disconnected."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope[request_log.REQUEST_ID] = _request_id(scope)
        response = _SendWithHeaders(send, scope, self._state)
        try:
            self._authenticate(scope)
            if self._state.running.has_ended:
                raise _draining()
            with self._state.running:
                await self._app(scope, receive, response)
        except ClientDisconnected:
            return
        except asyncio.CancelledError:
            if not self._state.running.is_over():
                raise
            await response.send_error(_draining())
        except WorkerError as error:
            await response.send_error(error)
        except Exception:  # noqa: BLE001 - the last handler of a request: an unexpected error gets a response too
            _log.exception("a request failed")
            await response.send_error(WorkerError("Internal error of the worker; see its log."))

    def _authenticate(self, scope: Scope) -> None:
        """Raises InvalidKey or PermissionDenied."""
        path = scope["path"]
        if self._state.keys is None or path in OPEN_PATHS or (path == METRICS and self._state.open_metrics):
            return
        key = self._state.keys.current.find(key_of(scope["headers"]))
        if key is None:
            raise InvalidKey(INVALID_KEY)
        needed = _scope_of(path)
        if not key.allows(needed):
            raise PermissionDenied(f"This API key lacks the scope `{needed}`.")
        scope.setdefault("state", {})["key"] = key


def _scope_of(path: str) -> KeyScope:
    """The scope that a path needs, on either port."""
    if path == METRICS:
        return KeyScope.METRICS
    return KeyScope.ADMIN if path.startswith("/admin/") else KeyScope.SEND


def _draining() -> Draining:
    return Draining("The worker is shutting down, and the request did not finish in time.", retry_after_s=1.0)


class _SendWithHeaders:
    """An ASGI send that adds the common headers and records whether the response has started."""

    def __init__(self, send: Send, scope: Scope, serving_state: ServingState) -> None:
        self._send, self._scope, self._state = send, scope, serving_state
        self._has_started = self._is_stream = self._is_complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._has_started = True
            headers = list(message.get("headers", ()))
            self._is_stream = any(name == b"content-type" and value.startswith(_EVENTS) for name, value in headers)
            message["headers"] = [*headers, *self._common()]
        else:
            self._is_complete = not message.get("more_body", False)
        await self._send(message)

    async def send_error(self, error: WorkerError) -> None:
        """Send an error response, or the last event of a stream that has started."""
        problem = problem_of(error)
        if self._has_started:
            if self._is_stream and not self._is_complete:
                await self._send({"type": "http.response.body", "body": event(problem.body), "more_body": False})
            return
        await send_response(self, problem.status, (JSON, *problem.headers), orjson.dumps(problem.body))

    def _common(self) -> list[tuple[bytes, bytes]]:
        common = [(REQUEST_ID, self._scope[request_log.REQUEST_ID].encode())]
        own = self._scope.get(request_log.TRACE)
        if own is not None and self._state.tracing is not None and own.is_recorded:
            common.append((TRACE_RESPONSE, own.traceparent.encode()))
        trace = header(self._scope, TRACE_PARENT) or ""
        if _REPEATABLE.fullmatch(trace):
            common.append((TRACE_PARENT, trace.encode()))
        wait_ms = self._state.engine.predicted_wait_ms()
        if wait_ms is not None:
            common.append((PREDICTED_WAIT, str(round(wait_ms)).encode()))
        return common


def _request_id(scope: Scope) -> str:
    """The client's request id if it is safe to return, otherwise a new one."""
    received = header(scope, REQUEST_ID) or ""
    return received if _REPEATABLE.fullmatch(received) else f"req_{secrets.token_hex(12)}"
