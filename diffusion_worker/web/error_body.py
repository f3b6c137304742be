"""What the web layer itself refuses, and how any error of the worker looks on OpenAI's wire.

Statuses and codes are decided where an error is understood; here they are only written down.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from diffusion_worker.errors import InvalidRequest, WorkerError

Headers = tuple[tuple[bytes, bytes], ...]


class InvalidJson(InvalidRequest):
    """The body is not a JSON object."""

    code = "invalid_json"


class InvalidType(InvalidRequest):
    """A field of the wrong JSON type."""

    code = "invalid_type"


class InvalidValue(InvalidRequest):
    """A field of the right type whose value means nothing."""

    code = "invalid_value"


class MissingField(InvalidRequest):
    """A required field is absent."""

    code = "missing_required_parameter"


class Unsupported(InvalidRequest):
    """A field, or a value of it, that this model would have to ignore: it is refused by name instead."""

    code = "unsupported_parameter"


class BodyTooLarge(InvalidRequest):
    """More bytes than a request may have."""

    status = 413
    code = "request_too_large"


class ModelNotFound(InvalidRequest):
    """No such model id here."""

    status = 404
    code = "model_not_found"


class NoSuchRoute(InvalidRequest):
    """No such path here."""

    status = 404
    code = "unknown_url"


class MethodNotAllowed(InvalidRequest):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"


class InvalidKey(InvalidRequest):
    """No key, or one that nobody holds."""

    status = 401
    code = "invalid_api_key"


_TYPES: dict[int, str] = {401: "authentication_error", 429: "rate_limit_error"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An error as it goes out: status, headers, and a body of OpenAI's shape."""

    MIN_RETRY_S: ClassVar[int] = 1  # a Retry-After of 0 would make every client come back at once

    status: int
    headers: Headers
    body: dict[str, Any]


def problem_of(error: WorkerError) -> Problem:
    """The same error in OpenAI's words; `retry-after` in whole seconds where coming back makes sense."""
    fallback = "invalid_request_error" if error.status < 500 else "server_error"
    detail = {
        "message": error.message,
        "type": _TYPES.get(error.status, fallback),
        "param": error.param,
        "code": error.code,
    }
    return Problem(status=error.status, headers=_headers(error), body={"error": detail})


def _headers(error: WorkerError) -> Headers:
    headers: Headers = ()
    if error.status in (429, 503):
        wait_s = max(Problem.MIN_RETRY_S, math.ceil(error.retry_after_s or 0.0))
        headers = ((b"retry-after", str(wait_s).encode()),)
    if error.status == 401:
        headers = ((b"www-authenticate", b"Bearer"),)
    return headers
