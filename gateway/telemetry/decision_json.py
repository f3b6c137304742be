"""A Decision as JSON: a line of the decision log and the response of the admin port. Contains no prompt text.

`prompt_event` is the one exception: a line of its own, which is written only where the operator keeps prompts.
"""

from collections.abc import Hashable
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final

import orjson

from gateway.decision import AttemptRecord, Decision
from gateway.types import Query

_MOST: Final = 1024  # kinds of decisions that are remembered
_shared: Final = attrgetter(
    *("policy", "principal", "route", "private", "locations", "stream", "api_path", "schema", "target"),
    *("outcome", "status", "error_source"),
)
_shared_of_attempt: Final = attrgetter("target", "url", "location", "outcome", "detail", "status", "hedge")


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
        "confidence": _share(classification.confidence),
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
        **{name: _share(value) for name, value in rare.items() if value is not None},
    }


class DecisionLines:
    """Decisions as lines of the log. What many of them have in common is put together once."""

    def __init__(self, replica: str | None) -> None:
        self._replica = replica
        self._known: dict[tuple[Hashable, ...], tuple[dict[str, Any], dict[str, Any]]] = {}
        self._second = -1
        self._time = ""

    def line(self, decision: Decision) -> bytes:
        """One line; empty if the decision cannot be encoded."""
        try:
            return line_of(self._document(decision))
        except (OverflowError, ValueError):  # of a time that is no date
            return b""

    def _document(self, decision: Decision) -> dict[str, Any]:
        usage, trace = decision.usage, decision.trace
        if len(decision.attempts) != 1 or decision.low_confidence is not None:
            return document_of(decision, self._replica)
        [attempt] = decision.attempts
        if attempt.queued_ms is not None or attempt.ignored or (usage is not None and usage.load is not None):
            return document_of(decision, self._replica)
        key = (*_shared(decision), *_shared_of_attempt(attempt), decision.classification.task)
        known = self._known.get(key)
        if known is None:
            known = self._remember(key, decision)
        document, shown = known[0].copy(), known[1].copy()
        shown["started_ms"], shown["ended_ms"] = _ms(attempt.started_ms), _ms(attempt.ended_ms)
        shown["first_byte_ms"] = None if attempt.first_byte_ms is None else _ms(attempt.first_byte_ms)
        document["attempts"] = [shown]
        document["time"] = self._time_of(decision.time_s)
        document["id"], document["trace"] = decision.query_id, None if trace is None else trace.hex_id
        document["confidence"] = _share(decision.classification.confidence)
        document["evidence"] = decision.classification.evidence
        if usage is not None:
            document["input_tokens"], document["output_tokens"] = usage.input_tokens, usage.output_tokens
        else:
            document["input_tokens"] = document["output_tokens"] = None
        document["total_ms"], document["cost"] = _ms(decision.total_ms), decision.cost
        return document

    def _remember(self, key: tuple[Hashable, ...], decision: Decision) -> tuple[dict[str, Any], dict[str, Any]]:
        if len(self._known) >= _MOST:  # clients choose schemas, and errors have details
            self._known.clear()
        document = document_of(decision, self._replica)
        found = self._known[key] = document, document["attempts"][0]
        return found

    def _time_of(self, time_s: float) -> str:
        """The text of the second is made once."""
        second = int(time_s)
        micros = round((time_s - second) * 1e6)
        if micros >= 1_000_000 or second < 0:
            return _time(time_s)
        if second != self._second:
            self._second, self._time = second, _time(second)[:-4]
        return f"{self._time}{micros // 1000:03d}Z"


def line_of(document: dict[str, Any]) -> bytes:
    """A line of the log; empty for what cannot be encoded: that drops one line instead of ending the log."""
    try:
        return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
    except (orjson.JSONEncodeError, OverflowError, ValueError):
        return b""


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
    """With two digits, in less than half of the time of `round`, which prints and reads the number."""
    return round(value * 100) / 100


def _share(value: float) -> float:
    return round(value * 10_000) / 10_000


def _time(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
