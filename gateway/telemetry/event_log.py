"""Log lines that say why: failed attempts, and changes of lanes, breakers and targets.

An Observer. Lines name route, target, reason, HTTP status and request; never text of prompts or responses. A failure
that repeats is logged once per interval, with the number of those that were not.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from gateway.decision import AttemptRecord, Decision, Mirrored
from gateway.enums import LaneState, Reason, Residency
from gateway.ports import Clock, StateStore
from gateway.routing.policy import Policy
from gateway.types import Status, Target

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
_log = logging.getLogger("gateway.events")
State = tuple[str, str, str]  # what it is about, its name, and its state


class EventLog:
    """Logs failed attempts of decisions."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._lines: dict[tuple[str, str, str], tuple[float, int]] = {}  # of a failure: last line, and failures since

    def decided(self, decision: Decision) -> None:
        """See `ports.Observer`."""
        for attempt in decision.attempts:
            if attempt.outcome in _FAILURES and not attempt.skipped:
                self._failed(decision, attempt)

    def mirrored(self, mirrored: Mirrored) -> None:
        """Shadows are not logged."""

    def _failed(self, decision: Decision, attempt: AttemptRecord) -> None:
        kind = (decision.route, attempt.target, attempt.outcome)
        now_s, (last_s, others) = self._now_s(), self._lines.get(kind, (-EVERY_S, 0))
        if now_s - last_s < EVERY_S:
            self._lines[kind] = (last_s, others + 1)
            return
        if len(self._lines) >= _MOST:  # after many changes of the policy
            self._lines.clear()
        self._lines[kind] = (now_s, 0)
        fields = {
            "event": "attempt_failed",
            "route": decision.route,
            "target": attempt.target,
            "endpoint": attempt.url,
            "reason": attempt.outcome,
            "detail": attempt.detail,
            "elapsed_ms": round(attempt.elapsed_ms, 1),
            "request_id": decision.query_id,
            "served_by": decision.target,
            "not_logged": others,
        }
        _log.warning(
            "attempt failed: route %s, target %s%s: %s%s after %.0f ms; request %s %s%s",
            *(decision.route, attempt.target, f" at {attempt.url}" if attempt.url else "", attempt.outcome),
            *(f" ({attempt.detail})" if attempt.detail else "", attempt.elapsed_ms, decision.query_id),
            f"served by {decision.target}" if decision.target is not None else "not served",
            f"; {others} more since the last line" if others else "",
            extra={"fields": fields},
        )


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
        seen = {(about, name): state for about, name, state in self._states()}
        for (about, name), state in seen.items():
            before = self._seen.get((about, name), _WELL[about])
            if state != before:
                fields = {"event": f"{about}_changed", about: name, "before": before, "state": state}
                level = logging.INFO if state == _WELL[about] else logging.WARNING
                _log.log(level, "%s %s: %s, was %s", about, name, state, before, extra={"fields": fields})
        self._seen = seen


_WELL: Final = {"lane": str(LaneState.SERVING), "breaker": "closed", "target": str(Residency.READY)}


def states_of(
    policy: Callable[[], Policy], state: StateStore, clock: Clock, status_of: Callable[[Target], Status]
) -> Callable[[], Iterator[State]]:
    """The states of all lanes, breakers and targets of the running policy."""

    def look() -> Iterator[State]:
        now_s, seen = clock.now_s(), set[str]()
        for candidate in policy().lanes:
            if candidate.slo is not None:
                yield "lane", "/".join(candidate.lane), str(state.health(candidate, Status(), now_s).lane)
            for endpoint in candidate.endpoints:
                name = endpoint.target.name
                if name in seen:
                    continue
                seen.add(name)
                status = status_of(endpoint.target)
                yield "breaker", name, str(state.health(endpoint, status, now_s).breaker)
                if status.residency is not Residency.UNKNOWN:
                    yield "target", name, str(status.residency)

    return look
