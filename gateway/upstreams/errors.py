"""Maps error responses of targets, and exceptions of the HTTP client, to the gateway's errors.

A target's message is passed on if the client's request caused the error, and dropped if it concerns the gateway's side
(credentials, addresses).
"""

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from email.utils import mktime_tz, parsedate_tz
from types import TracebackType
from typing import Any, Final

from gateway.errors import (
    AttemptFailed,
    ContextLengthExceeded,
    DeadlineExceeded,
    InsufficientQuota,
    InvalidOutput,
    LowConfidence,
    NotConnected,
    NotResident,
    Overloaded,
    Refused,
    TargetMisconfigured,
    TargetRateLimited,
    Unsupported,
    UpstreamAuth,
    UpstreamError,
)
from gateway.upstreams.answers import lenient
from gateway.upstreams.context_length import read_context_limit
from gateway.upstreams.http_client.client import CannotConnect, HungUp, InvalidResponse, ResponseTimeout

_NOT_RESIDENT: Final = frozenset({"not_resident", "draining", "device_failed", "model_not_loaded", "loading"})
_UNSUPPORTED: Final = frozenset(
    {
        *("unsupported", "unsupported_schema", "unsupported_parameter", "unsupported_value"),
        "answer_does_not_fit",
    }
)
# The account at the provider has no money or quota left: unlike a rate limit, it does not refill by waiting.
_NO_CREDIT: Final = frozenset({"insufficient_quota", "insufficient_balance", "billing_hard_limit_reached"})
# The gateway's key, whatever the status: some servers answer 400.
_REJECTED_KEY: Final = frozenset({"invalid_api_key", "authentication_error", "invalid_authentication_error"})
_STATUS_OF_TYPE: Final[Mapping[str, int]] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "rate_limit_error": 429,
    "overloaded_error": 529,
}
# Caused by the gateway's configuration, not by the client's request, so the client must not see them as its own error.
_GATEWAY_FAULTS: Final = frozenset({408, 421, 499})
# The same at the next attempt: a wrong URL or model in the policy, or a redirect that is not followed.
_LASTING: Final = frozenset({301, 302, 303, 307, 308, 404, 405, 407, 501})
_MAX_MESSAGE: Final = 500
_MAX_ENTRIES: Final = 8
_MAX_NAME: Final = 64


def from_response(status: int, headers: Mapping[str, str], body: bytes) -> AttemptFailed:
    """The error for a response whose status is not 200."""
    error = error_object(body)
    fault = from_error_object(error, status=status)
    fault.upstream_status = status
    fault.retry_after_s = read_retry_after(headers, now_s=time.time())
    return fault


def from_error_object(error: Mapping[str, Any], *, status: int) -> AttemptFailed:
    """Decides by error code first, because it is more specific than the status."""
    code = _text(error.get("code"))
    if code in _NOT_RESIDENT:
        return NotResident("The target's model is not loaded.", detail=f"status {status}, {code}")
    if code == "deadline_exceeded":
        return DeadlineExceeded("The target exceeded its deadline.", detail=f"status {status}")
    if (doubt := _answer_error(code, status)) is not None:
        return doubt
    if (overload := _overload_error(error, code, status)) is not None:
        return overload
    if status in (401, 403) or _REJECTED_KEY & {code, _text(error.get("type"))} or _names_api_key(error):
        return UpstreamAuth("The target rejected the gateway's credentials.", detail=f"status {status}")
    if (context := read_context_limit(error)) is not None:  # whatever the status: some servers send 500 or 413
        return ContextLengthExceeded(
            _message(error, status),
            limit=context.limit,
            needed=context.needed,
            param=_text(error.get("param")),
            detail=f"status {status}, context length",
        )
    if status >= 500 or status in _LASTING or status in _GATEWAY_FAULTS or status < 400 or code == "cancelled":
        kind = TargetMisconfigured if status in _LASTING else UpstreamError
        return kind(f"The target returned HTTP status {status}.", detail=f"status {status}")
    return _request_error(error, code, status)


