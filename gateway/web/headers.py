"""How a Decision looks as response headers. Every header name of the gateway's answers is here and nowhere else."""

from gateway.decision import Decision

RequestHeaders = dict[bytes, bytes]
ResponseHeaders = list[tuple[bytes, bytes]]

REQUEST_ID = b"x-request-id"
TASK = b"x-twolane-task"
CONFIDENCE = b"x-twolane-confidence"
ROUTE = b"x-twolane-route"
TARGET = b"x-twolane-target"
ATTEMPTS = b"x-twolane-attempts"
FALLBACK = b"x-twolane-fallback"
POLICY = b"x-twolane-policy"
SCHEMA = b"x-twolane-schema"
SERVER_TIMING = b"server-timing"
TRACE = b"traceresponse"  # W3C Trace Context level 2: the trace, and our span in it


def describe(decision: Decision) -> ResponseHeaders:
    """Everything that was decided up to this moment; names without a value are left out."""
    classification = decision.classification
    pairs = (
        (REQUEST_ID, decision.query_id),
        (TASK, classification.task),
        (CONFIDENCE, f"{classification.confidence:.2f}"),
        (ROUTE, decision.route),
        (TARGET, decision.target),
        (ATTEMPTS, ",".join(f"{attempt.target}={attempt.outcome}" for attempt in decision.attempts)),
        (FALLBACK, decision.fallback),
        (POLICY, decision.policy),
        (SCHEMA, decision.schema_check),
        (SERVER_TIMING, _timing(decision)),
        (TRACE, decision.trace.header() if decision.trace and decision.trace.is_recorded else None),
    )
    return [(name, value.encode("latin-1", "replace")) for name, value in pairs if value]


def _timing(decision: Decision) -> str:
    parts = [*decision.timings_ms.items(), ("total", decision.total_ms)]
    return ", ".join(f"{name};dur={duration_ms:.1f}" for name, duration_ms in parts)
