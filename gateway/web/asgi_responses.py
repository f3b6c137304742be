"""ASGI messages of responses: JSON, errors and event streams; health checks."""

from collections.abc import Callable, Iterable
from typing import Final

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import BodyTooLarge, GatewayError, MethodNotAllowed, TooManyBytes
from gateway.web.error_body import JSON, body_of, headers_of
from gateway.web.headers import REQUEST_ID, new_request_id, request_id_headers
from twolane.process.http.byte_budget import BudgetExceededError
from twolane.process.http.limits import OUT_OF_BYTES
from twolane.process.http_body import BodyTooLargeError

Headers = Iterable[tuple[bytes, bytes]]
JSON_TYPE: Final = (b"content-type", JSON)


def health_check(facts: Callable[[], dict[str, str]]) -> ASGIApp:
    """The application of a health check: 200 and `status` ok, with these facts."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["method"] in ("GET", "HEAD"):
            await send_json(send, orjson.dumps({"status": "ok"} | facts()))
        else:
            message = f"Method {scope['method']} is not allowed for {scope['path']}."
            await send_early_error(send, MethodNotAllowed(message, allow="GET"), path=scope["path"])

    return app


async def send_json(send: Send, body: bytes, *, status: int = 200, headers: Headers = ()) -> None:
    """A complete JSON response."""
    await _send_whole(send, status, [JSON_TYPE, *headers], body)


async def send_error(send: Send, error: GatewayError, headers: Headers = (), *, path: str = "") -> None:
    """An error in the form of the API at `path`."""
    headers = [(b"content-type", JSON), *headers_of(error), *headers]
    await _send_whole(send, error.status, headers, body_of(error, path, request_id_in(headers)))


def request_id_in(headers: Headers) -> str | None:
    """The ID of the request in the headers of its response."""
    return next((value.decode() for name, value in headers if name == REQUEST_ID), None)


async def send_early_error(
    send: Send, error: GatewayError, headers: Headers = (), *, request_id: str | None = None, path: str = ""
) -> None:
    """An error for a request that the pipeline has not decided; a new request ID if it has none."""
    known = request_id_headers(request_id or new_request_id(), path)
    await send_error(send, error, [*known, *headers], path=path)


async def refuse_body(send: Send, fault: BodyTooLargeError | BudgetExceededError, *, path: str = "") -> None:
    """The response to a body that is too large, or too large for now."""
    if isinstance(fault, BodyTooLargeError):
        await send_early_error(send, BodyTooLarge(str(fault)), path=path)
    else:
        error = TooManyBytes(OUT_OF_BYTES.message, retry_after_s=OUT_OF_BYTES.retry_after_s)
        await send_early_error(send, error, path=path)


async def start_stream(send: Send, headers: Headers) -> None:
    """The headers of an event stream; disables buffering in proxies."""
    fixed = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
    fixed.append((b"x-accel-buffering", b"no"))
    await send({"type": "http.response.start", "status": 200, "headers": [*fixed, *headers]})


async def send_bytes(send: Send, data: bytes, *, more: bool = True) -> None:
    """A part of the body."""
    await send({"type": "http.response.body", "body": data, "more_body": more})


def send_now(send: Send, headers: list[tuple[bytes, bytes]], body: bytes, *, status: int = 200) -> bool:
    """Send a whole response without waiting; False: this is not possible. `headers` has no content-length."""
    respond: Callable[[int, Headers, bytes], bool] | None = getattr(send, "respond", None)  # see `error_boundary`
    return respond is not None and respond(status, headers, body)


async def _send_whole(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    if send_now(send, headers, body, status=status):
        return
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
