"""Traces of requests: a BatchObserver that makes spans from decisions and exports them."""

from collections.abc import Callable, Iterable, Mapping

from gateway import __version__
from gateway.decision import Decision, Mirrored
from gateway.telemetry.semantic_conventions import OTHER
from twolane.process.trace_context import Trace
from twolane.process.tracing.tracer import Tracer, open_tracer


def passing(caller: Trace | None) -> Trace | None:
    """Without tracing, the caller's context is forwarded unchanged."""
    return caller


class Tracing:
    """Starts the traces of requests and exports their spans at the end."""

    def __init__(self, tracer: Tracer, provider_of: Callable[[str], str] = lambda _target: OTHER) -> None:
        """`provider_of` a target by its name."""
        from gateway.telemetry.spans import spans_of

        self._tracer, self._spans_of, self._provider_of = tracer, spans_of, provider_of
        self.begin, self.close = tracer.begin, tracer.close

    def decided_all(self, decisions: Iterable[Decision]) -> None:
        """See `BatchObserver`."""
        for decision in decisions:
            if decision.trace is not None and decision.trace.is_recorded:
                self._tracer.export(self._spans_of(decision, self._provider_of))

    def mirrored(self, mirrored: Mirrored) -> None:
        """Shadows are not traced."""


def open_tracing(
    environment: Mapping[str, str], *, replica: str | None, provider_of: Callable[[str], str]
) -> Tracing | None:
    """None unless `OTEL_*` variables name an exporter. `replica` is the name of this gateway. Raises
    ConfigurationError."""
    tracer = open_tracer(
        environment, service="twolane-gateway", scope="twolane.gateway", version=__version__, instance=replica
    )
    return Tracing(tracer, provider_of) if tracer else None
