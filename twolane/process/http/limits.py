"""Limits of client connections, and the responses of the listener itself.

A request that breaks a limit or the rules of HTTP gets a response before any application sees it; its body is OpenAI's
error object, like those of the applications.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

# Longer than clients and load balancers keep idle connections (Go 90 s, cloud load balancers up to 600 s): the side
# that sends requests must be the one that closes.
KEEP_ALIVE_S: Final = 620.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """Limits of one client connection. Sizes are bytes."""

    head_bytes: int = 65_536  # request line and headers
    headers: int = 100  # as in Envoy
    head_s: float = 20.0  # from the first byte of a head to its end; also until the first byte of a new connection
    body_s: float = 20.0  # for a body, plus the time that it takes at `body_bytes_per_s`
    body_bytes_per_s: int = 16_384
    keep_alive_s: float = KEEP_ALIVE_S  # between two requests
    write_s: float = 60.0  # for a client to take 48 KiB of its response
    linger_s: float = 30.0  # for the rest of a request whose response has been sent
    pipelined: int = 32  # requests that wait behind the current one
    framing_bytes: int = 65_536  # of chunk sizes, chunk extensions and trailers in excess of the body's size

    @property
    def interval_s(self) -> float:
        """How often connections are checked."""
        return min(4.0, self.head_s, self.body_s, self.keep_alive_s, self.write_s, self.linger_s) / 4


class ClientSettings(Protocol):
    """The settings of a program that limit its clients."""

    @property
    def head_timeout_s(self) -> float: ...
    @property
    def body_timeout_s(self) -> float: ...
    @property
    def keep_alive_s(self) -> float: ...
    @property
    def write_timeout_s(self) -> float: ...


def limits_of(settings: ClientSettings) -> HttpLimits:
    """The limits of client connections that a program's settings name."""
    return HttpLimits(
        head_s=settings.head_timeout_s,
        body_s=settings.body_timeout_s,
        keep_alive_s=settings.keep_alive_s,
        write_s=settings.write_timeout_s,
    )


class Broken(StrEnum):
    """What a refused or closed connection broke; label values of a metric."""

    HEAD_SIZE = "head_size"
    HEAD_TIMEOUT = "head_timeout"
    BODY_TIMEOUT = "body_timeout"
    WRITE_TIMEOUT = "write_timeout"
    MALFORMED = "malformed"
    UNSUPPORTED = "unsupported"
    PIPELINE = "pipeline"
    BYTE_BUDGET = "byte_budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A response of the listener itself; the connection is closed after it."""

    status: int
    code: str
    message: str
    retry_after_s: int | None = None

    @property
    def kind(self) -> str:
        """OpenAI's `type`."""
        return "invalid_request_error" if self.status < 500 or self.status in (501, 505) else "server_error"

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in (408, 500, 503)

    def response(self, status_line: bytes, default_headers: list[tuple[bytes, bytes]]) -> bytes:
        """The complete response."""
        error = {"message": self.message, "type": self.kind, "param": None, "code": self.code}
        body = json.dumps({"error": error}).encode()
        headers = [*default_headers, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        headers.append((b"x-should-retry", b"true" if self.retryable else b"false"))
        if self.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % self.retry_after_s))
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        return b"%b%bconnection: close\r\n\r\n%b" % (status_line, lines, body)


FAILED: Final = Refusal(status=500, code="internal_error", message="Internal error of the server; see its log.")
DRAINED: Final = Refusal(
    status=503, code="draining", message="The server is shutting down; send the request again.", retry_after_s=1
)
OUT_OF_BYTES: Final = Refusal(
    status=503,
    code="overloaded",
    message="The memory set aside for requests and responses is in use; try again later.",
    retry_after_s=1,
)
HEAD_TOO_LARGE: Final = Refusal(
    status=431, code="headers_too_large", message="The request line and headers exceed the limit of {0} bytes."
)
TOO_MANY_HEADERS: Final = Refusal(
    status=431, code="headers_too_large", message="The request has more than {0} headers."
)
HEAD_TIMED_OUT: Final = Refusal(
    status=408, code="request_timeout", message="The request's headers did not arrive within {0:g} s."
)
BODY_TIMED_OUT: Final = Refusal(
    status=408,
    code="request_timeout",
    message="The request's body arrived too slowly: it may take {0:g} s plus 1 s for each {1} bytes.",
)
MALFORMED: Final = Refusal(status=400, code="invalid_http", message="The request is not valid HTTP/1.1: {0}.")
NO_PLAIN_HTTP: Final = Refusal(
    status=400, code="invalid_http", message="This port serves plain HTTP; use http:// instead of https://."
)
UNKNOWN_CODING: Final = Refusal(
    status=501, code="invalid_http", message="The only supported transfer coding is 'chunked'."
)
UNKNOWN_VERSION: Final = Refusal(status=505, code="invalid_http", message="This server supports HTTP/1.0 and HTTP/1.1.")
NO_TUNNEL: Final = Refusal(status=501, code="invalid_http", message="The method CONNECT is not supported.")
UNKNOWN_EXPECTATION: Final = Refusal(
    status=417, code="invalid_http", message="The only supported expectation is '100-continue'."
)
RESPONSES: Final = (
    *(HEAD_TOO_LARGE, TOO_MANY_HEADERS, HEAD_TIMED_OUT, BODY_TIMED_OUT, MALFORMED, NO_PLAIN_HTTP),
    *(UNKNOWN_CODING, UNKNOWN_VERSION, NO_TUNNEL, UNKNOWN_EXPECTATION, OUT_OF_BYTES, DRAINED, FAILED),
)


def filled(refusal: Refusal, *values: object) -> Refusal:
    """The refusal with values in its message."""
    return Refusal(
        status=refusal.status,
        code=refusal.code,
        message=refusal.message.format(*values),
        retry_after_s=refusal.retry_after_s,
    )
