"""A Decision as JSON: a line of the decision log and the response of the admin port. Contains no prompt text.

`prompt_event` is the one exception: a line of its own, which is written only where the operator keeps prompts.
"""

from datetime import UTC, datetime
from typing import Any

from gateway.decision import AttemptRecord, Decision
from gateway.types import Query


def document_of(decision: Decision, replica: str | None = None) -> dict[str, Any]:
    """The format of the decision log; `replica` is the name of the gateway that decided, if it has one."""
    classification, usage = decision.classification, decision.usage
    rare = {"low_confidence": decision.low_confidence, "load": usage.load if usage else None}
    return {
        "time": _time(decision.time_s),
        "id": decision.query_id,
        "trace": decision.trace.hex_id if decision.trace else None,
        "policy": decision.policy,
        "principal": decision.principal,
        "task": classification.task,
        "confidence": round(classification.confidence, 4),
        "evidence": classification.evidence,
        "route": decision.route,
        "private": decision.private,
        "locations": None if decision.locations is None else sorted(decision.locations),
        "stream": decision.stream,
        "path": decision.api_path,
        "input_tokens": usage.input_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None,
        "schema": decision.schema,
        "attempts": [_attempt(attempt) for attempt in decision.attempts],
        "target": decision.target,
        "outcome": decision.outcome,
        "status": decision.status,
        "error_source": decision.error_source,
        "fallback": decision.fallback,
        "total_ms": _ms(decision.total_ms),
        "cost": decision.cost,
        **({} if replica is None else {"gateway": replica}),
        **{name: round(value, 4) for name, value in rare.items() if value is not None},
    }


def prompt_event(query: Query) -> dict[str, Any]:
    """The texts by which a request is classified, without lone surrogates, which JSON cannot hold."""
    texts = {
        "system": query.system_text,
        "earlier": query.earlier_text,
        "answer": query.answer_text,
        "user": query.last_user_text,
    }
    kept = {name: text.encode("utf-8", "replace").decode() for name, text in texts.items() if text}
    return {"event": "prompt", "request_id": query.request_id, **kept}


def _attempt(attempt: AttemptRecord) -> dict[str, Any]:
    queued = None if attempt.queued_ms is None else _ms(attempt.queued_ms)
    optional = {
        "url": attempt.url,
        "location": attempt.location,
        "status": attempt.status,
        "hedge": attempt.hedge,
        "queued_ms": queued,
        "ignored": attempt.ignored,
    }  # only if set
    return {
        "target": attempt.target,
        "started_ms": _ms(attempt.started_ms),
        "first_byte_ms": None if attempt.first_byte_ms is None else _ms(attempt.first_byte_ms),
        "ended_ms": _ms(attempt.ended_ms),
        "outcome": attempt.outcome,
        "detail": attempt.detail,
    } | {name: value for name, value in optional.items() if value}


def _ms(value: float) -> float:
    return round(value, 2)


def _time(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
