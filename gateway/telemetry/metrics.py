"""Metrics of decisions, counted as they come, and of lanes and targets, read when somebody looks.

An Observer. Children are cached by their labels: finding one costs a dictionary look-up.
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from gateway.decisions import Attempt, Decision, Mirrored
from gateway.telemetry import names
from gateway.words import AttemptOutcome, Outcome, Reason

_NOBODY = "none"


class Metrics:
    """One registry per gateway, so that two in one process do not mix."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the page and nobody reads them
        self.registry = CollectorRegistry()
        self._children: dict[tuple[object, ...], Counter | Histogram] = {}
        self._requests = self._counter(names.REQUESTS, "Requests ended.", "route", "task", "target", "outcome")
        self._seconds = self._seconds_of(names.REQUEST_SECONDS, "Request, first byte in to last byte out.")
        self._first_byte = self._seconds_of(names.FIRST_BYTE_SECONDS, "Until the first byte left us.")
        self._fallbacks = self._counter(names.FALLBACKS, "Changes of target.", "route", "from", "to", "reason")
        self._skips = self._counter(names.SKIPS, "Targets passed over uncalled.", "route", "target", "reason")
        self._hedges = self._counter(names.HEDGES, "Second attempts beside slow ones.", "route", "result")
        self._shadows = self._counter(names.SHADOWS, "Answers compared unheard.", "route", "target", "result")
        self._validations = self._counter(names.VALIDATIONS, "Answers checked.", "route", "target", "result", "keyword")
        self._promises = self._counter(names.PROMISES, "Budgets kept or not, per attempt.", "route", "target", "result")
        self._overhead = Histogram(
            names.OVERHEAD_SECONDS, "Our own time.", registry=self.registry, buckets=names.OVERHEAD_BUCKETS
        )
        self._reloads = self._counter(names.POLICY_RELOADS, "Reloads of the policy.", "result")
        self._current = Gauge(names.POLICY_CURRENT, "Is the running policy what its file says?", registry=self.registry)
        self._current.set(1)
        self._cost = self._counter(names.COST, "What attempts cost, where their price is known.", "target")
        self._operation = self._per_attempt(names.OPERATION_SECONDS, "One attempt.", "error_type")
        self._first_chunk = self._per_attempt(names.FIRST_CHUNK_SECONDS, "First chunk of an attempt.")
        self._tokens = Histogram(
            names.TOKEN_USAGE,
            "Tokens of an attempt.",
            ("gen_ai_operation_name", "gen_ai_request_model", "gen_ai_token_type"),
            registry=self.registry,
            buckets=names.TOKEN_BUCKETS,
        )

    def decided(self, decision: Decision) -> None:
        """See `ports.Observer`."""
        route, target = decision.route or _NOBODY, decision.target or _NOBODY
        self._count(self._requests, route, decision.classification.task, target, decision.outcome)
        if decision.outcome is Outcome.OK:
            self._time(self._seconds, decision.total_ms, route, target)
        if decision.first_byte_ms is not None:
            self._time(self._first_byte, decision.first_byte_ms, route, target)
        self._overhead.observe(decision.overhead_ms / 1000)
        for attempt in decision.attempts:
            self._attempted(route, attempt)
        for left, taken, reason in decision.changes:
            self._count(self._fallbacks, route, left, taken, reason)
        if decision.schema_check is not None:
            self._count(self._validations, route, target, decision.schema_check, "")

    def mirrored(self, mirrored: Mirrored) -> None:
        """See `ports.Observer`."""
        self._count(self._shadows, mirrored.route, mirrored.target, mirrored.likeness)

    def reloaded(self, result: str) -> None:
        """The policy file was read again: `changed`, `unchanged` or `refused`."""
        self._count(self._reloads, result)
        self._current.set(result != "refused")

    def watch_log(self, dropped: Callable[[], int]) -> None:
        """There is a decision log, that may have to drop lines."""
        self.registry.register(_Dropped(dropped))

    def watch_store(self, is_up: Callable[[], bool]) -> None:
        """There is a store that replicas share; without one nothing is said of it."""
        gauge = Gauge(names.STORE_UP, "Did the last exchange with other replicas work?", registry=self.registry)
        gauge.set_function(lambda: float(is_up()))

    def render(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)

    def _attempted(self, route: str, attempt: Attempt) -> None:
        if attempt.skipped:
            self._count(self._skips, route, attempt.target, attempt.outcome)
            return
        if attempt.promise is not None:
            self._count(self._promises, route, attempt.target, attempt.promise)
        if attempt.hedge:
            self._count(self._hedges, route, "won" if attempt.outcome is AttemptOutcome.OK else "lost")
        error = "" if attempt.outcome is AttemptOutcome.OK else attempt.outcome
        self._time(self._operation, attempt.elapsed_ms, "chat", attempt.target, error)
        if attempt.first_byte_ms is not None:
            self._time(self._first_chunk, attempt.first_byte_ms - attempt.started_ms, "chat", attempt.target)
        if attempt.outcome is Reason.INVALID_OUTPUT:
            self._count(self._validations, route, attempt.target, "invalid", attempt.detail.partition(" at ")[0])
        usage = attempt.usage
        if usage and usage.cost is not None:
            self._count(self._cost, attempt.target, by=usage.cost)
        if usage and usage.input_tokens is not None:
            self._observe(self._tokens, usage.input_tokens, "chat", attempt.target, "input")
        if usage and usage.output_tokens is not None:
            self._observe(self._tokens, usage.output_tokens, "chat", attempt.target, "output")

    def _count(self, family: Counter, *labels: str, by: float = 1.0) -> None:
        child = self._children.get((family, *labels))
        if child is None:
            child = self._children[(family, *labels)] = family.labels(*labels)
        assert isinstance(child, Counter)
        child.inc(by)

    def _time(self, family: Histogram, milliseconds: float, *labels: str) -> None:
        self._observe(family, milliseconds / 1000, *labels)

    def _observe(self, family: Histogram, value: float, *labels: str) -> None:
        child = self._children.get((family, *labels))
        if child is None:
            child = self._children[(family, *labels)] = family.labels(*labels)
        assert isinstance(child, Histogram)
        child.observe(value)

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(name, says, labels, registry=self.registry)

    def _seconds_of(self, name: str, says: str) -> Histogram:
        return Histogram(name, says, ("route", "target"), registry=self.registry, buckets=names.SECONDS_BUCKETS)

    def _per_attempt(self, name: str, says: str, *more: str) -> Histogram:
        labels = ("gen_ai_operation_name", "gen_ai_request_model", *more)
        return Histogram(name, says, labels, registry=self.registry, buckets=names.SECONDS_BUCKETS)


class _Dropped(Collector):
    """The decision log counts by itself; this says how far it got when somebody looks."""

    def __init__(self, dropped: Callable[[], int]) -> None:
        self._dropped = dropped

    def collect(self) -> Iterator[CounterMetricFamily]:
        """One counter."""
        yield CounterMetricFamily(names.DECISIONS_DROPPED, "Lines the decision log lost.", value=self._dropped())
