"""A target's circuit breaker: a table of transitions, and one pure step over a frozen record.

Knows no target, no clock and no store, so it means the same in one process and shared between replicas.
Words are electrical: closed lets requests through, open does not.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from gateway.enums import BreakerState
from gateway.reliability.replication import BreakerSnapshot


class BreakerEvent(StrEnum):
    """What happened to the target, or to the time since."""

    OK = "ok"  # an attempt was answered
    FAULT = "fault"  # an attempt met an upstream error
    TRIP = "trip"  # the faults in a row reached the limit
    COOLED = "cooled"  # the time of being open is over


# Whatever is not listed leaves the state as it is.
TABLE: Final[dict[tuple[BreakerState, BreakerEvent], BreakerState]] = {
    (BreakerState.CLOSED, BreakerEvent.TRIP): BreakerState.OPEN,
    (BreakerState.OPEN, BreakerEvent.COOLED): BreakerState.HALF_OPEN,
    (BreakerState.HALF_OPEN, BreakerEvent.OK): BreakerState.CLOSED,
    (BreakerState.HALF_OPEN, BreakerEvent.FAULT): BreakerState.OPEN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRule:
    """When to open and for how long. Each failed trial doubles the time, up to the limit."""

    faults: int = 5
    open_s: float = 2.0
    open_max_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """One target's breaker. `trial_at_s` is when the one request of half_open set out, None while it has not.

    `era` grows with every opening and closing and is odd while not closed; between replicas the larger is the later.
    """

    state: BreakerState = BreakerState.CLOSED
    era: int = 0
    faults: int = 0
    open_s: float = 0.0
    opened_at_s: float = 0.0
    trial_at_s: float | None = None


CLOSED: Final = Breaker()


def step(breaker: Breaker, event: BreakerEvent, now_s: float, rule: BreakerRule) -> Breaker:
    """The breaker after `event`. Only OK and FAULT are told from outside; TRIP and COOLED are found here."""
    if breaker.state is BreakerState.CLOSED:
        if event is BreakerEvent.OK:
            return replace(breaker, faults=0) if breaker.faults else breaker
        if event is BreakerEvent.FAULT:
            breaker = replace(breaker, faults=breaker.faults + 1)
            event = BreakerEvent.TRIP if breaker.faults >= rule.faults else event
    state = TABLE.get((breaker.state, event), breaker.state)
    if state is breaker.state:
        return breaker
    return _entered(breaker, state, now_s, rule)


def ask(breaker: Breaker, now_s: float, rule: BreakerRule) -> tuple[bool, Breaker]:
    """May a request pass? With the breaker to keep: in half_open one trial passes, and it is noted.

    Ask this last, after everything else that could turn the request away: the trial noted here must set out.
    A trial whose outcome never came (its client left) no longer bars the way after another `open_s`.
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


def closed(breaker: Breaker) -> Breaker:
    """The breaker without its past."""
    return Breaker(era=breaker.era + breaker.era % 2)


def snapshot(breaker: Breaker, now_s: float) -> BreakerSnapshot:
    """What to tell other replicas."""
    return BreakerSnapshot(
        era=breaker.era,
        state=breaker.state,
        faults=breaker.faults,
        open_s=breaker.open_s,
        opened_s=now_s - breaker.opened_at_s,
    )


def follow(breaker: Breaker, heard: BreakerSnapshot, told_s: float) -> Breaker:
    """Take over what another replica knows later. Each replica sends a trial of its own when the time is over."""
    if heard.era <= breaker.era:
        return breaker
    if heard.state is BreakerState.CLOSED:
        return Breaker(era=heard.era)
    return Breaker(
        state=BreakerState.OPEN,
        era=heard.era,
        faults=heard.faults,
        open_s=heard.open_s,
        opened_at_s=told_s - heard.opened_s,
    )


def _entered(breaker: Breaker, state: BreakerState, now_s: float, rule: BreakerRule) -> Breaker:
    if state is BreakerState.CLOSED:
        return closed(breaker)
    if state is BreakerState.HALF_OPEN:
        return replace(breaker, state=state, trial_at_s=None)
    failed_trial = breaker.state is BreakerState.HALF_OPEN
    open_s = min(2 * breaker.open_s, rule.open_max_s) if failed_trial else rule.open_s
    era = breaker.era + (2 if failed_trial else 1)
    return Breaker(state=state, era=era, faults=breaker.faults, open_s=open_s, opened_at_s=now_s)
