"""Errors of the web layer, and the OpenAI error body of every worker error.

Each error class defines its own status and code.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from diffusion_worker.errors import InvalidRequest, Refused, WorkerError

Headers = tuple[tuple[bytes, bytes], ...]


class InvalidJson(InvalidRequest):
    """The body is not a JSON object."""

    code = "invalid_json"


class InvalidType(InvalidRequest):
    """A field has the wrong JSON type."""

    code = "invalid_type"


class InvalidValue(InvalidRequest):
    """A field has the right type and an invalid value."""

    code = "invalid_value"


class MissingField(InvalidRequest):
    """A required field is absent."""

    code = "missing_required_parameter"


class Unsupported(InvalidRequest):
    """A field, or its value, is not supported by this model. It is refused instead of ignored."""

    code = "unsupported_parameter"


class BodyTooLarge(InvalidRequest):
    """The body exceeds the size limit."""

    status = 413
    code = "request_too_large"


class TooManyBytes(Refused):
    """The bodies of other requests fill the memory set aside for them; `retry-after` says when to retry."""


class ModelNotFound(InvalidRequest):
    """The model id is unknown."""

    status = 404
    code = "model_not_found"


class NoSuchRoute(InvalidRequest):
    """The path is unknown."""

    status = 404
    code = "unknown_url"


class MethodNotAllowed(InvalidRequest):
    """The path does not support the method."""

    status = 405
    code = "method_not_allowed"

    allow: str = ""  # methods that the path supports

    def __init__(self, message: str, *, allow: str = "") -> None:
        super().__init__(message)
        self.allow = allow


class InvalidKey(InvalidRequest):
    """The API key is missing or unknown."""

    status = 401
    code = "invalid_api_key"


class PermissionDenied(InvalidRequest):
    """The API key lacks the scope of the path."""

    status = 403
    code = "permission_denied"


_TYPES: dict[int, str] = {429: "rate_limit_error"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An error response: status, headers and OpenAI's error body."""

    MIN_RETRY_S: ClassVar[int] = 1  # a Retry-After of 0 would make every client retry immediately

    status: int
    headers: Headers
    body: dict[str, Any]


def problem_of(error: WorkerError) -> Problem:
    """The error response of an error: tells whether to try again, and for 429 and 503 when, in whole seconds."""
    fallback = "invalid_request_error" if error.status < 500 else "server_error"
    detail = {
        "message": error.message,
        "type": _TYPES.get(error.status, fallback),
        "param": error.param,
        "code": error.code,
    }
    return Problem(status=error.status, headers=_headers(error), body={"error": detail})


def _headers(error: WorkerError) -> Headers:
    headers: Headers = ((b"x-should-retry", b"true" if error.retryable else b"false"),)
    if error.status in (429, 503):
        wait_s = max(Problem.MIN_RETRY_S, math.ceil(error.retry_after_s or 0.0))
        headers += ((b"retry-after", str(wait_s).encode()),)
    if isinstance(error, MethodNotAllowed):
        headers = ((b"allow", error.allow.encode()),)
    if error.status == 401:
        headers += ((b"www-authenticate", b"Bearer"),)
    return headers
