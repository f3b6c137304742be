"""Admission checks without side effects: may this candidate be called now, and if not, why.

They use the last known status of a target, which may be stale; the attempt finds out. Checks that change state
(breaker, concurrency limit, SLO guard) are made by the state store.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from gateway.beyond_chat import A_CHAT
from gateway.enums import BreakerState, Capability, Reason, Residency
from gateway.parameters import NO_PARAMETERS, lacking
from gateway.types import Candidate, Capabilities, Health, Query, Status, Verdict

# UNKNOWN is admitted: the call itself finds out, and the breaker limits the cost.
_NOT_READY: Final = frozenset(
    {Residency.COLD, Residency.LOADING, Residency.EVICTING, Residency.FAILED, Residency.DRAINING}
)
_READY: Final = frozenset({Residency.READY, Residency.UNKNOWN})

ADMITTED: Final = Verdict()
# Names of fields are the client's: they must not fill errors and logs.
_MAX_NAMES: Final = 8
_MAX_NAME: Final = 64
# The request's field that asks for a capability, where it has another name.
_FIELDS: Final[Mapping[str, str]] = {
    Capability.CHAT: "messages",
    Capability.COMPLETIONS: "prompt",
    Capability.PROMPT_LOGPROBS: "echo",
    Capability.EMBEDDINGS: "input",
    Capability.DECISIONS: "questions",
    Capability.IMAGES: "messages",
}
_DECISION_FIELDS: Final[Mapping[str, str]] = dict.fromkeys((*_FIELDS, Capability.JSON_SCHEMA), "questions")


def _field_of(name: str, query: Query) -> str:
    """The request's field behind a capability or parameter."""
    wanted = query.output_format
    if wanted is not None and wanted.param is not None and wanted.form.value == name:
        return wanted.param
    if name in query.parameters.hosted:
        return query.parameters.hosted[name]
    if query.beyond_chat.decision is not None:  # sent as a chat with a schema where a target has no decisions
        return _DECISION_FIELDS.get(name, name)
    return "messages" if name in query.parameters.media else _FIELDS.get(name, name)


def admit(candidate: Candidate, query: Query, health: Health, *, left_ms: float | None = None) -> Verdict:
    """Skip a candidate that does not support the request, is not ready, or would miss the deadline.

    `left_ms` is the time left until the deadline (None: no deadline). Unknown values never exclude a target.
    """
    capabilities = candidate.target.capabilities or health.status.capabilities
    if capabilities is not None and (missing := lacking(candidate.target, capabilities, query)):
        names = [name[:_MAX_NAME] for name in sorted(missing)]
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        detail = f"lacks {', '.join(names[:_MAX_NAMES])}{more}"
        return Verdict(reason=Reason.UNSUPPORTED, detail=detail, param=_field_of(names[0], query))
    if (
        query.beyond_chat.inputs
        and capabilities is not None
        and (verdict := check_embeddings(capabilities, query)).reason
    ):
        return verdict
    if health.retry_after_s > 0:
        wait_s = health.retry_after_s
        detail = f"asked to be called again after {wait_s:.0f} s"
        return Verdict(reason=Reason.OVERLOADED, detail=detail, retry_after_s=wait_s, is_quota=health.is_quota)
    if health.status.residency is Residency.UNREACHABLE:  # the health poller reports when it is back
        return Verdict(reason=Reason.UPSTREAM_ERROR, detail="unreachable at the last poll")
    if health.status.residency in _NOT_READY:
        return Verdict(reason=Reason.NOT_RESIDENT, detail=health.status.residency)
    if left_ms is not None:
        wait_ms = health.status.predicted_wait_ms or 0.0
        if left_ms <= wait_ms:
            return Verdict(reason=Reason.DEADLINE, detail=f"{left_ms:.0f} ms left, predicted wait {wait_ms:.0f} ms")
    return ADMITTED


def is_ready_for(candidate: Candidate, query: Query, status: Status, *, left_ms: float | None) -> bool:
    """Whether `admit` finds nothing against a candidate that may be called and predicts no wait; False where it has to
    be asked."""
    if status.predicted_wait_ms is not None or status.residency not in _READY or (left_ms is not None and left_ms <= 0):
        return False
    capabilities = candidate.target.capabilities or status.capabilities
    if capabilities is None or (
        query.parameters is NO_PARAMETERS and query.beyond_chat is A_CHAT and query.needs <= capabilities.supported
    ):
        return True
    return not (query.beyond_chat.inputs or lacking(candidate.target, capabilities, query))


def check_embeddings(capabilities: Capabilities, query: Query) -> Verdict:
    """Skip a target that takes fewer inputs at once, or whose embeddings are shorter than requested."""
    for param, most, wanted in (
        ("input", capabilities.max_inputs, query.beyond_chat.inputs),
        ("dimensions", capabilities.dimensions, query.beyond_chat.dimensions),
    ):
        if most is not None and wanted is not None and wanted > most:
            unit = "inputs" if param == "input" else "dimensions"
            return Verdict(reason=Reason.UNSUPPORTED, detail=f"{wanted} {unit}, at most {most}", param=param)
    return ADMITTED


def needs_fallback(candidate: Candidate, health: Health) -> bool:
    """Whether it matters that another candidate could serve the request: the lane may leave its objective."""
    return candidate.slo is not None and not (health.within_budget and health.status.predicted_wait_ms is None)


def check_predicted_wait(candidate: Candidate, health: Health) -> Verdict:
    """Skip a candidate whose predicted wait exceeds its objective. Call this only if there is a healthy fallback."""
    slo, wait_ms = candidate.slo, health.status.predicted_wait_ms
    if slo is None or wait_ms is None or wait_ms <= min(slo.p95_ms, slo.first_token_p95_ms):
        return ADMITTED
    detail = f"predicted wait {wait_ms:.0f} ms exceeds the objective"
    return Verdict(reason=Reason.OVERLOADED, detail=detail, is_slow=True)


def check_shared_failure(candidate: Candidate, failed: Mapping[str, tuple[str, Reason]]) -> Verdict:
    """Skip a candidate whose server already failed for this request under another target name.

    `failed` maps a base URL to the target that failed or was skipped there and the reason, one of SHARED_REASONS.
    """
    other = failed.get(candidate.target.url)
    if other is None or other[0] == candidate.target.name:  # its own failure does not exclude it: this is a retry
        return ADMITTED
    name, reason = other
    return Verdict(reason=reason, detail=f"same server as {name}", is_shared=True)


def check_context_length(needed_tokens: int, limit: int | None) -> Verdict:
    """Skip a candidate whose context is known to be too short for a request that another one found too long."""
    if limit is None or not needed_tokens or needed_tokens <= limit:
        return ADMITTED
    detail = f"context of {limit} tokens, at least {needed_tokens} needed"
    return Verdict(reason=Reason.CONTEXT_LENGTH_EXCEEDED, detail=detail, param="messages")


def has_healthy_fallback(candidate: Candidate, others: Iterable[tuple[Candidate, Health]], query: Query) -> bool:
    """Whether one of the later candidates (`others`) could serve the request and is within its own objective.

    A target with the same base URL is no fallback: it is equally slow.
    """
    return any(
        other.target.url != candidate.target.url
        and health.within_budget
        and health.breaker is not BreakerState.OPEN
        and admit(other, query, health).admitted
        for other, health in others
    )
