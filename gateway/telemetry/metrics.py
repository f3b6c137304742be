"""Counters and histograms of decisions. Gauges, which are read at scrape time, are in `gauges`.

An Observer. Cells are found by their labels in one dictionary lookup, and flushed with every refresh of the gauges.
"""

from collections.abc import Iterable, Iterator
from math import inf
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from gateway import __version__
from gateway.decision import ABANDONED, AttemptRecord, Decision, Mirrored
from gateway.enums import AttemptOutcome, ErrorSource, Outcome, Reason, SloOutcome
from gateway.policy_types import Slo
from gateway.routing.policy import Policy
from gateway.telemetry import metric_names as names
from gateway.telemetry.cells import Cell, CounterCell, HistogramCell
from gateway.telemetry.gauges import Gauges, Reading
from gateway.telemetry.multiprocess import MultiprocessMetrics
from gateway.telemetry.semantic_conventions import operation_of

_NONE: Final = "none"
_OUR_FAULTS: Final = frozenset({ErrorSource.TARGET, ErrorSource.GATEWAY})  # a client's own errors would look fast
_OPEN_METRICS: Final = "application/openmetrics-text"


class Metrics:
    """One registry per gateway, so that two gateways in one process do not mix."""

    def __init__(self, peers: MultiprocessMetrics | None = None) -> None:
        """With `peers`, the page shows the counts of all processes of this gateway, without exemplars."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the page and are unused
        self.registry = CollectorRegistry()
        self._peers = peers
        self.gauges = Gauges(peers.read_peers if peers else tuple)
        self.gauges.add_source(self._process_gauges)
        self.registry.register(self.gauges)
        self._cells: dict[tuple[object, ...], Cell] = {}
        self.gauges.add_source(self.flush)
        self._first_token_ms: dict[tuple[str, str], float] = {}  # objectives by lane
        self._exemplar: dict[str, str] | None = None  # the trace of the decision being counted, if recorded
        self._policy = ""
        self._loaded_s = 0.0
        self._is_current = True
        self._make_request_metrics()
        self._attempts = self._counter(names.ATTEMPTS, "Completed calls to targets.", "route", "target", "outcome")
        self._fallbacks = self._counter(
            names.FALLBACKS, "Fallbacks from one target to another.", "route", "from", "to", "reason"
        )
        self._skips = self._counter(names.SKIPS, "Targets skipped without a call.", "route", "target", "reason")
        self._ignored = self._counter(
            names.IGNORED, "Calls from which a target's `ignore` left out a parameter.", "target", "parameter"
        )
        self._slo_events = self._counter(
            names.SLO_EVENTS, "Attempts that met or missed the SLO of their lane.", "route", "target", "result"
        )
        self._hedges = self._counter(names.HEDGES, "Hedged attempts.", "route", "result")
        self._shadows = self._counter(
            names.SHADOWS, "Shadow responses compared with the served ones.", "route", "target", "result"
        )
        self._validations = self._counter(
            names.VALIDATIONS, "Validated responses.", "route", "target", "result", "keyword"
        )
        self._reloads = self._counter(names.POLICY_RELOADS, "Policy reloads.", "result")
        for result in (
            "changed",
            "unchanged",
            "refused",
        ):  # rare events: without an initial 0 the first one would be invisible to `rate`
            self._reloads.labels(result)
        self._cost = self._counter(names.COST, "Cost of attempts in dollars, where the price is known.", "target")
        self._observer_faults = self._counter(
            names.OBSERVER_FAULTS, "Decisions that an observer failed to record.", "observer"
        )
        self._refusals = self._counter(names.LISTENER_REFUSALS, "Requests refused by the listener.", "reason")
        self._dropped = self._counter(names.DECISIONS_DROPPED, "Dropped lines of the decision log.")
        self._overhead = self._histogram(
            names.OVERHEAD_SECONDS, "Time spent in the gateway itself, per request.", names.OVERHEAD_BUCKETS
        )
        self._make_overload_metrics()
        self._confidence = self._histogram(
            names.CONFIDENCE, "Confidence reported with responses.", names.CONFIDENCE_BUCKETS, "route", "target"
        )
        operation = "gen_ai_operation_name", "gen_ai_request_model"
        self._tokens = self._histogram(
            names.TOKEN_USAGE, "Tokens per attempt.", names.TOKEN_BUCKETS, *operation, "gen_ai_token_type"
        )
        self._make_timers(names.SECONDS_BUCKETS)

    def set_policy(self, policy: Policy, wall_s: float) -> None:
        """Set the running policy: its objectives become bucket bounds of every latency histogram.

        Buckets cannot be added to a histogram, so latency histograms are reset if the policy has new objectives; to
        Prometheus that looks like a restart, which `rate` handles.
        """
        if policy.version != self._policy:
            self._policy, self._loaded_s = policy.version, wall_s
        slos = [(candidate.lane, candidate.slo) for candidate in policy.lanes if candidate.slo is not None]
        self._first_token_ms = {lane: slo.first_token_p95_ms for lane, slo in slos if slo.first_token_p95_ms < inf}
        bounds = {bound for _, slo in slos for bound in _bounds_of(slo)}
        if not bounds <= set(self._bounds):
            for family in self._timers:
                self.registry.unregister(family)
            self._cells = {key: cell for key, cell in self._cells.items() if key[0] not in self._timers}
            self._make_timers(tuple(sorted(bounds | set(names.SECONDS_BUCKETS))))

    def decided(self, decision: Decision) -> None:
        """See `ports.Observer`."""
        route, target = decision.route or _NONE, decision.target or _NONE
        trace = decision.trace
        self._exemplar = {"trace_id": trace.hex_id} if trace is not None and trace.is_recorded else None
        source = decision.error_source or ""
        status_class = "" if decision.status is None else f"{decision.status // 100}xx"
        task = decision.classification.task
        self._count(self._requests, route, task, target, decision.outcome, status_class, source)
        if decision.outcome is Outcome.OK or source in _OUR_FAULTS:
            self._time(self._seconds, decision.total_ms, route, target)
        if decision.first_byte_ms is not None:
            self._time(self._first_byte, decision.first_byte_ms, route, target)
        self._observe(self._overhead, decision.overhead_ms / 1000)
        operation = operation_of(decision.api_path)
        for attempt in decision.attempts:
            self._attempted(route, attempt, operation)
        for left, taken, reason in decision.changes:
            if reason is not Reason.HEDGE:  # counted as a hedge
                self._count(self._fallbacks, route, left, taken, reason)
        if decision.schema_check is not None:
            self._count(self._validations, route, target, decision.schema_check, "")

    def mirrored(self, mirrored: Mirrored) -> None:
        """See `ports.Observer`."""
        self._shadows.labels(mirrored.route, mirrored.target, mirrored.result).inc()

    def reloaded(self, result: str) -> None:
        """Count a reload of the policy: `changed`, `unchanged` or `refused`."""
        self._is_current = result != "refused"
        self._reloads.labels(result).inc()

    def listener_refused(self, reason: str) -> None:
        """Count a request or connection that the listener refused."""
        self._refusals.labels(reason).inc()

    def dropped(self, lines: int) -> None:
        """Count dropped lines of the decision log; on any thread."""
        self._dropped.inc(lines)

    def loop_lagged(self, lag_s: float) -> None:
        """Observe the longest lag of the event loop since the last call."""
        self._loop_lag.observe(lag_s)

    def responded(self, status: int) -> None:
        """Count a response of the public port, of whatever path."""
        self._count(self._http_responses, str(status))

    def shed(self) -> None:
        """Count a request that was refused before it was read."""
        self._shed.inc()

    def observer_failed(self, observer: str) -> None:
        """Count a failure of an observer."""
        self._observer_faults.labels(observer).inc()

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics page and its content type; on any thread, after `gauges.refresh`."""
        registry = self.registry
        if self._peers is not None:
            registry = self._peers.counts()
            registry.register(self.gauges)
        if _OPEN_METRICS in accept:
            page = openmetrics.generate_latest(registry, version="1.0.0")  # type: ignore[no-untyped-call]
            return page, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4

    def _process_gauges(self) -> Iterator[Reading]:
        yield Reading(names.BUILD_INFO, (__version__,), 1)
        yield Reading(names.POLICY_LOADED, (), self._loaded_s)
        yield Reading(names.POLICY_CURRENT, (), self._is_current)

    def _attempted(self, route: str, attempt: AttemptRecord, operation: str) -> None:
        target, outcome, usage = attempt.target, attempt.outcome, attempt.usage
        if attempt.queued_ms is not None:
            self._time(self._queue_wait, attempt.queued_ms, target, "expired" if attempt.skipped else "served")
        if attempt.skipped:
            self._count(self._skips, route, target, outcome)
            return
        self._count(self._attempts, route, target, outcome)
        self._time_lane(route, attempt)
        for parameter in attempt.ignored:
            self._count(self._ignored, target, parameter)
        if attempt.hedge:
            self._count(self._hedges, route, _hedged(attempt))
        self._time(
            self._operation, attempt.elapsed_ms, operation, target, "" if outcome is AttemptOutcome.OK else outcome
        )
        if attempt.first_byte_ms is not None:
            self._time(self._first_chunk, attempt.first_byte_ms - attempt.started_ms, operation, target)
        if outcome is Reason.INVALID_OUTPUT:
            self._count(self._validations, route, target, "invalid", _keyword(attempt.detail))
        if usage is None:
            return
        if usage.cost is not None:
            self._count(self._cost, target, by=usage.cost)
        if usage.confidence is not None:
            self._observe(self._confidence, usage.confidence, route, target)
        if usage.input_tokens is not None:
            self._observe(self._tokens, usage.input_tokens, operation, target, "input")
        if usage.output_tokens is not None:
            self._observe(self._tokens, usage.output_tokens, operation, target, "output")

    def _time_lane(self, route: str, attempt: AttemptRecord) -> None:
        """Uses the same numbers as the lane's guard, so that dashboards and alerts agree with it."""
        target, slo_outcome = attempt.target, attempt.slo_outcome
        if slo_outcome is not None:
            for result in SloOutcome:  # create all three series at once: a ratio needs them
                self._count(self._slo_events, route, target, result, by=float(result is slo_outcome))
        if slo_outcome in (SloOutcome.MET, SloOutcome.LATE):
            self._time(self._lane, attempt.elapsed_ms, route, target)
        budget_ms = self._first_token_ms.get((route, target)) if attempt.stream else None
        if budget_ms is None:
            return
        if attempt.first_token_ms is not None:
            self._time(self._lane_first_token, attempt.first_token_ms - attempt.started_ms, route, target)
        elif attempt.outcome in ABANDONED and attempt.elapsed_ms > budget_ms:
            self._time(self._lane_first_token, attempt.elapsed_ms, route, target)

    def _count(self, family: Counter, *labels: str, by: float = 1.0) -> None:
        cell = self._cells.get((family, *labels))
        if cell is None:
            cell = self._cells[(family, *labels)] = CounterCell(family.labels(*labels) if labels else family)
        assert isinstance(cell, CounterCell)
        cell.value += by

    def _time(self, family: Histogram, milliseconds: float, *labels: str) -> None:
        self._observe(family, milliseconds / 1000, *labels)

    def _observe(self, family: Histogram, value: float, *labels: str) -> None:
        cell = self._cells.get((family, *labels))
        if cell is None:
            cell = self._cells[(family, *labels)] = HistogramCell(family.labels(*labels) if labels else family)
        assert isinstance(cell, HistogramCell)
        cell.observe(value, self._exemplar)

    def flush(self) -> tuple[Reading, ...]:
        """Export what was counted; on the event loop. A source of gauges, though it has none."""
        for cell in self._cells.values():
            cell.flush()
        return ()

    def _make_request_metrics(self) -> None:
        """Create the counters of requests and responses."""
        self._requests = self._counter(
            names.REQUESTS,
            "Completed requests.",
            *("route", "task", "target", "outcome", "status_class", "error_source"),
        )
        self._http_responses = self._counter(names.HTTP_RESPONSES, "Responses of the public port.", "status")

    def _make_overload_metrics(self) -> None:
        """Create the metrics of the gateway's own load and of full targets."""
        self._loop_lag = self._histogram(
            names.LOOP_LAG_SECONDS,
            "Longest lag of the event loop in each tenth of a second.",
            names.LAG_BUCKETS,
        )
        self._queue_wait = self._histogram(
            names.QUEUE_WAIT_SECONDS,
            "Time that a request waited for a slot of a full target.",
            names.SECONDS_BUCKETS,
            *("target", "result"),
        )
        self._shed = self._counter(names.SHED, "Requests refused because the gateway itself was overloaded.")

    def _make_timers(self, bounds: tuple[float, ...]) -> None:
        """Create the latency histograms."""
        lane, operation = ("route", "target"), ("gen_ai_operation_name", "gen_ai_request_model")

        def timer(name: str, text: str, *labels: str) -> Histogram:
            return self._histogram(name, text, bounds, *labels)

        self._bounds = bounds
        self._seconds = timer(
            names.REQUEST_SECONDS,
            "Duration of a request, from its first byte to the last one sent, without errors of clients.",
            *lane,
        )
        self._first_byte = timer(names.FIRST_BYTE_SECONDS, "Time until the first byte of the response was sent.", *lane)
        self._lane = timer(names.LANE_SECONDS, "Latency of a lane as measured by its SLO guard.", *lane)
        self._lane_first_token = timer(
            names.LANE_FIRST_TOKEN_SECONDS, "Time to first token of a lane as measured by its SLO guard.", *lane
        )
        self._operation = timer(names.OPERATION_SECONDS, "Duration of an attempt.", *operation, "error_type")
        self._first_chunk = timer(names.FIRST_CHUNK_SECONDS, "Time to the first chunk of an attempt.", *operation)
        timers = self._seconds, self._first_byte, self._lane, self._lane_first_token, self._operation, self._first_chunk
        self._timers: tuple[Histogram, ...] = timers

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, bounds: Iterable[float], *labels: str) -> Histogram:
        return Histogram(name, text, labels, registry=self.registry, buckets=tuple(bounds))


def _bounds_of(slo: Slo) -> list[float]:
    return [ms / 1000 for ms in (slo.p95_ms, slo.first_token_p95_ms) if ms < inf]


def _hedged(attempt: AttemptRecord) -> str:
    if attempt.outcome is AttemptOutcome.OK:
        return "won"
    return "lost" if attempt.outcome in ABANDONED else "failed"


def _keyword(detail: str) -> str:
    """A member of a closed set, because the detail contains text from schemas and targets."""
    keyword = detail.partition(" at ")[0]
    return keyword if keyword in names.KEYWORDS else names.OTHER
