"""What a target's refusal means: one table from status and code to our errors, and one from foreign exceptions.

The target's own words are kept where they speak to the client (its request was wrong), and dropped where they speak
of our side (credentials, addresses).
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import aiohttp
import orjson

from gateway.errors import (
    AttemptFailed,
    DeadlineExceeded,
    InvalidOutput,
    NotResident,
    Overloaded,
    Refused,
    Unsupported,
    UpstreamError,
)

_NOT_RESIDENT: Final = frozenset({"not_resident", "draining", "model_not_loaded", "loading"})
_UNSUPPORTED: Final = frozenset(
    {
        *("unsupported", "unsupported_schema", "unsupported_parameter", "unsupported_value"),
        *("context_length_exceeded", "answer_does_not_fit"),
    }
)
# Answers to *us*: the client can do nothing about them, and must not take them for its own.
_OURS: Final = frozenset({401, 402, 403, 404, 405, 407, 421, 499})
_MAX_MESSAGE: Final = 500


def from_response(status: int, headers: Mapping[str, str], body: bytes) -> AttemptFailed:
    """The meaning of an answer that is not a success."""
    error = _error_object(body)
    fault = from_error_object(error, status=status)
    fault.retry_after_s = _seconds(headers.get("retry-after"))
    return fault


def from_error_object(error: Mapping[str, Any], *, status: int) -> AttemptFailed:
    """By code first (it is the more exact word), then by status."""
    code = _text(error.get("code"))
    if code in _NOT_RESIDENT:
        return NotResident("The target's model is not in memory.", detail=f"status {status}, {code}")
    if code == "deadline_exceeded" or status in (408, 504):
        return DeadlineExceeded("The target ran out of time.", detail=f"status {status}")
    if code == "invalid_output":  # a worker's own check: its machine is well, and asking it again would not help
        return InvalidOutput("The target found no answer that fits the schema.", detail=f"status {status}, {code}")
    if status in (429, 503, 529) or code == "overloaded":
        return Overloaded("The target is overloaded.", detail=f"status {status}")
    if status >= 500 or status in _OURS or status < 400:
        return UpstreamError(f"The target answered with status {status}.", detail=f"status {status}")
    return _of_the_request(error, code, status)


def _of_the_request(error: Mapping[str, Any], code: str, status: int) -> AttemptFailed:
    message = _text(error.get("message"))[:_MAX_MESSAGE] or f"The target refused the request with status {status}."
    param = _text(error.get("param")) or None
    if code in _UNSUPPORTED:
        return Unsupported(message, detail=f"status {status}, {code}", param=param)
    return Refused(message, status=status, code=code or None, param=param)


@contextmanager
def translated() -> Iterator[None]:
    """Whatever the HTTP client raises, we raise one of ours."""
    try:
        yield
    except aiohttp.ClientConnectorError as fault:
        raise UpstreamError("The target cannot be reached.", detail="connection refused") from fault
    except TimeoutError as fault:
        raise UpstreamError("The target fell silent.", detail="no byte within the idle limit") from fault
    except (aiohttp.ClientError, ConnectionError, OSError) as fault:
        raise UpstreamError("The target hung up.", detail=_kind(fault)) from fault
    except ValueError as fault:  # aiohttp's word for lines and headers beyond its limits
        raise UpstreamError("The target does not speak HTTP properly.", detail=_kind(fault)) from fault


def _kind(fault: Exception) -> str:
    """The class alone: messages of foreign exceptions may hold addresses."""
    return type(fault).__name__


def _error_object(body: bytes) -> Mapping[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    error = document.get("error") if isinstance(document, dict) else None
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _seconds(value: str | None) -> float | None:
    try:
        seconds = float(value or "")
    except ValueError:  # a date, or nothing
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
