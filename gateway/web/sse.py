"""Server-sent events in OpenAI's format: one JSON object per event, `[DONE]` at the end.

A stream that fails ends with an `error` event and without `[DONE]`. Lines that begin with a colon are comments, which
every client skips (https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream).
"""

from collections.abc import Iterable

from gateway.errors import GatewayError
from gateway.web.error_body import body_of

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


def event(data: bytes) -> bytes:
    """An event with one line of JSON."""
    return b"data: " + data + b"\n\n"


def named_event(name: bytes, data: bytes) -> bytes:
    """The same with the event's name."""
    return b"event: " + name + b"\ndata: " + data + b"\n\n"


def error_event(error: GatewayError) -> bytes:
    """The last event of a failed stream; OpenAI's clients raise an exception for it."""
    return b"event: error\ndata: " + body_of(error) + b"\n\n"


def header_comment(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A comment with one line per header, for headers that were not known when the head was sent."""
    lines = [b": " + name + b" = " + value + b"\n" for name, value in headers]
    return b"".join(lines) + b"\n" if lines else b""
