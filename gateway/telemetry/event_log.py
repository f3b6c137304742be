"""Log lines that say why: failed attempts and requests, and changes of lanes, breakers, targets and the policy.

An Observer. Lines name route, target, reason, HTTP status and request; never text of prompts or responses. A failure
that repeats is logged once per interval, with the number of those that were not.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from math import inf
from typing import Any, Final, NamedTuple

from gateway.decision import AttemptRecord, Decision, Mirrored
from gateway.enums import BreakerState, ErrorSource, LaneState, Reason, Residency
from gateway.ports import Clock, StateStore
from gateway.routing.policy import Policy
from gateway.types import Candidate, Status, Target

EVERY_S: Final = 10.0  # between lines about the same failure
CHECK_S: Final = 1.0  # between looks at states
_MOST: Final = 10_000  # kinds of failures that are remembered; policies have far fewer
_FAILURES: Final = frozenset(
    {
        Reason.INVALID_OUTPUT,
        Reason.DEADLINE,
        Reason.UPSTREAM_ERROR,
        Reason.UPSTREAM_AUTH,
        Reason.OVERLOADED,
        Reason.NOT_RESIDENT,
        Reason.LOW_CONFIDENCE,
    }
)
_OUR_FAULTS: Final = frozenset({ErrorSource.TARGET, ErrorSource.GATEWAY})
_log = logging.getLogger("gateway.events")
_NOTHING: Final[Mapping[str, Any]] = {}
Kind = tuple[str, str, str]


class EventLog:
    """Logs failed attempts, and requests that nothing could serve."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._lines: dict[Kind, tuple[float, int]] = {}  # of a failure: last line, and failures since
        self._last: dict[tuple[str, str | None], Mapping[str, Any]] = {}  # failure by target and address

    def decided(self, decision: Decision) -> None:
        """See `ports.Observer`."""
        for attempt in decision.attempts:
            if attempt.outcome in _FAILURES and not attempt.skipped:
                self._failed(decision, attempt)
        if decision.error_source in _OUR_FAULTS:
            self._unserved(decision)

    def mirrored(self, mirrored: Mirrored) -> None:
        """Shadows are not logged."""

    def last_failure(self, target: Target) -> Mapping[str, Any]:
        """Reason, HTTP status and request of the last failed attempt at a target; empty if there was none."""
        return self._last.get((target.policy_name, target.address), _NOTHING)

    def _failed(self, decision: Decision, attempt: AttemptRecord) -> None:
        cause = {
            "reason": attempt.outcome,
            "status": attempt.status,
            "detail": attempt.detail,
            "request_id": decision.query_id,
        }
        if len(self._last) >= _MOST:  # after many changes of addresses
            self._last.clear()
        self._last[(attempt.target, attempt.url)] = cause
        others = self._others((decision.route, attempt.target, attempt.outcome))
        if others is None:
            return
        fields = {
            "event": "attempt_failed",
            "route": decision.route,
            "target": attempt.target,
            "endpoint": attempt.url,
            **cause,
            "elapsed_ms": round(attempt.elapsed_ms, 1),
            "served_by": decision.target,
            "not_logged": others,
        }
        _log.warning(
            "attempt failed: route %s, target %s%s: %s%s after %.0f ms; request %s %s%s",
            *(decision.route, attempt.target, f" at {attempt.url}" if attempt.url else "", attempt.outcome),
            *(f" ({attempt.detail})" if attempt.detail else "", attempt.elapsed_ms, decision.query_id),
            *(f"served by {decision.target}" if decision.target is not None else "not served", _more(others)),
            extra={"fields": fields},
        )

    def _unserved(self, decision: Decision) -> None:
        """Also says why no target was called: their breakers were open, or they were ejected."""
        source, attempts = str(decision.error_source), decision.attempts
        others = self._others((decision.route, source, str(decision.status)))
        if others is None:
            return
        tried = ",".join(f"{attempt.target}={attempt.outcome}" for attempt in attempts)
        fields = {
            "event": "request_failed",
            "route": decision.route,
            "client_status": decision.status,
            "error_source": source,
            "attempts": tried,
            "request_id": decision.query_id,
            "not_logged": others,
        }
        _log.warning(
            "request failed: route %s, status %s, caused by the %s: %s; request %s%s",
            *(decision.route, decision.status, source, tried or "no target", decision.query_id, _more(others)),
            extra={"fields": fields},
        )

    def _others(self, kind: Kind) -> int | None:
        """How many failures of this kind were not logged since the last line; None: this one is not logged either."""
        now_s, (last_s, others) = self._now_s(), self._lines.get(kind, (-EVERY_S, 0))
        if now_s - last_s < EVERY_S:
            self._lines[kind] = (last_s, others + 1)
            return None
        if len(self._lines) >= _MOST:  # after many changes of the policy
            self._lines.clear()
        self._lines[kind] = (now_s, 0)
        return others


