"""Counters and histograms of attempts: what targets did, by route and target."""

from dataclasses import dataclass, field
from math import inf
from typing import Final

from prometheus_client import Histogram

from gateway.decision import ABANDONED, AttemptRecord
from gateway.enums import AttemptOutcome, Reason, SloOutcome
from gateway.routing.policy import Policy
from gateway.telemetry import metric_names as names
from gateway.telemetry.cells import Cells, CounterCell, HistogramCell, Origin
from gateway.telemetry.common_decisions import AttemptCells, UsageCells
from gateway.telemetry.semantic_conventions import EMBEDDINGS, provider_of

_OPERATION: Final = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
_USAGE: Final = (*_OPERATION, "gen_ai_token_modality")
_UNKNOWN_MODALITY: Final = "unknown"  # usage is reported as a sum of text, images and audio
_IN_TIME: Final = frozenset({SloOutcome.MET, SloOutcome.LATE})


@dataclass(slots=True, kw_only=True)
class _AttemptCells:
    """The cells of all attempts with the same route, target, outcome and operation."""

    attempts: CounterCell
    seconds: HistogramCell
    lane: HistogramCell
    lane_first_token: HistogramCell
    first_token_ms: float | None  # objective of the lane
    first_chunk: HistogramCell | None
    hedges: CounterCell
    confidence: HistogramCell
    cost: CounterCell
    input_tokens: CounterCell
    output_tokens: CounterCell
    embeddings_tokens: HistogramCell | None
    slo: dict[SloOutcome, CounterCell] = field(default_factory=dict)


