"""Errors in OpenAI's format."""

import math

import orjson

from gateway.errors import GatewayError, MethodNotAllowed

JSON = b"application/json"


def body_of(error: GatewayError) -> bytes:
    """`{"error": {"message", "type", "param", "code"}}`."""
    return orjson.dumps(
        {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}
    )


def headers_of(error: GatewayError) -> list[tuple[bytes, bytes]]:
    """Headers of the error itself."""
    headers = [(b"content-type", JSON)]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow.encode()))
    return headers
