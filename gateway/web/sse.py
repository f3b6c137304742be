"""Server-sent events in OpenAI's format: one JSON object per event, `[DONE]` at the end.

A stream that fails ends with an `error` event and without `[DONE]`.
"""

from gateway.errors import GatewayError
from gateway.web.error_body import body_of

DONE = b"data: [DONE]\n\n"


def event(data: bytes) -> bytes:
    """An event with one line of JSON."""
    return b"data: " + data + b"\n\n"


def error_event(error: GatewayError) -> bytes:
    """The last event of a failed stream; OpenAI's clients raise an exception for it."""
    return b"event: error\ndata: " + body_of(error) + b"\n\n"
