"""Server-sent events in the form of the API that was called.

OpenAI's: one JSON object per event, `[DONE]` at the end. Anthropic's: each event is named by the `type` of its object,
and the last one says that it is. A stream that fails ends with an `error` event. Lines that begin with a colon are
comments, which every client skips (https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.errors import GatewayError
from gateway.web.error_body import body_of, is_of_messages

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


class _Typed(msgspec.Struct):
    type: str


_typed: Final = msgspec.json.Decoder(_Typed)


def event(data: bytes) -> bytes:
    """An event with one line of JSON."""
    return b"data: " + data + b"\n\n"


def events(listed: list[bytes]) -> bytes:
    """An event for each line of JSON; at least one."""
    return b"data: " + b"\n\ndata: ".join(listed) + b"\n\n"


def typed_event(data: bytes) -> bytes:
    """The same, named by the `type` of the object."""
    return b"event: " + _typed.decode(data).type.encode() + b"\ndata: " + data + b"\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamForm:
    """`ping` is a heartbeat between events; before the first event it is a comment."""

    event: Callable[[bytes], bytes]
    done: bytes
    ping: bytes


_OPENAI: Final = StreamForm(event=event, done=DONE, ping=PING)
_MESSAGES: Final = StreamForm(event=typed_event, done=b"", ping=typed_event(b'{"type": "ping"}'))


def form_of(path: str) -> StreamForm:
    """The form of the streams of one API."""
    return _MESSAGES if is_of_messages(path) else _OPENAI


def error_event(error: GatewayError, path: str = "", request_id: str | None = None) -> bytes:
    """The last event of a failed stream; the official clients raise an exception for it."""
    return b"event: error\ndata: " + body_of(error, path, request_id) + b"\n\n"


def header_comment(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A comment with one line per header, for headers that were not known when the head was sent."""
    lines = [b": " + name + b" = " + value + b"\n" for name, value in headers]
    return b"".join(lines) + b"\n" if lines else b""