class AttemptMetrics:
    """Observes attempts. Their cells are found once for each combination of labels, not for each attempt."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self._known: dict[tuple[str, str, str, str], _AttemptCells] = {}
        self._skipped: dict[tuple[str, str, str], CounterCell] = {}
        self._statuses: dict[tuple[str, int | None], CounterCell] = {}
        self._providers: dict[str, str] = {}  # by target
        self._first_token_ms: dict[tuple[str, str], float] = {}  # objectives by lane
        self._make_counters()
        self._input = cells.counter(names.INPUT_TOKENS, "Input tokens of attempts, as reported.", *_USAGE)
        self._output = cells.counter(names.OUTPUT_TOKENS, "Output tokens of attempts, as reported.", *_USAGE)
        self._embeddings_tokens = cells.histogram(
            names.EMBEDDINGS_TOKENS, "Input tokens per attempt to embed.", names.TOKEN_BUCKETS, *_OPERATION
        )
        self._confidence = cells.histogram(
            names.CONFIDENCE, "Confidence reported with responses.", names.CONFIDENCE_BUCKETS, "route", "target"
        )
        self._queue_wait = cells.histogram(
            names.QUEUE_WAIT_SECONDS,
            "Time that a request waited for a slot of a full target.",
            names.SECONDS_BUCKETS,
            *("target", "result"),
        )

    def set_policy(self, policy: Policy) -> None:
        """The lanes' objectives and the providers of targets; those of earlier policies stay known for attempts in
        progress."""
        slos = [(candidate.lane, candidate.slo) for candidate in policy.lanes if candidate.slo is not None]
        self._first_token_ms = {lane: slo.first_token_p95_ms for lane, slo in slos if slo.first_token_p95_ms < inf}
        self._providers.update((target.name, provider_of(target)) for target in policy.targets.values())
        self._known.clear()

    def make_timers(self, bounds: tuple[float, ...]) -> tuple[Histogram, ...]:
        """Create the latency histograms, and forget the cells of earlier ones."""
        lane = ("route", "target")

        def timer(name: str, text: str, *labels: str) -> Histogram:
            return self._cells.histogram(name, text, bounds, *labels)

        self._lane = timer(names.LANE_SECONDS, "Latency of a lane as measured by its SLO guard.", *lane)
        self._lane_first_token = timer(
            names.LANE_FIRST_TOKEN_SECONDS, "Time to first token of a lane as measured by its SLO guard.", *lane
        )
        self._inference = timer(names.INFERENCE_SECONDS, "Duration of an attempt.", *_OPERATION, "error_type")
        self._embeddings = timer(
            names.EMBEDDINGS_SECONDS, "Duration of an attempt to embed.", *_OPERATION, "error_type"
        )
        self._first_chunk = timer(
            names.FIRST_CHUNK_SECONDS, "Time to the first chunk of a streamed attempt.", *_OPERATION
        )
        self._known.clear()
        return self._lane, self._lane_first_token, self._inference, self._embeddings, self._first_chunk

    def provider_of(self, target: str) -> str:
        """The provider of a target of this or an earlier policy."""
        return self._providers.get(target, names.OTHER)

    def observe(self, route: str, attempt: AttemptRecord, operation: str, origin: Origin | None) -> None:
        """Count one attempt, or a target that was skipped."""
        target, outcome, elapsed_s = attempt.target, attempt.outcome, (attempt.ended_ms - attempt.started_ms) / 1000
        if attempt.queued_ms is not None:
            result = "expired" if attempt.skipped else "served"
            self._cells.values_of(self._queue_wait, target, result).observe(attempt.queued_ms / 1000, origin)
        if attempt.skipped:
            self._skip(route, target, outcome)
            return
        cells = self._known.get((route, target, outcome, operation))
        if cells is None:
            cells = self._find(route, target, outcome, operation)
        cells.attempts.value += 1
        status = self._statuses.get((target, attempt.status))
        (status or self._status(target, attempt.status)).value += 1
        cells.seconds.observe(elapsed_s, origin)
        if attempt.stream and attempt.first_byte_ms is not None and cells.first_chunk is not None:
            cells.first_chunk.observe((attempt.first_byte_ms - attempt.started_ms) / 1000, origin)
        if attempt.budget_ms is not None:
            self._observe_slo(cells, route, attempt, origin)
        if attempt.stream and cells.first_token_ms is not None:
            _observe_first_token(cells, cells.first_token_ms, attempt, origin)
        if attempt.hedge:
            cells.hedges.value += 1
        for parameter in attempt.ignored:
            self._cells.count_of(self._ignored, target, parameter).value += 1
        if attempt.usage is not None:
            _observe_usage(cells, attempt, origin)

    def cells_of(self, route: str, attempt: AttemptRecord, operation: str) -> AttemptCells:
        """The cells of a successful attempt, and of those like it."""
        target, stream, is_reported = attempt.target, attempt.stream, attempt.usage is not None
        found = self._find(route, target, attempt.outcome, operation)
        hedges = (found.hedges,) if attempt.hedge else ()
        ignored = [self._cells.count_of(self._ignored, target, parameter) for parameter in attempt.ignored]
        slo = None if attempt.budget_ms is None else self._slo_cells(found, route, target)
        return AttemptCells(
            counters=(found.attempts, self._status(target, attempt.status), *hedges, *ignored),
            seconds=found.seconds,
            first_chunk=found.first_chunk if stream else None,
            first_token=found.lane_first_token if stream and found.first_token_ms is not None else None,
            confidence=found.confidence if is_reported else None,
            lane=None if slo is None else found.lane,
            on_time=None if slo is None else (slo[SloOutcome.MET], slo[SloOutcome.LATE]),
            usage=UsageCells(found.input_tokens, found.output_tokens, found.cost) if is_reported else None,
        )

    def _observe_slo(self, cells: _AttemptCells, route: str, attempt: AttemptRecord, origin: Origin | None) -> None:
        """Uses the same numbers as the lane's guard, so that dashboards and alerts agree with it."""
        result = attempt.slo_outcome
        if result is None:
            return
        self._slo_cells(cells, route, attempt.target)[result].value += 1
        if result in _IN_TIME:
            elapsed_s = (attempt.ended_ms - attempt.started_ms) / 1000
            cells.lane.observe(elapsed_s, origin)

    def _slo_cells(self, cells: _AttemptCells, route: str, target: str) -> dict[SloOutcome, CounterCell]:
        if not cells.slo:
            cells.slo = {each: self._cells.count_of(self._slo_events, route, target, each) for each in SloOutcome}
            for cell in cells.slo.values():  # all three series at once: a ratio needs them
                cell.show()
        return cells.slo

    def _skip(self, route: str, target: str, reason: str) -> None:
        cell = self._skipped.get((route, target, reason))
        if cell is None:
            cell = self._skipped[(route, target, reason)] = self._cells.count_of(self._skips, route, target, reason)
        cell.value += 1

    def _status(self, target: str, status: int | None) -> CounterCell:
        """Targets may send any number: only known ones are labels of their own."""
        text = names.NONE if status is None else str(status) if status in names.STATUSES else names.OTHER
        found = self._cells.count_of(self._responses, target, text)
        if text != names.OTHER:
            self._statuses[(target, status)] = found
        return found

    def _find(self, route: str, target: str, outcome: Reason | AttemptOutcome, operation: str) -> _AttemptCells:
        count_of, values_of, lane = self._cells.count_of, self._cells.values_of, (route, target)
        labels = (operation, self.provider_of(target), target)
        embeds = operation == EMBEDDINGS
        timer, error = (
            (self._embeddings if embeds else self._inference),
            ("" if outcome is AttemptOutcome.OK else outcome),
        )
        found = self._known[(route, target, outcome, operation)] = _AttemptCells(
            attempts=count_of(self._attempts, route, target, outcome),
            seconds=values_of(timer, *labels, error),
            lane=values_of(self._lane, *lane),
            lane_first_token=values_of(self._lane_first_token, *lane),
            first_token_ms=self._first_token_ms.get(lane),
            first_chunk=None if embeds else values_of(self._first_chunk, *labels),
            hedges=count_of(self._hedges, route, _hedged(outcome)),
            confidence=values_of(self._confidence, *lane),
            cost=count_of(self._cost, target),
            input_tokens=count_of(self._input, *labels, _UNKNOWN_MODALITY),
            output_tokens=count_of(self._output, *labels, _UNKNOWN_MODALITY),
            embeddings_tokens=values_of(self._embeddings_tokens, *labels) if embeds else None,
        )
        return found

    def _make_counters(self) -> None:
        counter = self._cells.counter
        self._attempts = counter(names.ATTEMPTS, "Completed calls to targets.", "route", "target", "outcome")
        self._responses = counter(
            names.TARGET_RESPONSES,
            "Calls by the HTTP status of the target; `none` without a response.",
            "target",
            "status",
        )
        self._skips = counter(names.SKIPS, "Targets skipped without a call.", "route", "target", "reason")
        self._ignored = counter(
            names.IGNORED, "Calls from which a target's `ignore` left out a parameter.", "target", "parameter"
        )
        self._slo_events = counter(
            names.SLO_EVENTS, "Attempts that met or missed the SLO of their lane.", "route", "target", "result"
        )
        self._hedges = counter(names.HEDGES, "Hedged attempts.", "route", "result")
        self._cost = counter(names.COST, "Cost of attempts in dollars, where the price is known.", "target")


