"""W3C Trace Context: the position of a request in a distributed trace, as headers encode it. Pure.

Spans are created when a request has ended; this module creates only the ids that must exist earlier, because they are
sent to the servers that the request calls. Independent of samplers and exporters.
"""

import re
from collections.abc import Mapping
from typing import Final

from twolane.process.records import record, replaced

SAMPLED: Final = 1
_PARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_STATE: Final = re.compile(rb"[\x20-\x7e]{1,512}")
_SPANS: Final = (1 << 64) - 1  # all 64-bit numbers except 0


@record
class Trace:
    """The position is a text, because most requests are not sampled: they send it to a target and log it, and none of
    its numbers is needed.

    Its span is the request's own if it `is_recorded`, otherwise its caller's: a process that records nothing does not
    appear in the trace, and the servers it calls are children of its caller."""

    traceparent: str  # the header for a server that is called from this span
    parent_id: int = 0  # the parent of a recorded span; 0: the span is the root
    state: str = ""  # `tracestate`, forwarded unchanged
    is_recorded: bool = False

    @property
    def hex_id(self) -> str:
        """The trace id as written in logs and exemplars."""
        return self.traceparent[3:35]

    @property
    def trace_id(self) -> int:
        """The same as a number."""
        return int(self.traceparent[3:35], 16)

    @property
    def span_id(self) -> int:
        """As a number."""
        return int(self.traceparent[36:52], 16)

    @property
    def flags(self) -> int:
        """SAMPLED or 0."""
        return int(self.traceparent[-1])

    def child_id(self, number: int) -> int:
        """The span id of the request's n-th call, n > 0, derived from the random span id of the request."""
        return (self.span_id + number - 1) % _SPANS + 1

    def header(self, span_id: int) -> str:
        """The header `traceparent` for a server that is called from this span, one of `child_id`."""
        text = self.traceparent
        return f"{text[:36]}{span_id:016x}{text[52:]}"

    def unsampled(self) -> "Trace":
        """The same position, of a request that nobody records."""
        return replaced(self, traceparent=self.traceparent[:-1] + "0", is_recorded=False)


def trace_of(
    hex_id: str, hex_span: str, *, flags: int = 0, parent_id: int = 0, state: str = "", is_recorded: bool = False
) -> Trace:
    """The position of this span, by its ids in 32 and 16 hexadecimal digits."""
    text = f"00-{hex_id}-{hex_span}-0{flags}"
    return Trace(traceparent=text, parent_id=parent_id, state=state, is_recorded=is_recorded)


def read_trace(headers: Mapping[bytes, bytes]) -> Trace | None:
    """The caller's context; None if it is absent or malformed. A malformed context is never forwarded."""
    found = _PARENT.fullmatch(headers.get(b"traceparent", b"").strip())
    if found is None or found[1] == b"ff":
        return None
    _, trace, span, flags = (part.decode() for part in found.groups())
    if not trace.strip("0") or not span.strip("0"):
        return None
    state = headers.get(b"tracestate", b"").strip()
    text = state.decode() if _STATE.fullmatch(state) else ""
    return trace_of(trace, span, flags=int(flags, 16) & SAMPLED, state=text)
