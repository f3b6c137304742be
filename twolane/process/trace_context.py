"""W3C Trace Context: the position of a request in a distributed trace, as headers encode it. Pure.

Spans are created when a request has ended; this module creates only the ids that must exist earlier, because they are
sent to the servers that the request calls. Independent of samplers and exporters.
"""

import re
from collections.abc import Mapping
from typing import Final

from twolane.process.records import record

SAMPLED: Final = 1
_PARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_STATE: Final = re.compile(rb"[\x20-\x7e]{1,512}")
_HEADERS: Final = ("00-%s-%s-00", "00-%s-%s-01")  # by flags
_SPANS: Final = (1 << 64) - 1  # all 64-bit numbers except 0


@record
class Trace:
    """`span_id` is the request's own span if it `is_recorded`, otherwise its caller's: a process that records nothing
    does not appear in the trace, and the servers it calls are children of its caller."""

    trace_id: int
    span_id: int
    parent_id: int = 0  # the parent of a recorded span; 0: the span is the root
    flags: int = 0
    state: str = ""  # `tracestate`, forwarded unchanged
    is_recorded: bool = False
    ids_text: str = ""  # trace id and span id as 48 hexadecimal digits, if they were made together; empty: not yet

    @property
    def hex_id(self) -> str:
        """The trace id as written in logs and exemplars."""
        return self.ids_text[:32] or f"{self.trace_id:032x}"

    def child_id(self, number: int) -> int:
        """The span id of the request's n-th call, n > 0, derived from the random span id of the request."""
        return (self.span_id + number - 1) % _SPANS + 1

    def header(self, span_id: int = 0) -> str:
        """The header `traceparent` for a server that is called from this span (0: the request's own)."""
        text = self.ids_text
        if text and not span_id:
            return _HEADERS[self.flags] % (text[:32], text[32:])
        return f"00-{self.hex_id}-{span_id or self.span_id:016x}-{self.flags:02x}"


def read_trace(headers: Mapping[bytes, bytes]) -> Trace | None:
    """The caller's context; None if it is absent or malformed. A malformed context is never forwarded."""
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
