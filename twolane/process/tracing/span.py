"""Ended spans as light records, which OpenTelemetry's batch processor queues like its own.

`ReadableSpan`s of the SDK cost more, and their encoder most of what tracing a request cost (`otlp`).
"""

from collections.abc import Mapping
from dataclasses import field
from enum import IntEnum
from types import SimpleNamespace
from typing import Final

from twolane.process.records import record

Value = str | bool | int | float | tuple[str, ...]
Attributes = Mapping[str, Value]


class Kind(IntEnum):
    """Numbers of OTLP; those of the SDK's `SpanKind` are one less."""

    SERVER = 2
    CLIENT = 3


@record
class Event:
    """Something that happened during a span."""

    name: str
    at_ns: int
    attributes: Attributes = field(default_factory=dict)


_SAMPLED: Final = SimpleNamespace(trace_flags=SimpleNamespace(sampled=True))


@record
class Span:
    """A sampled span that has ended. Times are nanoseconds since the epoch."""

    name: str
    trace_id: int
    span_id: int
    parent_id: int = 0  # 0: a root
    is_parent_remote: bool = False
    kind: Kind = Kind.SERVER
    start_ns: int
    end_ns: int
    attributes: Attributes = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    is_error: bool = False

    context = _SAMPLED  # what the batch processor looks at before it queues a span
