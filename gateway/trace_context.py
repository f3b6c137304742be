"""W3C Trace Context: parse the caller's headers, and derive the headers that are sent to targets.

Spans are built from the decision at the end of a request (`telemetry.spans`). Only the ids are needed earlier, because
they are sent to targets.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

SAMPLED: Final = 1
_PARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_STATE: Final = re.compile(rb"[\x20-\x7e]{1,512}")
_SPANS: Final = (1 << 64) - 1  # count of valid span ids: 64 bits, without 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """`span_id` is the request's own span if it `is_recorded`, otherwise the caller's span: a gateway that records
    nothing does not appear in the trace."""

    trace_id: int
    span_id: int
    parent_id: int = 0  # of a recorded span; 0 for a root span
    flags: int = 0
    state: str = ""  # `tracestate`, forwarded unchanged
    is_recorded: bool = False

    @property
    def hex_id(self) -> str:
        """The trace id in hexadecimal, as in logs and exemplars."""
        return f"{self.trace_id:032x}"

    def child_id(self, number: int) -> int:
        """The span id of the request's n-th attempt, n > 0; unique because the request's own id is random."""
        return (self.span_id + number - 1) % _SPANS + 1

    def header(self, span_id: int = 0) -> str:
        """The `traceparent` header for a call made from this span (0: the request's span)."""
        return f"00-{self.trace_id:032x}-{span_id or self.span_id:016x}-{self.flags:02x}"


def read_trace_context(headers: Mapping[bytes, bytes]) -> TraceContext | None:
    """The caller's trace context; None if `traceparent` is missing or malformed, which is never forwarded."""
    found = _PARENT.fullmatch(headers.get(b"traceparent", b"").strip())
    if found is None or found[1] == b"ff":
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups()[1:])
    if not trace_id or not span_id:
        return None
    state = headers.get(b"tracestate", b"").strip()
    return TraceContext(
        trace_id=trace_id,
        span_id=span_id,
        flags=flags & SAMPLED,
        state=state.decode() if _STATE.fullmatch(state) else "",
    )
