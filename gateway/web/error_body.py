"""Errors in OpenAI's format."""

import math

import orjson

from gateway.errors import GatewayError, MethodNotAllowed
from gateway.web.headers import RETRY_AFTER, SHOULD_RETRY

JSON = b"application/json"


def body_of(error: GatewayError) -> bytes:
    """`{"error": {"message", "type", "param", "code"}}`."""
    return orjson.dumps(
        {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}
    )


def headers_of(error: GatewayError) -> list[tuple[bytes, bytes]]:
    """Headers of the error itself, which tell a client whether and when to try again."""
    headers = [(SHOULD_RETRY, b"true" if error.retryable else b"false")]
    if error.retry_after_s is not None:
        headers.append((RETRY_AFTER, b"%d" % max(1, math.ceil(error.retry_after_s))))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow.encode()))
    return headers
