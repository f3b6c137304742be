"""What is simulated: requests read from a decision log, or from a table of arrivals and sizes. Knows no policy.

A mistake names file, line and column.
"""

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

_Value = TypeVar("_Value")
_OUTCOMES: Final = frozenset(map(str, (*Reason, *AttemptOutcome)))
_NEEDED: Final = ("arrival_s", "input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request of a trace. `at_s` counts from the trace's beginning. `target`: one it named itself."""

    number: int
    at_s: float
    input_tokens: int
    output_tokens: int
    task: Task = Task.CHAT
    confidence: float = 1.0
    evidence: str = "trace"
    stream: bool = False
    private: bool = False
    has_schema: bool = False
    principal: str | None = None
    target: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Requests in the order of their arrival. `begin_s`: seconds since the epoch, None if the file does not say."""

    arrivals: tuple[Arrival, ...]
    begin_s: float | None = None


class LoggedAttempt(msgspec.Struct, frozen=True):
    """One attempt of a logged request, times in ms since it arrived."""

    target: str
    started_ms: float
    ended_ms: float
    outcome: str  # a Reason or an AttemptOutcome; msgspec reads no union of the two
    first_byte_ms: float | None = None

    def __post_init__(self) -> None:
        """Raises ValueError, which the decoder tells with its place."""
        if self.outcome not in _OUTCOMES:
            raise ValueError(f"{self.outcome!r} is no outcome")

    @property
    def was_called(self) -> bool:
        """Passing a target over takes no time."""
        return self.ended_ms > self.started_ms

    @property
    def elapsed_ms(self) -> float:
        """From the call to its end."""
        return self.ended_ms - self.started_ms


class Logged(msgspec.Struct, frozen=True):
    """One line of a decision log, as far as it is needed here."""

    time: datetime
    task: Task
    confidence: float
    evidence: str
    route: str
    outcome: Outcome
    total_ms: float
    attempts: tuple[LoggedAttempt, ...]
    private: bool = False
    stream: bool = False
    principal: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    schema: str | None = None
    target: str | None = None
    cost: float = 0.0


def read_trace(path: Path, *, task: Task | None = None) -> Trace:
    """A decision log if its name ends in .jsonl, else a table. `task`: of the rows that say none (else: chat).

    Raises TraceError.
    """
    if path.suffix == ".jsonl":
        return trace_of(read_log(path))
    lines = list(_lines(path))
    if not lines:
        raise TraceError("is empty", file=path, line=1, column=1)
    columns = next(csv.reader([lines[0]]))
    for name in _NEEDED:
        if name not in columns:
            raise TraceError(f"has no column {name!r}", file=path, line=1, column=1)
    usual = task or Task.CHAT
    rows = [_Row(path, number, columns, line) for number, line in enumerate(lines[1:], 2) if line.strip()]
    return _in_order([_arrival(row, usual) for row in rows])


def read_log(path: Path) -> list[Logged]:
    """All lines of a decision log. Raises TraceError."""
    decoder = msgspec.json.Decoder(Logged)
    found = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            found.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as fault:
            raise _bad_line(fault, path, number, line) from fault
    if not found:
        raise TraceError("holds no decision", file=path, line=1, column=1)
    return found


def trace_of(log: Sequence[Logged]) -> Trace:
    """The requests of a log. What it does not say of a size counts as nothing."""
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
            has_schema=line.schema is not None,
            principal=line.principal,
            target=line.attempts[0].target if line.route == DIRECT and line.attempts else None,
        )
        for line in log
    ]
    return _in_order(arrivals, begin_s)


def _in_order(arrivals: Sequence[Arrival], begin_s: float | None = None) -> Trace:
    """A log is written when requests end; a table may be in any order."""
    ordered = sorted(arrivals, key=lambda each: each.at_s)
    return Trace(arrivals=tuple(replace(each, number=n) for n, each in enumerate(ordered)), begin_s=begin_s)


class _Row:
    """One line of a table; its values by column, and where each stands."""

    def __init__(self, path: Path, line: int, columns: Sequence[str], text: str) -> None:
        self._path = path
        self._line = line
        fields = next(csv.reader([text]))
        if len(fields) != len(columns):
            raise TraceError(f"has {len(fields)} values for {len(columns)} columns", file=path, line=line, column=1)
        self._fields = dict(zip(columns, fields, strict=True))
        starts = accumulate((len(field) + 1 for field in fields), initial=1)  # off by the quotes before it, if any
        self._starts = dict(zip(columns, starts, strict=False))

    def get(self, name: str, read: Callable[[str], _Value], usual: _Value | None = None) -> _Value:
        """Raises TraceError where `read` cannot (ValueError, KeyError); where nothing stands, `usual` is read."""
        text = self._fields.get(name, "").strip()
        if not text and usual is not None:
            return usual
        try:
            return read(text)
        except (ValueError, KeyError):
            raise TraceError(
                f"{text!r} is no {name}", file=self._path, line=self._line, column=self._starts[name]
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
    )


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
        raise TraceError(f"cannot be read: {fault.strerror}", file=path) from fault
    except UnicodeDecodeError as fault:
        raise TraceError(f"is not UTF-8: {fault.reason}", file=path) from fault


def _bad_line(fault: Exception, path: Path, number: int, line: str) -> TraceError:
    """Of JSON that is broken, where; of a value that is wrong, where its key stands first."""
    cause = str(fault).replace("Expected", "expected").replace("Object", "object")
    place = re.search(r"\(byte (\d+)\)", cause)
    key = re.search(r"\.(\w+)(?:\[[^]]*\])*`$", cause)
    at = int(place[1]) if place else max(0, line.find(f'"{key[1]}"')) if key else 0
    return TraceError(cause, file=path, line=number, column=at + 1)
