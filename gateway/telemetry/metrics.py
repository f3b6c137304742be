"""Metrics of decisions, counted as they come. States, which are read when somebody looks, are `gauges`' business.

An Observer. Children are cached by their labels: finding one costs a dictionary look-up.
"""

from collections.abc import Iterable, Iterator
from math import inf
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from gateway import __version__
from gateway.decision import ABANDONED, AttemptRecord, Decision, Mirrored
from gateway.enums import AttemptOutcome, Outcome, Reason, SloOutcome
from gateway.policy_types import Slo
from gateway.routing.policy import Policy
from gateway.telemetry import metric_names as names
from gateway.telemetry.gauges import Gauges, Reading
from gateway.telemetry.multiprocess import MultiprocessMetrics

_NOBODY: Final = "none"
_CHAT: Final = "chat"
_OPEN_METRICS: Final = "application/openmetrics-text"


class Metrics:
    """One registry per gateway, so that two in one process do not mix."""

    def __init__(self, peers: MultiprocessMetrics | None = None) -> None:
        """With `peers`, the page shows what all processes of this gateway counted; then it has no exemplars."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the page and nobody reads them
        self.registry = CollectorRegistry()
        self._peers = peers
        self.gauges = Gauges(peers.heard if peers else tuple)
        self.gauges.watch(self._standing)
        self.registry.register(self.gauges)
        self._children: dict[tuple[object, ...], Counter | Histogram] = {}
        self._first_token_ms: dict[tuple[str, str], float] = {}  # what streams of a lane promise
        self._exemplar: dict[str, str] | None = None  # of the decision being counted: its trace, if that is recorded
        self._policy = ""
        self._loaded_s = 0.0
        self._is_current = True
        self._requests = self._counter(names.REQUESTS, "Requests ended.", "route", "task", "target", "outcome")
        self._attempts = self._counter(names.ATTEMPTS, "Calls ended.", "route", "target", "outcome")
        self._fallbacks = self._counter(names.FALLBACKS, "Changes of target.", "route", "from", "to", "reason")
        self._skips = self._counter(names.SKIPS, "Targets passed over uncalled.", "route", "target", "reason")
        self._promises = self._counter(names.PROMISES, "Budgets kept or not, per attempt.", "route", "target", "result")
        self._hedges = self._counter(names.HEDGES, "Second attempts beside slow ones.", "route", "result")
        self._shadows = self._counter(names.SHADOWS, "Answers compared unheard.", "route", "target", "result")
        self._validations = self._counter(names.VALIDATIONS, "Answers checked.", "route", "target", "result", "keyword")
        self._reloads = self._counter(names.POLICY_RELOADS, "Reloads of the policy.", "result")
        for result in (
            "changed",
            "unchanged",
            "refused",
        ):  # rare: unless they begin at 0, the first is not seen to happen
            self._count(self._reloads, result, by=0)
        self._cost = self._counter(names.COST, "What attempts cost, where their price is known.", "target")
        self._missed = self._counter(names.OBSERVER_FAULTS, "Decisions that somebody failed to note.", "observer")
        self._dropped = self._counter(names.DECISIONS_DROPPED, "Lines that the decision log lost.")
        self._overhead = self._histogram(names.OVERHEAD_SECONDS, "Our own time.", names.OVERHEAD_BUCKETS)
        self._confidence = self._histogram(
            names.CONFIDENCE, "How sure answers are by their own account.", names.CONFIDENCE_BUCKETS, "route", "target"
        )
        operation = "gen_ai_operation_name", "gen_ai_request_model"
        self._tokens = self._histogram(
            names.TOKEN_USAGE, "Tokens of an attempt.", names.TOKEN_BUCKETS, *operation, "gen_ai_token_type"
        )
        self._time_with(names.SECONDS_BUCKETS)

    def follow(self, policy: Policy, wall_s: float) -> None:
        """This is the running policy: what it promises becomes a bound of every histogram of time.

        Bounds cannot be added to a histogram, so those of time begin anew where a policy promises what none before did;
        to whoever reads them that looks like a restart, which `rate` bridges.
        """
        if policy.version != self._policy:
            self._policy, self._loaded_s = policy.version, wall_s
        slos = [(candidate.lane, candidate.slo) for candidate in policy.lanes if candidate.slo is not None]
        self._first_token_ms = {lane: slo.first_token_p95_ms for lane, slo in slos if slo.first_token_p95_ms < inf}
        promised = {bound for _, slo in slos for bound in _bounds_of(slo)}
        if not promised <= set(self._bounds):
            for family in self._timers:
                self.registry.unregister(family)
            self._children = {key: child for key, child in self._children.items() if key[0] not in self._timers}
            self._time_with(tuple(sorted(promised | set(names.SECONDS_BUCKETS))))

    def decided(self, decision: Decision) -> None:
        """See `ports.Observer`."""
        route, target = decision.route or _NOBODY, decision.target or _NOBODY
        trace = decision.trace
        self._exemplar = {"trace_id": trace.hex_id} if trace is not None and trace.is_recorded else None
        self._count(self._requests, route, decision.classification.task, target, decision.outcome)
        if decision.outcome is Outcome.OK:
            self._time(self._seconds, decision.total_ms, route, target)
        if decision.first_byte_ms is not None:
            self._time(self._first_byte, decision.first_byte_ms, route, target)
        self._observe(self._overhead, decision.overhead_ms / 1000)
        for attempt in decision.attempts:
            self._attempted(route, attempt)
        for left, taken, reason in decision.changes:
            self._count(self._fallbacks, route, left, taken, reason)
        if decision.schema_check is not None:
            self._count(self._validations, route, target, decision.schema_check, "")

    def mirrored(self, mirrored: Mirrored) -> None:
        """See `ports.Observer`."""
        self._count(self._shadows, mirrored.route, mirrored.target, mirrored.result)

    def reloaded(self, result: str) -> None:
        """The policy file was read again: `changed`, `unchanged` or `refused`."""
        self._is_current = result != "refused"
        self._count(self._reloads, result)

    def dropped(self, lines: int) -> None:
        """So many lines of the decision log are lost."""
        self._count(self._dropped, by=lines)

    def observer_failed(self, observer: str) -> None:
        """One of those who take note of decisions did not manage to."""
        self._count(self._missed, observer)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The page that Prometheus reads, and its content type; on any thread, behind a `look` of the gauges."""
        registry = self.registry
        if self._peers is not None:
            registry = self._peers.counts()
            registry.register(self.gauges)
        if _OPEN_METRICS in accept:
            page = openmetrics.generate_latest(registry, version="1.0.0")  # type: ignore[no-untyped-call]
            return page, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4

    def _standing(self) -> Iterator[Reading]:
        yield Reading(names.BUILD_INFO, (__version__,), 1)
        yield Reading(names.POLICY_LOADED, (), self._loaded_s)
        yield Reading(names.POLICY_CURRENT, (), self._is_current)

    def _attempted(self, route: str, attempt: AttemptRecord) -> None:
        target, outcome, usage = attempt.target, attempt.outcome, attempt.usage
        if attempt.skipped:
            self._count(self._skips, route, target, outcome)
            return
        self._count(self._attempts, route, target, outcome)
        self._time_lane(route, attempt)
        if attempt.hedge:
            self._count(self._hedges, route, _hedged(attempt))
        self._time(self._operation, attempt.elapsed_ms, _CHAT, target, "" if outcome is AttemptOutcome.OK else outcome)
        if attempt.first_byte_ms is not None:
            self._time(self._first_chunk, attempt.first_byte_ms - attempt.started_ms, _CHAT, target)
        if outcome is Reason.INVALID_OUTPUT:
            self._count(self._validations, route, target, "invalid", _keyword(attempt.detail))
        if usage is None:
            return
        if usage.cost is not None:
            self._count(self._cost, target, by=usage.cost)
        if usage.confidence is not None:
            self._observe(self._confidence, usage.confidence, route, target)
        if usage.input_tokens is not None:
            self._observe(self._tokens, usage.input_tokens, _CHAT, target, "input")
        if usage.output_tokens is not None:
            self._observe(self._tokens, usage.output_tokens, _CHAT, target, "output")

    def _time_lane(self, route: str, attempt: AttemptRecord) -> None:
        """What the lane's guard counts, so that dashboards and alerts judge by the same numbers."""
        target, promise = attempt.target, attempt.slo_outcome
        if promise is not None:
            for (
                result
            ) in SloOutcome:  # all three from the first on: a share of what was never counted is unknown, not 0
                self._count(self._promises, route, target, result, by=float(result is promise))
        if promise in (SloOutcome.MET, SloOutcome.LATE):
            self._time(self._lane, attempt.elapsed_ms, route, target)
        budget_ms = self._first_token_ms.get((route, target)) if attempt.stream else None
        if budget_ms is None:
            return
        if attempt.first_token_ms is not None:
            self._time(self._lane_first_token, attempt.first_token_ms - attempt.started_ms, route, target)
        elif attempt.outcome in ABANDONED and attempt.elapsed_ms > budget_ms:
            self._time(self._lane_first_token, attempt.elapsed_ms, route, target)

    def _count(self, family: Counter, *labels: str, by: float = 1.0) -> None:
        child = self._children.get((family, *labels))
        if child is None:
            child = self._children[(family, *labels)] = family.labels(*labels) if labels else family
        assert isinstance(child, Counter)
        child.inc(by)

    def _time(self, family: Histogram, milliseconds: float, *labels: str) -> None:
        self._observe(family, milliseconds / 1000, *labels)

    def _observe(self, family: Histogram, value: float, *labels: str) -> None:
        child = self._children.get((family, *labels))
        if child is None:
            child = self._children[(family, *labels)] = family.labels(*labels) if labels else family
        assert isinstance(child, Histogram)
        child.observe(value, self._exemplar)

    def _time_with(self, bounds: tuple[float, ...]) -> None:
        """Make the histograms of time."""
        lane, operation = ("route", "target"), ("gen_ai_operation_name", "gen_ai_request_model")

        def timer(name: str, says: str, *labels: str) -> Histogram:
            return self._histogram(name, says, bounds, *labels)

        self._bounds = bounds
        self._seconds = timer(names.REQUEST_SECONDS, "Request, first byte in to last byte out.", *lane)
        self._first_byte = timer(names.FIRST_BYTE_SECONDS, "Until the first byte left us.", *lane)
        self._lane = timer(names.LANE_SECONDS, "What the p95 of a lane is judged by.", *lane)
        self._lane_first_token = timer(names.LANE_FIRST_TOKEN_SECONDS, "The same, of the first token.", *lane)
        self._operation = timer(names.OPERATION_SECONDS, "One attempt.", *operation, "error_type")
        self._first_chunk = timer(names.FIRST_CHUNK_SECONDS, "First chunk of an attempt.", *operation)
        made = self._seconds, self._first_byte, self._lane, self._lane_first_token, self._operation, self._first_chunk
        self._timers: tuple[Histogram, ...] = made

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(name, says, labels, registry=self.registry)

    def _histogram(self, name: str, says: str, bounds: Iterable[float], *labels: str) -> Histogram:
        return Histogram(name, says, labels, registry=self.registry, buckets=tuple(bounds))


def _bounds_of(slo: Slo) -> list[float]:
    return [ms / 1000 for ms in (slo.p95_ms, slo.first_token_p95_ms) if ms < inf]


def _hedged(attempt: AttemptRecord) -> str:
    if attempt.outcome is AttemptOutcome.OK:
        return "won"
    return "lost" if attempt.outcome in ABANDONED else "failed"


def _keyword(detail: str) -> str:
    """Of a closed set, whatever a schema or a target says."""
    keyword = detail.partition(" at ")[0]
    return keyword if keyword in names.KEYWORDS else names.OTHER
