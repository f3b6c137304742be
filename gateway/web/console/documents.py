"""What the console shows, as JSON: decisions, lanes, targets and keys. Pure; contains no text of prompts or
responses."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil, inf
from typing import Any, Final

from gateway.decision import AttemptRecord, Decision
from gateway.enums import Outcome
from gateway.policy_types import Limit, LimitStatus, Quota
from gateway.reliability.daily_budgets import Spent
from gateway.telemetry.decision_json import document_of
from gateway.types import Candidate, Health, Target
from twolane.process.api_keys import Key

WINDOW_S: Final = 600.0  # of the latencies of lanes
COLUMNS: Final = (
    *("time_ms", "id", "key", "task", "route", "target", "outcome", "fallback", "total_ms", "cost", "tokens"),
    *("attempts", "path", "stream"),
)


def record_of(decision: Decision, replica: str | None = None) -> dict[str, Any]:
    """The full record of a decision: a line of the decision log, and its timings."""
    document = document_of(decision, replica)
    document["attempts"] = [
        shown | _attempt_extras(attempt) for shown, attempt in zip(document["attempts"], decision.attempts, strict=True)
    ]
    return document | {
        "overhead_ms": round(decision.overhead_ms, 2),
        "first_byte_ms": None if decision.first_byte_ms is None else round(decision.first_byte_ms, 2),
        "timings_ms": {name: round(value, 2) for name, value in decision.timings_ms.items()},
        "schema_check": decision.schema_check,
        "fallbacks": [[left, taken, reason] for left, taken, reason in decision.changes],
    }


def _attempt_extras(attempt: AttemptRecord) -> dict[str, Any]:
    confidence = attempt.usage.confidence if attempt.usage else None
    return {
        "skipped": attempt.skipped,
        "probe": attempt.probe,
        "slo": attempt.slo_outcome,
        "confidence": None if confidence is None else round(confidence, 4),
        "converged": attempt.usage.converged if attempt.usage else None,
        "first_token_ms": None if attempt.first_token_ms is None else round(attempt.first_token_ms, 2),
    }


def row_of(decision: Decision) -> list[Any]:
    """The values of COLUMNS for a decision: what a list needs, in a fifth of the size of a record. Cheap: a page that
    is opened asks for thousands."""
    usage = decision.usage
    return [
        round(decision.time_s * 1000),
        *(decision.query_id, decision.principal, decision.classification.task, decision.route, decision.target),
        *(decision.outcome, decision.fallback, round(decision.total_ms, 2), decision.cost),
        (usage.input_tokens or 0) + (usage.output_tokens or 0) if usage else 0,
        ",".join(f"{each.target}={each.outcome}" for each in decision.attempts),
        *(decision.api_path, decision.stream),
    ]


def row_of_record(record: Mapping[str, Any]) -> list[Any]:
    """The same for the record of another replica's decision."""
    tokens = (record["input_tokens"] or 0) + (record["output_tokens"] or 0)
    attempts = ",".join(f"{each['target']}={each['outcome']}" for each in record["attempts"])
    return [
        round(datetime.fromisoformat(record["time"]).timestamp() * 1000),
        *(record[name] for name in ("id", "principal", "task", "route", "target", "outcome", "fallback", "total_ms")),
        *(record["cost"], tokens, attempts, record["path"], record["stream"]),
    ]


# Lanes


@dataclass(slots=True)
class _Latencies:
    """Latencies of answers of one lane, of the whole window and of its last minute."""

    ms: list[float] = field(default_factory=list)
    failed: int = 0


def latencies_of(decisions: Iterable[Decision], *, since_s: float) -> dict[tuple[str, str], _Latencies]:
    """The latencies of calls by route and target, since a time of the wall clock."""
    found: defaultdict[tuple[str, str], _Latencies] = defaultdict(_Latencies)
    for decision in decisions:
        if decision.time_s < since_s:
            continue
        for attempt in decision.attempts:
            if not attempt.skipped:
                lane = found[(decision.route, attempt.target)]
                lane.ms.append(attempt.elapsed_ms)
                lane.failed += attempt.is_fault
    return found


def lane_of(
    candidate: Candidate, health: Health, own: _Latencies | None, window_p95_ms: float | None
) -> dict[str, Any]:
    """One lane as it is now."""
    ordered = sorted(own.ms) if own else []
    slo = candidate.slo
    return {
        "route": candidate.route,
        "target": candidate.target.name,
        "state": health.lane,
        "within_budget": health.within_budget,
        "budget_ms": slo.p95_ms if slo is not None and slo.p95_ms < inf else None,
        "first_token_budget_ms": slo.first_token_p95_ms if slo is not None and slo.first_token_p95_ms < inf else None,
        "guard_p95_ms": _rounded(window_p95_ms),
        "p50_ms": _quantile(ordered, 0.5),
        "p95_ms": _quantile(ordered, 0.95),
        "calls": len(ordered),
        "failed": own.failed if own else 0,
    }


def target_of(target: Target, health: Health) -> dict[str, Any]:
    """One endpoint as it is now: its queue, its breaker and, for workers, whether its weights are loaded."""
    return {
        "target": target.name,
        "pool": target.policy_name,
        "kind": target.kind,
        "model": target.model,
        "location": target.location,
        "breaker": health.breaker,
        "in_flight": health.in_flight,
        "max_in_flight": target.max_in_flight,
        "waiting": health.waiting,
        "residency": health.status.residency,
        "predicted_wait_ms": _rounded(health.status.predicted_wait_ms),
        "retry_after_s": _rounded(health.retry_after_s),
    }


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return round(ordered[max(0, ceil(share * len(ordered)) - 1)], 1) if ordered else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


# Keys


def key_of(
    name: str,
    key: Key | None,
    decisions: Sequence[Decision],
    *,
    limit: Limit | None,
    quota: Quota | None,
    spent: Spent,
) -> dict[str, Any]:
    """What one key sent recently, and what is left of its limits. `name` is empty for requests without a key."""
    return {
        "name": name,
        "scopes": sorted(key.scopes) if key else None,
        "is_restricted": key.is_restricted if key else False,
        "requests": len(decisions),
        "failed": sum(each.outcome is Outcome.ERROR for each in decisions),
        "tokens": sum(each.charged[0] for each in decisions),
        "cost": round(sum(each.cost for each in decisions), 6),
        "limits": [] if limit is None else list(_limits(limit, quota, spent)),
    }


def _limits(limit: Limit, quota: Quota | None, spent: Spent) -> Iterable[dict[str, Any]]:
    per_minute = {"requests per minute": quota.requests, "tokens per minute": quota.tokens} if quota else {}
    for name, status in per_minute.items():
        if status is not None:
            yield _limit(name, status.limit, status.limit - status.remaining, status)
    if limit.max_in_flight is not None:
        yield _limit("requests at a time", limit.max_in_flight, None)
    if limit.tokens_per_day is not None:
        yield _limit("tokens per day", limit.tokens_per_day, spent.tokens)
    if limit.dollars_per_day is not None:
        yield _limit("dollars per day", limit.dollars_per_day, spent.nanodollars / 1e9)


def _limit(name: str, size: float, used: float | None, status: LimitStatus | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "limit": size,
        "used": used if used is None else round(used, 6),
        "reset_s": round(status.reset_s, 1) if status else None,
    }
