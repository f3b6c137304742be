"""Errors in the form of the API that was called: OpenAI's, or Anthropic's below `/v1/messages`."""

import math
from typing import Final

import orjson

from gateway.beyond_chat import MESSAGES_PATH
from gateway.errors import ContextLengthExceeded, GatewayError, MethodNotAllowed
from gateway.web.headers import RETRY_AFTER, SHOULD_RETRY

JSON = b"application/json"
# Anthropic's types by status (https://docs.claude.com/en/api/errors). Others are `invalid_request_error` below 500 and
# `api_error` from 500 on.
_TYPES: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def is_of_messages(path: str) -> bool:
    """Whether the path belongs to Anthropic's API."""
    return path.startswith(MESSAGES_PATH)


def body_of(error: GatewayError, path: str = "", request_id: str | None = None) -> bytes:
    """`{"error": {"message", "type", "param", "code"}}`, or for Anthropic's API `{"type": "error", "error": {"type",
    "message"}, "request_id"}`."""
    if is_of_messages(path):
        return _messages_body(error, request_id)
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


def _messages_body(error: GatewayError, request_id: str | None) -> bytes:
    """The form has no field for the parameter, so the message names it."""
    kind = _TYPES.get(error.status) or ("api_error" if error.status >= 500 else "invalid_request_error")
    return orjson.dumps(
        {"type": "error", "error": {"type": kind, "message": _messages_text(error)}, "request_id": request_id}
    )


def _messages_text(error: GatewayError) -> str:
    if isinstance(error, ContextLengthExceeded):  # coding agents compact the conversation when they read this
        if error.needed is not None and error.limit is not None:
            return f"prompt is too long: {error.needed} tokens > {error.limit} maximum"
        return f"prompt is too long: {error.message}"
    return error.message if error.param is None or error.param in error.message else f"{error.param}: {error.message}"
