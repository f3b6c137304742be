"""Counts decisions that have the labels of many others, each in one step.

Most decisions have one attempt, which succeeded. All counters of such a decision grow by one, so it adds one to a
single number, which counts for all of them when cells are flushed.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, NamedTuple

from gateway.decision import AttemptRecord, Decision
from gateway.enums import AttemptOutcome, Outcome
from gateway.telemetry.cells import CounterCell, HistogramCell

_MOST: Final = 1024  # kinds of decisions that are remembered: keys have many names
_OK: Final = Outcome.OK  # finding a member in its class takes 0.2 µs
_ATTEMPT_OK: Final = AttemptOutcome.OK
_Add = Callable[[float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptCells:
    """The cells of a successful attempt. What is None is not measured; usage is counted if it was reported."""

    counters: tuple[CounterCell, ...]  # of attempts
    seconds: HistogramCell
    first_chunk: HistogramCell | None
    first_token: HistogramCell | None
    confidence: HistogramCell | None
    lane: HistogramCell | None
    on_time: tuple[CounterCell, CounterCell] | None  # attempts that met and that missed the objective
    usage: "UsageCells | None"


class UsageCells(NamedTuple):
    """Where tokens and dollars are counted."""

    input: CounterCell
    output: CounterCell
    cost: CounterCell


class CommonCells:
    """The cells of decisions with the same labels. `counters` are those besides the attempt's; `of_key` is where the
    tokens count for their API key."""

    def __init__(
        self,
        attempt: AttemptCells,
        counters: tuple[CounterCell, ...],
        *,
        seconds: HistogramCell,
        first_byte: HistogramCell,
        of_key: UsageCells,
    ) -> None:
        self.add_total, self.add_first_byte = seconds.add, first_byte.add
        self.add_attempt = attempt.seconds.add
        self.add_lane, self.add_confidence = _add(attempt.lane), _add(attempt.confidence)
        self.add_first_chunk, self.add_first_token = _add(attempt.first_chunk), _add(attempt.first_token)
        self.count = self.late = self.input = self.output = 0
        self.cost = 0.0
        self._counters, self._on_time = attempt.counters + counters, attempt.on_time
        self._usage = (of_key,) if attempt.usage is None else (attempt.usage, of_key)

    def flush(self) -> None:
        """Add the numbers since the last call to the cells."""
        if not self.count:
            return
        for cell in self._counters:
            cell.value += self.count
        if self._on_time is not None:
            met, late = self._on_time
            met.value += self.count - self.late
            late.value += self.late
        for cells in self._usage:
            cells.input.value += self.input
            cells.output.value += self.output
            cells.cost.value += self.cost
        self.count = self.late = self.input = self.output = 0
        self.cost = 0.0


class CommonDecisions:
    """Counts those decisions that it can. `find` returns their cells, once for all that have the same labels; None if
    they have to be counted one by one."""

    def __init__(self, find: Callable[[Decision, AttemptRecord], CommonCells | None], add_overhead: _Add) -> None:
        self._find, self._add_overhead = find, add_overhead
        self._known: dict[tuple[Hashable, ...], CommonCells | None] = {}

    def take(self, decision: Decision) -> bool:
        """Count this decision; False if it is none of those."""
        attempts, trace, first_byte_ms = decision.attempts, decision.trace, decision.first_byte_ms
        if len(attempts) != 1 or decision.outcome is not _OK or first_byte_ms is None:
            return False
        [attempt] = attempts
        usage, budget_ms = attempt.usage, attempt.budget_ms
        if attempt.outcome is not _ATTEMPT_OK or attempt.queued_ms is not None:
            return False
        if trace is not None and trace.is_recorded:  # has exemplars
            return False
        key = (
            decision.route,
            decision.classification.task,
            decision.target,
            decision.principal,
            decision.api_path,
            decision.status,
            decision.error_source,
            decision.schema_check,
            attempt.target,
            attempt.status,
            attempt.stream,
            attempt.ignored,
            attempt.skipped,
            attempt.hedge,
            budget_ms,
            usage is None,
        )
        cells = self._known.get(key) or self._first(key, decision)
        if cells is None:
            return False
        started_ms = attempt.started_ms
        elapsed_ms = attempt.ended_ms - started_ms
        elapsed_s = elapsed_ms / 1000.0
        cells.count += 1
        cells.add_total(decision.total_ms / 1000.0)
        cells.add_first_byte(first_byte_ms / 1000.0)
        self._add_overhead(decision.overhead_ms / 1000.0)
        cells.add_attempt(elapsed_s)
        if budget_ms is not None:
            cells.add_lane(elapsed_s)
            if elapsed_ms > budget_ms:
                cells.late += 1
        if attempt.stream:
            if attempt.first_byte_ms is not None:
                cells.add_first_chunk((attempt.first_byte_ms - started_ms) / 1000.0)
            if attempt.first_token_ms is not None:
                cells.add_first_token((attempt.first_token_ms - started_ms) / 1000.0)
        used = attempt.estimate if usage is None else usage
        if used is not None:
            cells.input += used.input_tokens or 0
            cells.output += used.output_tokens or 0
            cells.cost += used.cost or 0.0
            if used.confidence is not None:
                cells.add_confidence(used.confidence)
        return True

    def flush(self) -> None:
        """Add what was counted to the cells."""
        for cells in self._known.values():
            if cells is not None:
                cells.flush()

    def forget(self) -> None:
        """Find cells anew: they have changed."""
        self.flush()
        self._known.clear()

    def _first(self, key: tuple[Hashable, ...], decision: Decision) -> CommonCells | None:
        if key in self._known:
            return None
        if len(self._known) >= _MOST:
            self.forget()
        found = self._known[key] = self._find(decision, decision.attempts[0])
        return found


def _add(cell: HistogramCell | None) -> _Add:
    return _ignore if cell is None else cell.add


def _ignore(_value: float) -> None:
    """Not measured."""