def status_of(error: Mapping[str, Any]) -> int:
    """The status that an error object inside a response with status 200 stands for: its `code` or `status` may be one,
    or its `type` has one; else 502."""
    for name in ("code", "status"):
        code = lenient.count_of(error.get(name))
        if code is not None and 400 <= code < 600:
            return code
    return _STATUS_OF_TYPE.get(_text(error.get("type")), 502)


def _names_api_key(error: Mapping[str, Any]) -> bool:
    """Google's reason beside status 400."""
    details = error.get("details")
    entries = details if isinstance(details, list) else ()
    return any(isinstance(entry, dict) and entry.get("reason") == "API_KEY_INVALID" for entry in entries)


def _answer_error(code: str, status: int) -> InvalidOutput | LowConfidence | None:
    """The worker rejected its own answer: it is healthy, and a retry would fail again."""
    detail = f"status {status}, {code}"
    if code == "invalid_output":
        return InvalidOutput("The target could not produce output that matches the schema.", detail=detail)
    if code == "low_confidence":  # and could not reach the minimum any more
        return LowConfidence("The answer's confidence is below the minimum.", detail=detail)
    return None


def _overload_error(error: Mapping[str, Any], code: str, status: int) -> Overloaded | None:
    """A target that cannot take the request now: no quota left, rate limited, or too busy."""
    if _NO_CREDIT & {code, _text(error.get("type"))} or status == 402:
        return InsufficientQuota(
            "The gateway's account at the target's provider has no quota left.", detail=f"status {status}, no quota"
        )
    if (status == 429 and code != "overloaded") or (status == 502 and code == "rate_limit_exceeded"):
        # A worker's full queue is 429 `overloaded`; inside a stream, the code is all there is.
        return TargetRateLimited("The target's provider limits the rate of requests.", detail=f"status {status}")
    if status in (429, 503, 529) or code == "overloaded":
        return Overloaded("The target is overloaded.", detail=f"status {status}")
    return None


def _request_error(error: Mapping[str, Any], code: str, status: int) -> AttemptFailed:
    message = _message(error, status)
    param = _text(error.get("param")) or None
    if code in _UNSUPPORTED:
        return Unsupported(message, detail=f"status {status}, {code}", param=param)
    return Refused(message, status=status, code=code or None, param=param)


def _message(error: Mapping[str, Any], status: int) -> str:
    return _text(error.get("message"))[:_MAX_MESSAGE] or f"The target rejected the request with HTTP status {status}."


class translate_errors:  # noqa: N801 - a context manager without the cost of a generator
    """Raise exceptions of the HTTP client as errors of the gateway."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(fault, Exception) and (error := translated(fault)) is not None:
            raise error from fault


TRANSLATED: Final = translate_errors()  # it has no state


def translated(fault: Exception) -> UpstreamError | None:
    """An exception of the HTTP client as an error of the gateway; None for any other. aiohttp takes long to import, and
    raises nothing before."""
    aiohttp = sys.modules.get("aiohttp")
    if aiohttp is not None and isinstance(fault, aiohttp.ClientProxyConnectionError):
        return UpstreamError("Cannot connect to the proxy.", detail="proxy: connection refused")
    if aiohttp is not None and isinstance(fault, aiohttp.ClientHttpProxyError):
        return UpstreamError("The proxy rejected the connection.", detail=f"proxy: status {fault.status}")
    if isinstance(fault, CannotConnect) or (aiohttp is not None and isinstance(fault, aiohttp.ClientConnectorError)):
        return NotConnected("Cannot connect to the target.", detail="connection refused")
    if isinstance(fault, TimeoutError):
        return NotConnected("Cannot connect to the target in time.", detail="connect timeout")
    if isinstance(fault, ResponseTimeout):
        return UpstreamError("The target did not respond in time.", detail="response timeout")
    if isinstance(fault, OSError | HungUp) or (aiohttp is not None and isinstance(fault, aiohttp.ClientError)):
        return UpstreamError("The target closed the connection.", detail=_kind(fault))
    if isinstance(fault, ValueError | InvalidResponse):  # aiohttp's for lines over its limits
        return UpstreamError("The target sent an invalid HTTP response.", detail=_kind(fault))
    return None


def _kind(fault: Exception) -> str:
    """The exception's class only: messages of foreign exceptions may contain addresses."""
    return type(fault).__name__


