"""Counters and histograms of decisions. Gauges, which are read at scrape time, are in `gauges`.

A BatchObserver. Cells are flushed with every refresh of the gauges.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Final

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from gateway import __version__
from gateway.decision import AttemptRecord, Decision, Mirrored
from gateway.enums import ErrorSource, Outcome, Reason
from gateway.policy_types import Slo
from gateway.routing.policy import Policy
from gateway.telemetry import metric_names as names
from gateway.telemetry.attempt_metrics import AttemptMetrics
from gateway.telemetry.cells import Cells, CounterCell, HistogramCell, Origin
from gateway.telemetry.common_decisions import CommonCells, CommonDecisions
from gateway.telemetry.gauges import Gauges, Reading
from gateway.telemetry.key_metrics import KeyMetrics
from gateway.telemetry.multiprocess import MultiprocessMetrics
from gateway.telemetry.semantic_conventions import EMBEDDINGS, operation_of

_CLIENT_GONE: Final = Outcome.CLIENT_GONE  # finding a member in its class takes 0.2 µs
_INVALID: Final = Reason.INVALID_OUTPUT

_OUR_FAULTS: Final = frozenset({ErrorSource.TARGET, ErrorSource.GATEWAY})  # a client's own errors would look fast
_MOST_COUNTED: Final = 512  # decisions whose latencies are kept until they are flushed
_OPEN_METRICS: Final = "application/openmetrics-text"
_RequestKey = tuple[str, str, str | None, Outcome, int | None, ErrorSource | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _RequestCells:
    """The cells of all requests with the same labels."""

    requests: CounterCell
    seconds: HistogramCell | None  # None: not timed
    first_byte: HistogramCell


class Metrics:
    """One registry per gateway, so that two gateways in one process do not mix."""

    def __init__(self, peers: MultiprocessMetrics | None = None) -> None:
        """With `peers`, the page shows the counts of all processes of this gateway, without exemplars."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the page and are unused
        self.registry = CollectorRegistry()
        self.before_reading: Callable[[], None] = _nothing  # brings the decisions that wait elsewhere
        self._peers = peers
        self.gauges = Gauges(peers.read_peers if peers else tuple)
        self.gauges.add_source(self._process_gauges)
        self.registry.register(self.gauges)
        self._cells = Cells(self.registry)
        self.gauges.add_source(self.flush)
        self._policy = ""
        self._loaded_s = 0.0
        self._is_current = True
        self._known: dict[_RequestKey, _RequestCells] = {}
        self._counted = 0  # since cells were flushed
        self._make_request_metrics()
        self._make_process_metrics()
        self._attempts = AttemptMetrics(self._cells)
        self._keys = KeyMetrics(self._cells)
        self._overhead_cell = self._cells.values_of(self._overhead)
        self._common = CommonDecisions(self._find_common, self._overhead_cell.add)
        self.provider_of, self.key_rate_limited = self._attempts.provider_of, self._keys.rate_limited
        self._make_timers(names.SECONDS_BUCKETS)

    def set_policy(self, policy: Policy, wall_s: float) -> None:
        """Set the running policy: its objectives become bucket bounds of every latency histogram.

        Buckets cannot be added to a histogram, so latency histograms are reset if the policy has new objectives; to
        Prometheus that looks like a restart, which `rate` handles.
        """
        if policy.version != self._policy:
            self._policy, self._loaded_s = policy.version, wall_s
        bounds = {
            bound for candidate in policy.lanes if candidate.slo is not None for bound in _bounds_of(candidate.slo)
        }
        self.before_reading()  # with the objectives that they had
        self._common.forget()
        self._attempts.set_policy(policy)
        if not bounds <= set(self._bounds):
            self._cells.drop(self._timers)
            self._make_timers(tuple(sorted(bounds | set(names.SECONDS_BUCKETS))))

    def decided_all(self, decisions: Iterable[Decision]) -> None:
        """See `BatchObserver`."""
        take = self._common.take
        for decision in decisions:
            if not take(decision):
                self._count(decision)
            self._counted += 1
        if self._counted >= _MOST_COUNTED:
            self._flush_cells()

    def _count(self, decision: Decision) -> None:
        trace, outcome, first_byte_ms = decision.trace, decision.outcome, decision.first_byte_ms
        origin = None
        if trace is not None and trace.is_recorded:
            origin = Origin(trace.hex_id, decision.time_s + decision.total_ms / 1000)
        task = decision.classification.task
        key = (decision.route, task, decision.target, outcome, decision.status, decision.error_source)
        cells = self._known.get(key) or self._find(key)
        cells.requests.value += 1
        if cells.seconds is not None and (outcome is not _CLIENT_GONE or first_byte_ms is None):
            cells.seconds.observe(decision.total_ms / 1000, origin)
        if first_byte_ms is not None:
            cells.first_byte.observe(first_byte_ms / 1000, origin)
        self._overhead_cell.observe(decision.overhead_ms / 1000, origin)
        self._keys.decided(decision)
        route, operation = decision.route or names.NONE, operation_of(decision.api_path)
        for attempt in decision.attempts:
            self._attempts.observe(route, attempt, operation, origin)
            if attempt.outcome is _INVALID and not attempt.skipped:
                self._invalid(route, attempt)
        for left, taken, reason in decision.changes if len(decision.attempts) > 1 else ():
            if reason is not Reason.HEDGE:  # counted as a hedge
                self._cells.count_of(self._fallbacks, route, left, taken, reason).value += 1
        if decision.schema_check is not None:
            target = decision.target or names.NONE
            self._cells.count_of(self._validations, route, target, decision.schema_check, "").value += 1

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
        cell = self._statuses.get(status)
        if cell is None:
            cell = self._statuses[status] = self._cells.count_of(self._http_responses, str(status))
        cell.value += 1

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

    def flush(self) -> tuple[Reading, ...]:
        """Export what was counted; on the event loop. A source of gauges, though it has none."""
        self.before_reading()
        self._flush_cells()
        return ()

    def _flush_cells(self) -> None:
        self._counted = 0
        self._common.flush()
        self._cells.flush()

    def _process_gauges(self) -> Iterator[Reading]:
        yield Reading(names.BUILD_INFO, (__version__,), 1)
        yield Reading(names.POLICY_LOADED, (), self._loaded_s)
        yield Reading(names.POLICY_CURRENT, (), self._is_current)

    def _find(self, key: _RequestKey) -> _RequestCells:
        """The cells of a request. Timed are answers, errors that clients did not cause, and the patience of clients
        that left before the first byte: in an outage, those are most requests."""
        route, task, target, outcome, status, source = key
        lane = (route or names.NONE, target or names.NONE)
        status_class = "" if status is None else f"{status // 100}xx"
        is_timed = outcome is not Outcome.ERROR or source in _OUR_FAULTS
        found = self._known[key] = _RequestCells(
            requests=self._cells.count_of(self._requests, lane[0], task, lane[1], outcome, status_class, source or ""),
            seconds=self._cells.values_of(self._seconds, *lane) if is_timed else None,
            first_byte=self._cells.values_of(self._first_byte, *lane),
        )
        return found

    def _find_common(self, decision: Decision, attempt: AttemptRecord) -> CommonCells | None:
        """The cells of all decisions with the labels of this one, whose only attempt was successful."""
        route, task, target = decision.route, decision.classification.task, decision.target
        operation = operation_of(decision.api_path)
        cells = self._find((route, task, target, decision.outcome, decision.status, decision.error_source))
        if operation == EMBEDDINGS or attempt.skipped or cells.seconds is None:
            return None
        validated: tuple[CounterCell, ...] = ()
        if decision.schema_check is not None:
            labels = (route or names.NONE, target or names.NONE, decision.schema_check, "")
            validated = (self._cells.count_of(self._validations, *labels),)
        of_key, usage = self._keys.cells_of(decision)
        return CommonCells(
            self._attempts.cells_of(route or names.NONE, attempt, operation),
            (cells.requests, of_key, *validated),
            seconds=cells.seconds,
            first_byte=cells.first_byte,
            of_key=usage,
        )

    def _invalid(self, route: str, attempt: AttemptRecord) -> None:
        keyword = _keyword(attempt.detail)
        self._cells.count_of(self._validations, route, attempt.target, "invalid", keyword).value += 1

    def _make_request_metrics(self) -> None:
        """Create the counters of requests and responses."""
        counter = self._cells.counter
        self._requests = counter(
            names.REQUESTS,
            "Completed requests.",
            *("route", "task", "target", "outcome", "status_class", "error_source"),
        )
        self._http_responses = counter(names.HTTP_RESPONSES, "Responses of the public port.", "status")
        self._statuses: dict[int, CounterCell] = {}
        self._fallbacks = counter(
            names.FALLBACKS, "Fallbacks from one target to another.", "route", "from", "to", "reason"
        )
        self._shadows = counter(
            names.SHADOWS, "Shadow responses compared with the served ones.", "route", "target", "result"
        )
        self._validations = counter(names.VALIDATIONS, "Validated responses.", "route", "target", "result", "keyword")

    def _make_process_metrics(self) -> None:
        """Create the metrics of the gateway itself."""
        counter = self._cells.counter
        self._reloads = counter(names.POLICY_RELOADS, "Policy reloads.", "result")
        for result in ("changed", "unchanged", "refused"):  # rare: the first one would be invisible to `rate`
            self._reloads.labels(result)
        self._observer_faults = counter(
            names.OBSERVER_FAULTS, "Decisions that an observer failed to record.", "observer"
        )
        self._refusals = counter(names.LISTENER_REFUSALS, "Requests refused by the listener.", "reason")
        self._dropped = counter(names.DECISIONS_DROPPED, "Dropped lines of the decision log.")
        self._shed = counter(names.SHED, "Requests refused because the gateway itself was overloaded.")
        self._overhead = self._cells.histogram(
            names.OVERHEAD_SECONDS, "Time spent in the gateway itself, per request.", names.OVERHEAD_BUCKETS
        )
        self._loop_lag = self._cells.histogram(
            names.LOOP_LAG_SECONDS, "Longest lag of the event loop in each tenth of a second.", names.LAG_BUCKETS
        )

    def _make_timers(self, bounds: tuple[float, ...]) -> None:
        """Create the latency histograms."""
        lane = ("route", "target")
        self._bounds = bounds
        self._seconds = self._cells.histogram(
            names.REQUEST_SECONDS,
            "Duration of a request, from its first byte to the last one sent, or until its client left before any was"
            " sent; without errors of clients.",
            bounds,
            *lane,
        )
        self._first_byte = self._cells.histogram(
            names.FIRST_BYTE_SECONDS, "Time until the first byte of the response was sent.", bounds, *lane
        )
        attempts = self._attempts.make_timers(bounds)
        self._timers: tuple[Histogram, ...] = (self._seconds, self._first_byte, *attempts)
        self._known.clear()


def _nothing() -> None:
    """Nothing waits."""


def _bounds_of(slo: Slo) -> list[float]:
    return [ms / 1000 for ms in (slo.p95_ms, slo.first_token_p95_ms) if ms < inf]


def _keyword(detail: str) -> str:
    """A member of a closed set, because the detail contains text from schemas and targets."""
    keyword = detail.partition(" at ")[0]
    return keyword if keyword in names.KEYWORDS else names.OTHER
