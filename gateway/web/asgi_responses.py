"""ASGI messages of responses: JSON, errors and event streams."""

import secrets
from collections.abc import Iterable

from starlette.types import Send

from gateway.errors import BodyTooLarge, GatewayError, TooManyBytes
from gateway.web.error_body import JSON, body_of, headers_of
from twolane.process.http.bounded_bodies import RETRY_AFTER_S
from twolane.process.http.byte_budget import BudgetExceededError
from twolane.process.http_body import BodyTooLargeError

Headers = Iterable[tuple[bytes, bytes]]


async def send_json(send: Send, body: bytes, *, status: int = 200, headers: Headers = ()) -> None:
    """A complete JSON response."""
    await _send_whole(send, status, [(b"content-type", JSON), *headers], body)


async def send_error(send: Send, error: GatewayError, headers: Headers = ()) -> None:
    """An error in OpenAI's format."""
    content_type = (b"content-type", JSON)
    await _send_whole(send, error.status, [content_type, *headers_of(error), *headers], body_of(error))


async def refuse_body(send: Send, fault: BodyTooLargeError | BudgetExceededError) -> None:
    """The response to a body that is too large, or too large for now."""
    request_id = [(b"x-request-id", b"req_" + secrets.token_hex(12).encode())]
    if isinstance(fault, BodyTooLargeError):
        await send_error(send, BodyTooLarge(str(fault)), request_id)
    else:
        message = "The gateway holds as many bytes of requests and answers as its memory allows."
        await send_error(send, TooManyBytes(message, retry_after_s=RETRY_AFTER_S), request_id)


async def start_stream(send: Send, headers: Headers) -> None:
    """The headers of an event stream; disables buffering in proxies."""
    fixed = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
    fixed.append((b"x-accel-buffering", b"no"))
    await send({"type": "http.response.start", "status": 200, "headers": [*fixed, *headers]})


async def send_bytes(send: Send, data: bytes, *, more: bool = True) -> None:
    """A part of the body."""
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def _send_whole(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
