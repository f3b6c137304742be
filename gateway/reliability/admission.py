"""May this candidate be called now? Each answer costs no time and says why.

Knows what was last heard of a target, not what is true: an attempt finds that out. Breaker, room and SLO guard
change when asked, so the state store asks those; here is what only looks.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from gateway.enums import BreakerState, Reason, Residency
from gateway.types import Candidate, Health, Query, Verdict

# Unknown is admitted: the call itself finds out, and the breaker bounds what that costs.
_NOT_THERE: Final = frozenset({Residency.COLD, Residency.LOADING, Residency.EVICTING, Residency.DRAINING})

ADMITTED: Final = Verdict()


def admit(candidate: Candidate, query: Query, health: Health, *, left_ms: float | None = None) -> Verdict:
    """Skip a candidate that cannot honour the request, is not there, or would answer after the deadline.

    `left_ms` is what remains of the request's time (None: no deadline). What is unknown never counts against a target.
    """
    capabilities = candidate.target.capabilities or health.status.capabilities
    if capabilities is not None and not query.needs <= capabilities.words:
        return Verdict(reason=Reason.UNSUPPORTED, detail="lacks " + ", ".join(sorted(capabilities.lacks(query.needs))))
    if health.status.residency is Residency.UNREACHABLE:  # whoever polls it will say when it is back
        return Verdict(reason=Reason.UPSTREAM_ERROR, detail="unreachable at the last poll")
    if health.status.residency in _NOT_THERE:
        return Verdict(reason=Reason.NOT_RESIDENT, detail=health.status.residency)
    if left_ms is not None:
        wait_ms = health.status.predicted_wait_ms or 0.0
        if left_ms <= wait_ms:
            return Verdict(reason=Reason.DEADLINE, detail=f"{left_ms:.0f} ms left, predicted wait {wait_ms:.0f} ms")
    return ADMITTED


def too_busy(candidate: Candidate, health: Health) -> Verdict:
    """Skip a candidate where waiting alone would take longer than its lane promises. Ask only where there is relief."""
    slo, wait_ms = candidate.slo, health.status.predicted_wait_ms
    if slo is None or wait_ms is None or wait_ms <= min(slo.p95_ms, slo.first_token_p95_ms):
        return ADMITTED
    return Verdict(reason=Reason.OVERLOADED, detail=f"predicted wait {wait_ms:.0f} ms is longer than promised")


def died_with(candidate: Candidate, failed: Mapping[str, tuple[str, Reason]]) -> Verdict:
    """Skip a candidate whose server has already failed this request under another name.

    `failed` maps a base URL to the target that failed or was skipped there, and why, if that is one of SHARED_REASONS.
    """
    other = failed.get(candidate.target.url)
    if other is None or other[0] == candidate.target.name:  # its own fault does not bar it: this is a retry
        return ADMITTED
    name, reason = other
    return Verdict(reason=reason, detail=f"same server as {name}")


def has_healthy_fallback(candidate: Candidate, others: Iterable[tuple[Candidate, Health]], query: Query) -> bool:
    """Could one of the `others`, who come after it, take the request from a candidate, and is it within its own budget?

    Behind the same base URL there is no relief: it shares the slowness.
    """
    return any(
        other.target.url != candidate.target.url
        and health.within_budget
        and health.breaker is not BreakerState.OPEN
        and admit(other, query, health).admitted
        for other, health in others
    )
