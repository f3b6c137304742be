"""Control of the fault proxy: its modes, the current fault, and the responses of the control endpoint. No sockets."""

import json
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

CONTROL_PATH = "/__faults"
COMPLETION_PATHS = ("/v1/chat/completions", "/v1/completions")


class Mode(StrEnum):
    """What is done to an affected request."""

    NONE = "none"
    CORRUPT = "corrupt"  # JSON inside the response's text loses its last bracket; HTTP and the outer JSON stay valid
    TRUNCATE = "truncate"  # the connection closes within the body
    DELAY = "delay"  # the request is forwarded after `seconds`
    DRIP = "drip"  # the body is sent in small pieces, `seconds` before each
    RESET = "reset"  # the connection is reset before any response
    TOO_MANY = "429"
    BROKEN = "500"


class FaultError(Exception):
    """An invalid fault; the text names the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault. It affects `share` of the requests whose path starts with one of `paths`: the first one, then evenly
    spaced ones.

    `seconds` is the delay of `delay`, the delay before each piece of `drip`, and the retry-after of `429`.
    """

    mode: Mode = Mode.NONE
    seconds: float = 0.0
    share: float = 1.0
    paths: tuple[str, ...] = COMPLETION_PATHS


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonResponse:
    """A response that the proxy makes itself."""

    status: int
    content: Any
    retry_after_s: int | None = None

    @property
    def body(self) -> bytes:
        """The content as JSON."""
        return json.dumps(self.content).encode()

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The header fields, without content-length."""
        fields = [(b"content-type", b"application/json")]
        return fields if self.retry_after_s is None else [*fields, (b"retry-after", b"%d" % self.retry_after_s)]


def parse_fault(body: bytes) -> Fault:
    """Parse the JSON of a control request. Raises FaultError naming the invalid field."""
    try:
        given = json.loads(body)
    except ValueError:
        raise FaultError("the body is not JSON") from None
    if not isinstance(given, dict):
        raise FaultError("the body is not a JSON object")
    known = [field.name for field in fields(Fault)]
    if unknown := sorted(set(given) - set(known)):
        raise FaultError(f"{unknown[0]}: unknown field (choose from {', '.join(known)})")
    return Fault(
        mode=_mode(given.get("mode", "none")),
        seconds=_number(given, "seconds", default=0.0, most=3600.0),
        share=_number(given, "share", default=1.0, most=1.0),
        paths=_paths(given.get("paths", list(COMPLETION_PATHS))),
    )


def state_response(fault: Fault, *, requests: int, faulted: int) -> JsonResponse:
    """Return the current fault and the counts since the proxy started."""
    content = {
        "mode": fault.mode,
        "seconds": fault.seconds,
        "share": fault.share,
        "paths": fault.paths,
        "requests": requests,
        "faulted": faulted,
    }
    return JsonResponse(status=200, content=content)


def error_response(status: int, message: str, *, retry_after_s: float = 0.0) -> JsonResponse:
    """Return an error in OpenAI's shape."""
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": "overloaded" if status == 429 else None}
    retry_after = max(1, round(retry_after_s)) if status == 429 else None
    return JsonResponse(status=status, content={"error": error}, retry_after_s=retry_after)


def _mode(given: Any) -> Mode:
    try:
        return Mode(str(given))
    except ValueError:
        raise FaultError(f"mode: invalid value {given!r} (choose from {', '.join(Mode)})") from None


def _number(given: dict[str, Any], name: str, *, default: float, most: float) -> float:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= most:
        raise FaultError(f"{name}: {value!r} must be a number from 0 to {most:g}")
    return float(value)


def _paths(given: Any) -> tuple[str, ...]:
    if not (isinstance(given, list) and given and all(isinstance(path, str) and path[:1] == "/" for path in given)):
        raise FaultError("paths: must be a non-empty list of paths that start with /")
    return tuple(given)
