"""A Decision as JSON: a line of the decision log and the response of the admin port. Contains no prompt text.

`prompt_event` is the one exception: a line of its own, which is written only where the operator keeps prompts.
"""

from collections.abc import Hashable, Iterable
from datetime import UTC, datetime
from math import inf
from typing import Any, Final

import msgspec
import orjson

from gateway.decision import AttemptRecord, Decision
from gateway.types import Query

_MOST: Final = 1024  # kinds of decisions that are remembered
_WHOLE: Final = 1.5 * 2**52  # added and subtracted, it rounds as `round` does: in a tenth of the time, up to 2**51
_SAME_SECOND: Final = 0.999_999_4  # later, the microseconds may be those of the next one
_MILLIS: Final = tuple(f"{number:03d}Z" for number in range(1000))
_TIMES: Final = ("started_ms", "first_byte_ms", "ended_ms")
_CANNOT_ENCODE: Final = (TypeError, OverflowError, ValueError)
_Texts = tuple[msgspec.Raw, msgspec.Raw, msgspec.Raw, msgspec.Raw]
_encode_lines: Final = msgspec.json.Encoder().encode_lines


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


class _Line(msgspec.Struct, gc=False):
    """A line of the log in pieces: the values that differ, and texts with everything between two of them. A text begins
    with the value of its field and goes on with further names and values."""

    time: str
    id: str
    trace: str | None
    policy: msgspec.Raw  # up to the task
    confidence: float
    evidence: str
    route: msgspec.Raw  # up to the path
    input_tokens: int | None
    output_tokens: int | None
    schema: msgspec.Raw  # up to the target of the attempt
    started_ms: float
    first_byte_ms: float | None
    ended_ms: float
    outcome: msgspec.Raw  # of the attempt; up to the fallback
    total_ms: float
    cost: float
    gateway: str | msgspec.UnsetType


class DecisionLines:
    """Decisions as lines of the log. What many of them have in common is encoded once."""

    def __init__(self, replica: str | None) -> None:
        self._replica = replica
        self._gateway = msgspec.UNSET if replica is None else replica
        self._known: dict[tuple[Hashable, ...], _Texts] = {}
        self._second = inf
        self._time = ""

    def render(self, decisions: Iterable[Decision]) -> tuple[bytes, int]:
        """Their lines and the number of these: a decision that cannot be encoded has none."""
        lines: list[_Line | msgspec.Raw] = []
        for decision in decisions:
            try:
                lines.append(self._line(decision) or msgspec.Raw(orjson.dumps(document_of(decision, self._replica))))
            except _CANNOT_ENCODE:  # among others, a time that is no date
                continue
        try:
            return _encode_lines(lines), len(lines)
        except _CANNOT_ENCODE:  # one of them: without it
            encoded = [text for line in lines if (text := _encoded(line))]
            return b"".join(encoded), len(encoded)

    def _line(self, decision: Decision) -> _Line | None:
        """None for a decision with more than most have."""
        if len(decision.attempts) != 1 or decision.low_confidence is not None:
            return None
        [attempt], usage, trace = decision.attempts, decision.usage, decision.trace
        if attempt.queued_ms is not None or attempt.ignored or (usage is not None and usage.load is not None):
            return None
        classified, first_byte_ms, whole = decision.classification, attempt.first_byte_ms, _WHOLE
        key = (  # `attrgetter` takes three times as long
            decision.policy,
            decision.principal,
            classified.task,
            decision.route,
            decision.private,
            decision.locations,
            decision.stream,
            decision.api_path,
            decision.schema,
            decision.target,
            decision.outcome,
            decision.status,
            decision.error_source,
            attempt.target,
            attempt.url,
            attempt.location,
            attempt.outcome,
            attempt.detail,
            attempt.status,
            attempt.hedge,
        )
        to_task, to_path, to_target, to_fallback = self._known.get(key) or self._remember(key, decision)
        return _Line(
            self._time_of(decision.time_s),
            decision.query_id,
            None if trace is None else trace.hex_id,
            to_task,
            (classified.confidence * 10_000.0 + whole - whole) / 10_000.0,
            classified.evidence,
            to_path,
            None if usage is None else usage.input_tokens,
            None if usage is None else usage.output_tokens,
            to_target,
            (attempt.started_ms * 100.0 + whole - whole) / 100.0,
            None if first_byte_ms is None else (first_byte_ms * 100.0 + whole - whole) / 100.0,
            (attempt.ended_ms * 100.0 + whole - whole) / 100.0,
            to_fallback,
            (decision.total_ms * 100.0 + whole - whole) / 100.0,
            decision.cost,
            self._gateway,
        )

    def _remember(self, key: tuple[Hashable, ...], decision: Decision) -> _Texts:
        if len(self._known) >= _MOST:  # clients choose schemas, and errors have details
            self._known.clear()
        found = self._known[key] = _texts_of(document_of(decision))
        return found

    def _time_of(self, time_s: float) -> str:
        """The text of the second is made once."""
        since_s = time_s - self._second
        if not 0.0 <= since_s < _SAME_SECOND:
            second = time_s // 1.0
            since_s = time_s - second
            if not (second >= 0.0 and since_s < _SAME_SECOND):
                return _time(time_s)
            self._second, self._time = second, _time(second)[:-4]
        return self._time + _MILLIS[int(since_s * 1e6 + _WHOLE - _WHOLE) // 1000]


def _texts_of(document: dict[str, Any]) -> _Texts:
    """What decisions have in common that differ in nothing else than the other fields of `_Line`."""
    [attempt] = document["attempts"]
    schema = {"schema": document["schema"], "attempts": [{"target": attempt["target"]}]}
    end = {name: value for name, value in attempt.items() if name not in ("target", *_TIMES)}
    return (
        _text(_between(document, "policy", "confidence")),
        _text(_between(document, "route", "input_tokens")),
        msgspec.Raw(bytes(_text(schema))[: -len(b"}]")]),
        msgspec.Raw(bytes(_text(end)) + b"}]," + orjson.dumps(_between(document, "target", "total_ms"))[1:-1]),
    )


def _between(document: dict[str, Any], first: str, end: str) -> dict[str, Any]:
    names = list(document)
    return {name: document[name] for name in names[names.index(first) : names.index(end)]}


def _text(members: dict[str, Any]) -> msgspec.Raw:
    """The members as JSON, without braces and without the first name."""
    return msgspec.Raw(orjson.dumps(members)[len(f'{{"{next(iter(members))}":') : -1])


def _encoded(line: _Line | msgspec.Raw) -> bytes:
    try:
        return _encode_lines([line])
    except _CANNOT_ENCODE:
        return b""


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
