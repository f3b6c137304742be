"""What a tampering proxy is told and what it tells: the modes, the fault in force, and its control endpoint's texts.

Knows nothing of sockets.
"""

import json
from dataclasses import dataclass, fields
from enum import StrEnum
from http import HTTPStatus
from typing import Any

CONTROL_PATH = "/__faults"
ANSWERING_PATHS = ("/v1/chat/completions", "/v1/completions")


class Mode(StrEnum):
    """What is done to a request that is hit."""

    NONE = "none"
    CORRUPT = "corrupt"  # JSON inside the answer's text loses its last bracket, HTTP and the outer JSON stay whole
    TRUNCATE = "truncate"  # the connection closes inside the body
    DELAY = "delay"  # nothing happens for `seconds`, then all goes on
    DRIP = "drip"  # the body comes in small pieces, `seconds` before each
    RESET = "reset"  # the connection is reset before any answer
    TOO_MANY = "429"
    BROKEN = "500"


class FaultError(Exception):
    """A fault that cannot be set; the text names the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The fault in force. `share` of the requests whose path starts with one of `paths` are hit, evenly
    spread and beginning with the first.

    `seconds` is the pause of `delay`, the pause before each piece of `drip`, and the retry-after of `429`.
    """

    mode: Mode = Mode.NONE
    seconds: float = 0.0
    share: float = 1.0
    paths: tuple[str, ...] = ANSWERING_PATHS


def parse_fault(body: bytes) -> Fault:
    """Read a fault from the JSON of the control endpoint; raises FaultError naming the field that is wrong."""
    try:
        said = json.loads(body)
    except ValueError:
        raise FaultError("the body is not JSON") from None
    if not isinstance(said, dict):
        raise FaultError("the body is not a JSON object")
    known = [field.name for field in fields(Fault)]
    if unknown := sorted(set(said) - set(known)):
        raise FaultError(f"{unknown[0]}: unknown field (known: {', '.join(known)})")
    return Fault(
        mode=_mode(said.get("mode", "none")),
        seconds=_number(said, "seconds", default=0.0, most=3600.0),
        share=_number(said, "share", default=1.0, most=1.0),
        paths=_paths(said.get("paths", list(ANSWERING_PATHS))),
    )


def read_state(fault: Fault, *, requests: int, faulted: int) -> bytes:
    """Return the control endpoint's answer: the fault in force and what happened since the proxy started."""
    state = {
        "mode": fault.mode,
        "seconds": fault.seconds,
        "share": fault.share,
        "paths": fault.paths,
        "requests": requests,
        "faulted": faulted,
    }
    return _response(200, state)


def refusal(status: int, message: str, *, retry_after_s: float = 0.0) -> bytes:
    """Return a whole error response in OpenAI's shape."""
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": "overloaded" if status == 429 else None}
    extra = f"retry-after: {max(1, round(retry_after_s))}\r\n" if status == 429 else ""
    return _response(status, {"error": error}, extra=extra)


def _response(status: int, content: Any, *, extra: str = "") -> bytes:
    body = json.dumps(content).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
    )
    return head.encode("ascii") + body


def _mode(said: Any) -> Mode:
    try:
        return Mode(str(said))
    except ValueError:
        raise FaultError(f"mode: {said!r} is none of {', '.join(Mode)}") from None


def _number(said: dict[str, Any], name: str, *, default: float, most: float) -> float:
    value = said.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= most:
        raise FaultError(f"{name}: {value!r} is not a number from 0 to {most:g}")
    return float(value)


def _paths(said: Any) -> tuple[str, ...]:
    if not (isinstance(said, list) and said and all(isinstance(path, str) and path[:1] == "/" for path in said)):
        raise FaultError("paths: not a list of paths that start with /")
    return tuple(said)