class State(NamedTuple):
    """The state of a lane, breaker or target, and why it changed, if that is known."""

    about: str
    name: str
    state: str
    why: Callable[[], Mapping[str, Any]] = dict


class StateLog:
    """Logs changes of states, as `states` lists them."""

    def __init__(self, states: Callable[[], Iterable[State]]) -> None:
        self._states = states
        self._seen: dict[tuple[str, str], str] = {}

    async def run(self) -> None:
        """Look once a second, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(CHECK_S)

    def look(self) -> None:
        """Log what has changed since the last look. The first state of something that is well is not logged."""
        seen: dict[tuple[str, str], str] = {}
        for each in self._states():
            seen[(each.about, each.name)] = each.state
            before = self._seen.get((each.about, each.name), _WELL[each.about])
            if each.state != before:
                _changed(each, before)
        self._seen = seen


_WELL: Final = {"lane": str(LaneState.SERVING), "breaker": str(BreakerState.CLOSED), "target": str(Residency.READY)}


def _changed(now: State, before: str) -> None:
    is_well = now.state == _WELL[now.about]
    why = _NOTHING if is_well else now.why()
    fields = {"event": f"{now.about}_changed", now.about: now.name, "before": before, "state": now.state, **why}
    said = "; ".join(f"{name} {value}" for name, value in why.items() if value not in (None, ""))
    _log.log(
        logging.INFO if is_well else logging.WARNING,
        "%s %s: %s, was %s%s",
        *(now.about, now.name, now.state, before, f" ({said})" if said else ""),
        extra={"fields": fields},
    )


def log_policy(version: str, *, is_changed: bool) -> None:
    """Log that the policy file was loaded."""
    fields = {"event": "policy_loaded", "policy": version, "is_changed": is_changed}
    _log.info("policy %s loaded%s", version, "" if is_changed else ", unchanged", extra={"fields": fields})


def log_refused_policy(cause: str) -> None:
    """Log that the policy file could not be loaded; the running policy stays."""
    _log.error("policy not reloaded: %s", cause, extra={"fields": {"event": "policy_refused", "reason": cause}})


def states_of(
    policy: Callable[[], Policy],
    state: StateStore,
    clock: Clock,
    *,
    status_of: Callable[[Target], Status],
    last_failure: Callable[[Target], Mapping[str, Any]],
) -> Callable[[], Iterator[State]]:
    """The states of all lanes, breakers and targets of the running policy."""

    def look() -> Iterator[State]:
        now_s, seen = clock.now_s(), set[str]()
        for candidate in policy().lanes:
            if candidate.slo is not None:
                lane = str(state.health(candidate, Status(), now_s).lane)
                yield State("lane", "/".join(candidate.lane), lane, partial(_why_lane, candidate, state, now_s))
            for endpoint in candidate.endpoints:
                name = endpoint.target.name
                if name in seen:
                    continue
                seen.add(name)
                status = status_of(endpoint.target)
                breaker = str(state.health(endpoint, status, now_s).breaker)
                yield State("breaker", name, breaker, partial(last_failure, endpoint.target))
                if status.residency is not Residency.UNKNOWN:
                    yield State("target", name, str(status.residency))

    return look


def _why_lane(candidate: Candidate, state: StateStore, now_s: float) -> Mapping[str, Any]:
    slo, p95_ms = candidate.slo, state.p95_ms(candidate, now_s)
    assert slo is not None
    return {
        "p95_ms": None if p95_ms is None else round(p95_ms, 1),
        "objective_ms": slo.p95_ms if slo.p95_ms < inf else None,
        "first_token_objective_ms": slo.first_token_p95_ms if slo.first_token_p95_ms < inf else None,
    }


def _more(others: int) -> str:
    return f"; {others} more since the last line" if others else ""
