"""The circuit breaker: its transitions and its times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.enums import BreakerState
from gateway.reliability.breaker import CLOSED, TABLE, Breaker, BreakerEvent, BreakerRule, allow_request, step

RULE = BreakerRule(failures=3, open_s=5.0, open_max_s=15.0)
OK, FAILURE = BreakerEvent.OK, BreakerEvent.FAILURE


def after(*events: BreakerEvent, now_s: float = 0.0) -> Breaker:
    breaker = CLOSED
    for event in events:
        breaker = step(breaker, event, now_s, RULE)
    return breaker


def test_every_state_can_be_left() -> None:
    assert {state for state, _ in TABLE} == set(BreakerState)


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([FAILURE, FAILURE], BreakerState.CLOSED),
        ([FAILURE, FAILURE, FAILURE], BreakerState.OPEN),
        ([FAILURE, FAILURE, OK, FAILURE, FAILURE], BreakerState.CLOSED),
        ([FAILURE, FAILURE, FAILURE, OK], BreakerState.OPEN),
    ],
)
def test_only_consecutive_failures_open_it(events: list[BreakerEvent], state: BreakerState) -> None:
    assert after(*events).state is state


def test_open_passes_nothing_until_the_open_time_is_over() -> None:
    breaker = after(FAILURE, FAILURE, FAILURE)
    assert allow_request(breaker, 4.99, RULE)[0] is False
    assert allow_request(breaker, 5.0, RULE)[0] is True


def test_half_open_passes_one_trial() -> None:
    passed, breaker = allow_request(after(FAILURE, FAILURE, FAILURE), 5.0, RULE)
    assert passed
    assert breaker.state is BreakerState.HALF_OPEN
    assert allow_request(breaker, 5.1, RULE)[0] is False


def test_a_trial_without_an_outcome_expires() -> None:
    _, breaker = allow_request(after(FAILURE, FAILURE, FAILURE), 5.0, RULE)
    assert allow_request(breaker, 10.0, RULE)[0] is True


def test_a_successful_trial_closes_the_breaker_and_resets_the_failures() -> None:
    _, breaker = allow_request(after(FAILURE, FAILURE, FAILURE), 5.0, RULE)
    assert step(breaker, OK, 5.1, RULE) == Breaker(epoch=2)


def test_failed_trials_double_the_time_up_to_the_limit() -> None:
    breaker, now_s, waits = after(FAILURE, FAILURE, FAILURE), 0.0, []
    for _ in range(4):
        waits.append(breaker.open_s)
        now_s += breaker.open_s
        _, breaker = allow_request(breaker, now_s, RULE)
        breaker = step(breaker, FAILURE, now_s, RULE)
        assert breaker.state is BreakerState.OPEN
    assert waits == [5.0, 10.0, 15.0, 15.0]


def test_late_failures_of_earlier_attempts_do_not_prolong_the_open_time() -> None:
    breaker = after(FAILURE, FAILURE, FAILURE)
    assert step(breaker, FAILURE, 4.0, RULE) is breaker


@given(st.lists(st.tuples(st.sampled_from(["ok", "failure", "ask"]), st.floats(0, 30)), max_size=60))
def test_it_never_stays_open_longer_than_its_limit_and_opens_only_after_enough_failures(
    happenings: list[tuple[str, float]],
) -> None:
    breaker, now_s, in_a_row = CLOSED, 0.0, 0
    for kind, pause_s in happenings:
        now_s += pause_s
        was = breaker.state
        if kind == "ask":
            passed, breaker = allow_request(breaker, now_s, RULE)
            assert passed or now_s < max(breaker.opened_at_s, breaker.trial_at_s or 0.0) + RULE.open_max_s
            assert passed or was is not BreakerState.CLOSED
        else:
            in_a_row = in_a_row + 1 if kind == "failure" else 0
            breaker = step(breaker, BreakerEvent(kind), now_s, RULE)
            if was is BreakerState.CLOSED and breaker.state is BreakerState.OPEN:
                assert in_a_row >= RULE.failures
