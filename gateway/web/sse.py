"""Server-sent events as OpenAI's clients read them: one JSON object per event, `[DONE]` behind the last.

Knows no content. A stream that breaks off ends with an `error` event and without `[DONE]`.
"""

from gateway.errors import GatewayError
from gateway.web.error_body import body_of

DONE = b"data: [DONE]\n\n"


def event(data: bytes) -> bytes:
    """One event around one line of JSON."""
    return b"data: " + data + b"\n\n"


def error_event(error: GatewayError) -> bytes:
    """The last event of a stream that cannot be finished; the official clients raise on it."""
    return b"event: error\ndata: " + body_of(error) + b"\n\n"