def _observe_first_token(
    cells: _AttemptCells, objective_ms: float, attempt: AttemptRecord, origin: Origin | None
) -> None:
    if attempt.first_token_ms is not None:
        cells.lane_first_token.observe((attempt.first_token_ms - attempt.started_ms) / 1000, origin)
    elif attempt.outcome in ABANDONED and attempt.elapsed_ms > objective_ms:
        cells.lane_first_token.observe(attempt.elapsed_ms / 1000, origin)


def _observe_usage(cells: _AttemptCells, attempt: AttemptRecord, origin: Origin | None) -> None:
    usage = attempt.usage
    assert usage is not None
    if usage.cost is not None:
        cells.cost.value += usage.cost
    if usage.confidence is not None:
        cells.confidence.observe(usage.confidence, origin)
    if usage.input_tokens is not None and cells.embeddings_tokens is not None:
        cells.embeddings_tokens.observe(usage.input_tokens, origin)
    elif usage.input_tokens is not None:
        cells.input_tokens.value += usage.input_tokens
    if usage.output_tokens is not None and cells.embeddings_tokens is None:
        cells.output_tokens.value += usage.output_tokens


def _hedged(outcome: Reason | AttemptOutcome) -> str:
    if outcome is AttemptOutcome.OK:
        return "won"
    return "lost" if outcome in ABANDONED else "failed"