def error_object(body: bytes) -> Mapping[str, Any]:
    """The error in a body: its `message`, `type`, `code` and `param`, as far as they are known. Reads OpenAI's object
    and those of other servers, also behind a byte order mark, and plain text."""
    try:
        document = lenient.load(body)
    except (ValueError, RecursionError):
        return _plain_error(body)
    if isinstance(document, list):  # Gemini
        document = _first_object(document)
    if not isinstance(document, dict):
        return {}
    error = document.get("error") or document.get("errors")
    if isinstance(error, list):
        error = _first_object(error)
    if isinstance(error, dict):
        return error
    if isinstance(error, str):  # TGI; its type stands beside it
        return {"message": error, "type": document.get("error_type")}
    message = document.get("message")
    if isinstance(message, str):  # vLLM and Mistral: the object itself
        return document
    if isinstance(message, dict):  # Mistral's invalid fields
        return _detailed_error(message.get("detail"))
    if isinstance(document.get("msg"), str):
        return {**document, "message": document["msg"]}
    return _detailed_error(document.get("detail"))


def _first_object(entries: list[Any]) -> Any:
    first = next((entry for entry in entries if isinstance(entry, dict)), None)
    return first.get("error", first) if first else first


def _detailed_error(detail: Any) -> Mapping[str, Any]:
    """FastAPI's errors: a text, an object, or pydantic's list of what is wrong and where."""
    if isinstance(detail, dict):
        return detail
    if isinstance(detail, str):
        return {"message": detail}
    entries = [entry for entry in detail if isinstance(entry, dict)] if isinstance(detail, list) else []
    found = [(_location(entry.get("loc")), _text(entry.get("msg"))) for entry in entries[:_MAX_ENTRIES]]
    if not found:
        return {}
    return {"message": "; ".join(": ".join(filter(None, each)) for each in found), "param": found[0][0] or None}


def _location(loc: Any) -> str:
    names = [str(name)[:_MAX_NAME] for name in loc[:_MAX_ENTRIES]] if isinstance(loc, list) else []
    return ".".join(names[1:] if names[:1] == ["body"] else names)


def _plain_error(body: bytes) -> Mapping[str, Any]:
    """A message in plain text. HTML is a page of a proxy, and half a JSON document says nothing."""
    text = body.decode("utf-8", "replace").strip()
    return {} if text[:1] in ("", "<", "{", "[", "\ufeff") or not text.isprintable() else {"message": text}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def read_retry_after(headers: Mapping[str, str], *, now_s: float) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after`; None if there is neither, or it is invalid. Reads what OpenAI's
    clients read: a number of seconds, or a date.

    A date counts from the response's own `date`, because the clocks of two machines may differ. `now_s`, in seconds
    since the epoch, is used if there is none.
    """
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        with suppress(ValueError):  # a date, or absent
            seconds = float(value) * unit_s
            if seconds >= 0 and value[:1].isdigit():  # neither NaN nor `inf`
                return seconds
    until_s = _epoch_s(headers.get("retry-after", ""))
    if until_s is None:
        return None
    sent_s = _epoch_s(headers.get("date", ""))
    return max(0.0, until_s - (now_s if sent_s is None else sent_s))


def _epoch_s(date: str) -> float | None:
    """An HTTP date in seconds since the epoch. Raises nothing."""
    try:
        parts = parsedate_tz(date)
        return None if parts is None else mktime_tz(parts)
    except (TypeError, ValueError, OverflowError):
        return None
