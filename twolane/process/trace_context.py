"""W3C Trace Context: the place of a request in a distributed trace, as headers carry it. Pure.

Spans are made when a request is over; here are only the numbers that must exist before, because they are sent to the
servers that the request calls. Knows no sampler and no exporter.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

SAMPLED: Final = 1
_PARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_STATE: Final = re.compile(rb"[\x20-\x7e]{1,512}")
_SPANS: Final = (1 << 64) - 1  # all numbers of 64 bits but 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """`span_id` is the request's own span if it `is_recorded`, else its caller's: a process that records nothing stays
    invisible, and the servers it calls are children of its caller."""

    trace_id: int
    span_id: int
    parent_id: int = 0  # of a recorded span; 0: it is the root
    flags: int = 0
    state: str = ""  # `tracestate`, forwarded unchanged
    is_recorded: bool = False

    @property
    def hex_id(self) -> str:
        """The id of the trace as logs and exemplars spell it."""
        return f"{self.trace_id:032x}"

    def child_id(self, number: int) -> int:
        """The span of the request's n-th call, n > 0: neighbours of a random number are as good as random."""
        return (self.span_id + number - 1) % _SPANS + 1

    def header(self, span_id: int = 0) -> str:
        """`traceparent` for a server that is called from this span (0: the request's)."""
        return f"00-{self.trace_id:032x}-{span_id or self.span_id:016x}-{self.flags:02x}"


def read_trace(headers: Mapping[bytes, bytes]) -> Trace | None:
    """The caller's context. None if there is none, or none that is well formed: that is never forwarded."""
    found = _PARENT.fullmatch(headers.get(b"traceparent", b"").strip())
    if found is None or found[1] == b"ff":
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups()[1:])
    if not trace_id or not span_id:
        return None
    state = headers.get(b"tracestate", b"").strip()
    return Trace(
        trace_id=trace_id,
        span_id=span_id,
        flags=flags & SAMPLED,
        state=state.decode() if _STATE.fullmatch(state) else "",
    )
