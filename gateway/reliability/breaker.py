"""Circuit breaker: a transition table and pure functions over a frozen record.

`closed` passes requests, `open` rejects them, `half_open` passes one trial request. Pure, so that it works the same in
one process and when replicas share their state.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from gateway.enums import BreakerState
from gateway.reliability.replication import BreakerSnapshot


class BreakerEvent(StrEnum):
    """An event that may change the state."""

    OK = "ok"  # an attempt was answered
    FAILURE = "failure"  # an attempt ended with an upstream error
    TRIP = "trip"  # consecutive failures reached the limit
    COOLED = "cooled"  # the open time is over


# Other combinations leave the state unchanged.
TABLE: Final[dict[tuple[BreakerState, BreakerEvent], BreakerState]] = {
    (BreakerState.CLOSED, BreakerEvent.TRIP): BreakerState.OPEN,
    (BreakerState.OPEN, BreakerEvent.COOLED): BreakerState.HALF_OPEN,
    (BreakerState.HALF_OPEN, BreakerEvent.OK): BreakerState.CLOSED,
    (BreakerState.HALF_OPEN, BreakerEvent.FAILURE): BreakerState.OPEN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRule:
    """Consecutive failures before the breaker opens, and for how long. Each failed trial doubles the open time."""

    failures: int = 5
    open_s: float = 2.0
    open_max_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """One target's breaker. `trial_at_s` is the start of the trial request in half_open; None before it started.

    `epoch` grows with every opening and closing and is odd while not closed; between replicas, the largest wins.
    """

    state: BreakerState = BreakerState.CLOSED
    epoch: int = 0
    failures: int = 0
    open_s: float = 0.0
    opened_at_s: float = 0.0
    trial_at_s: float | None = None


CLOSED: Final = Breaker()


def step(breaker: Breaker, event: BreakerEvent, now_s: float, rule: BreakerRule) -> Breaker:
    """The breaker after `event`. Callers report OK and FAILURE only; TRIP and COOLED are derived here."""
    if breaker.state is BreakerState.CLOSED:
        if event is BreakerEvent.OK:
            return replace(breaker, failures=0) if breaker.failures else breaker
        if event is BreakerEvent.FAILURE:
            breaker = replace(breaker, failures=breaker.failures + 1)
            event = BreakerEvent.TRIP if breaker.failures >= rule.failures else event
    state = TABLE.get((breaker.state, event), breaker.state)
    if state is breaker.state:
        return breaker
    return _entered(breaker, state, now_s, rule)


def allow_request(breaker: Breaker, now_s: float, rule: BreakerRule) -> tuple[bool, Breaker]:
    """Whether a request may pass, and the breaker to store. In half_open, one trial passes and is recorded.

    Make this check last: a recorded trial must be sent. A trial without an outcome (its client disconnected) expires
    after another `open_s`.
    """
    if breaker.state is BreakerState.CLOSED:
        return True, breaker
    if breaker.state is BreakerState.OPEN:
        if now_s < breaker.opened_at_s + breaker.open_s:
            return False, breaker
        breaker = step(breaker, BreakerEvent.COOLED, now_s, rule)
    if breaker.trial_at_s is not None and now_s < breaker.trial_at_s + breaker.open_s:
        return False, breaker
    return True, replace(breaker, trial_at_s=now_s)


def reset(breaker: Breaker) -> Breaker:
    """The breaker closed, without its history."""
    return Breaker(epoch=breaker.epoch + breaker.epoch % 2)


def snapshot(breaker: Breaker, now_s: float) -> BreakerSnapshot:
    """The state to send to other replicas."""
    return BreakerSnapshot(
        epoch=breaker.epoch,
        state=breaker.state,
        failures=breaker.failures,
        open_s=breaker.open_s,
        opened_s=now_s - breaker.opened_at_s,
    )


def merge(breaker: Breaker, other: BreakerSnapshot, written_s: float) -> Breaker:
    """Adopt another replica's state if its epoch is later. Each replica sends its own trial when the open time ends."""
    if other.epoch <= breaker.epoch:
        return breaker
    if other.state is BreakerState.CLOSED:
        return Breaker(epoch=other.epoch)
    return Breaker(
        state=BreakerState.OPEN,
        epoch=other.epoch,
        failures=other.failures,
        open_s=other.open_s,
        opened_at_s=written_s - other.opened_s,
    )


def _entered(breaker: Breaker, state: BreakerState, now_s: float, rule: BreakerRule) -> Breaker:
    if state is BreakerState.CLOSED:
        return reset(breaker)
    if state is BreakerState.HALF_OPEN:
        return replace(breaker, state=state, trial_at_s=None)
    failed_trial = breaker.state is BreakerState.HALF_OPEN
    open_s = min(2 * breaker.open_s, rule.open_max_s) if failed_trial else rule.open_s
    epoch = breaker.epoch + (2 if failed_trial else 1)
    return Breaker(state=state, epoch=epoch, failures=breaker.failures, open_s=open_s, opened_at_s=now_s)
