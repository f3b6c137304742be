"""Traces: requests from a decision log, or from a CSV table of arrivals and sizes. Errors name file, line and
column."""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import accumulate
from math import inf
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from gateway.enums import AttemptOutcome, Outcome, Reason, Task
from gateway.errors import TraceError
from gateway.routing.policy import DIRECT
from twolane.process.locations import locations_of

_Value = TypeVar("_Value")
_OUTCOMES: Final = frozenset(map(str, (*Reason, *AttemptOutcome)))
_REQUIRED_COLUMNS: Final = ("arrival_s", "input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request of a trace. `at_s` counts from the start of the trace. `target`: set if the request named it
    itself."""

    number: int
    at_s: float
    input_tokens: int
    output_tokens: int
    task: Task = Task.CHAT
    confidence: float = 1.0
    evidence: str = "trace"
    stream: bool = False
    private: bool = False
    locations: frozenset[str] | None = None  # to which the request was limited
    has_schema: bool = False
    principal: str | None = None
    target: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Requests in order of arrival. `begin_s`: seconds since the epoch, None if unknown."""

    arrivals: tuple[Arrival, ...]
    begin_s: float | None = None


class LoggedAttempt(msgspec.Struct, frozen=True):
    """One attempt of a logged request, times in ms since the request arrived."""

    target: str
    started_ms: float
    ended_ms: float
    outcome: str  # a Reason or an AttemptOutcome; msgspec supports no union of two enums
    first_byte_ms: float | None = None

    def __post_init__(self) -> None:
        """Raises ValueError, which the decoder reports with its position."""
        if self.outcome not in _OUTCOMES:
            raise ValueError(f"unknown outcome {self.outcome!r}")

    @property
    def was_called(self) -> bool:
        """Skipping a target takes no time."""
        return self.ended_ms > self.started_ms

    @property
    def elapsed_ms(self) -> float:
        """Duration from the call to its end."""
        return self.ended_ms - self.started_ms


EVENT: Final = '{"event":'  # begins a line of a decision log that is no decision


class LoggedRequest(msgspec.Struct, frozen=True):
    """One line of a decision log, with the fields needed here."""

    time: datetime
    task: Task
    confidence: float
    evidence: str
    route: str
    outcome: Outcome
    total_ms: float
    attempts: tuple[LoggedAttempt, ...]
    private: bool = False
    locations: frozenset[str] | None = None
    stream: bool = False
    principal: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    schema: str | None = None
    target: str | None = None
    cost: float = 0.0


def read_trace(path: Path, *, task: Task | None = None) -> Trace:
    """A decision log if the name ends in .jsonl, else a table. `task`: for rows without one (default: chat). Raises
    TraceError."""
    if path.suffix == ".jsonl":
        return trace_of(read_log(path))
    lines = list(_lines(path))
    if not lines:
        raise TraceError("the file is empty", file=path, line=1, column=1)
    columns = next(csv.reader([lines[0]]))
    for name in _REQUIRED_COLUMNS:
        if name not in columns:
            raise TraceError(
                f"missing column {name!r}; required: {', '.join(_REQUIRED_COLUMNS)}", file=path, line=1, column=1
            )
    default = task or Task.CHAT
    rows = [_Row(path, number, columns, line) for number, line in enumerate(lines[1:], 2) if line.strip()]
    return _in_order([_arrival(row, default) for row in rows])


def read_log(path: Path) -> list[LoggedRequest]:
    """All lines of a decision log. Raises TraceError."""
    decoder = msgspec.json.Decoder(LoggedRequest)
    found = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip() or line.startswith(EVENT):
            continue
        try:
            found.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as fault:
            raise _line_error(fault, path, number, line) from fault
    if not found:
        raise TraceError("the log contains no decisions", file=path, line=1, column=1)
    return found


def trace_of(log: Sequence[LoggedRequest]) -> Trace:
    """The requests of a log. Unknown sizes count as 0."""
    begin_s = min(line.time.timestamp() for line in log)
    arrivals = [
        Arrival(
            number=0,
            at_s=line.time.timestamp() - begin_s,
            input_tokens=line.input_tokens or 0,
            output_tokens=line.output_tokens or 0,
            task=line.task,
            confidence=line.confidence,
            evidence=line.evidence,
            stream=line.stream,
            private=line.private,
            locations=line.locations,
            has_schema=line.schema is not None,
            principal=line.principal,
            target=line.attempts[0].target if line.route == DIRECT and line.attempts else None,
        )
        for line in log
    ]
    return _in_order(arrivals, begin_s)


def _in_order(arrivals: Sequence[Arrival], begin_s: float | None = None) -> Trace:
    """A log is ordered by the end of requests; a table may be in any order."""
    ordered = sorted(arrivals, key=lambda each: each.at_s)
    return Trace(arrivals=tuple(replace(each, number=n) for n, each in enumerate(ordered)), begin_s=begin_s)


class _Row:
    """One line of a table: values by column, and their positions."""

    def __init__(self, path: Path, line: int, columns: Sequence[str], text: str) -> None:
        self._path = path
        self._line = line
        fields = next(csv.reader([text]))
        if len(fields) != len(columns):
            raise TraceError(f"expected {len(columns)} values, got {len(fields)}", file=path, line=line, column=1)
        self._fields = dict(zip(columns, fields, strict=True))
        starts = accumulate((len(field) + 1 for field in fields), initial=1)  # does not count quotes
        self._starts = dict(zip(columns, starts, strict=False))

    def has(self, name: str) -> bool:
        """Whether the field is present and not empty."""
        return bool(self._fields.get(name, "").strip())

    def get(self, name: str, read: Callable[[str], _Value], default: _Value | None = None) -> _Value:
        """The value parsed by `read`, or `default` if the field is empty. Raises TraceError if `read` raises
        ValueError or KeyError."""
        text = self._fields.get(name, "").strip()
        if not text and default is not None:
            return default
        try:
            return read(text)
        except (ValueError, KeyError):
            raise TraceError(
                f"invalid {name} {text!r}", file=self._path, line=self._line, column=self._starts[name]
            ) from None


def _arrival(row: _Row, task: Task) -> Arrival:
    return Arrival(
        number=0,
        at_s=row.get("arrival_s", _seconds),
        input_tokens=row.get("input_tokens", _count),
        output_tokens=row.get("output_tokens", _count),
        task=row.get("task", Task, task),
        stream=row.get("stream", _yes_no, False),
        has_schema=row.get("schema", _yes_no, False),
        private=row.get("private", _yes_no, False),
        locations=row.get("locations", _locations) if row.has("locations") else None,
    )


def _locations(text: str) -> frozenset[str]:
    """With commas as in the header, or with spaces, so that the cell needs no quotes."""
    return locations_of(",".join(text.replace(",", " ").split()))


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < inf:
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


def _yes_no(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[text.lower()]


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield from file
    except OSError as fault:
        raise TraceError(f"cannot read the file: {fault.strerror}", file=path) from fault
    except UnicodeDecodeError as fault:
        raise TraceError(f"invalid UTF-8: {fault.reason}", file=path) from fault


def _line_error(fault: Exception, path: Path, number: int, line: str) -> TraceError:
    """For invalid JSON the column of the error; for an invalid value the column of its key's first occurrence."""
    cause = str(fault).replace("Expected", "expected").replace("Object", "object")
    position = re.search(r"\(byte (\d+)\)", cause)
    key = re.search(r"\.(\w+)(?:\[[^]]*\])*`$", cause)
    at = int(position[1]) if position else max(0, line.find(f'"{key[1]}"')) if key else 0
    return TraceError(cause, file=path, line=number, column=at + 1)
