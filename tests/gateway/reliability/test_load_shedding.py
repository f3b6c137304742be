"""Which requests an overloaded gateway refuses."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from gateway.reliability.load_shedding import LoadShedder, SheddingRule

RULE = SheddingRule()
SERVICE_S = 0.001
DELAYS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.5)), max_size=60)


def offered(load: float, seconds: float, *, burst: int = 0) -> tuple[list[float], list[float]]:
    """Delays of served and of refused requests at a server of one request per millisecond, first in first out."""
    shedder, waiting = LoadShedder(RULE), deque([0.0] * burst)
    served, refused = [], []
    next_s = now_s = 0.0
    while now_s < seconds:
        while next_s <= now_s:
            room = shedder.room(now_s)
            if room is None or len(waiting) < room:
                waiting.append(next_s)
            else:
                shedder.refuse(now_s)
                refused.append(0.0)
            next_s += SERVICE_S / load
        while waiting:
            delay_s = now_s - waiting.popleft()
            if shedder.admits(delay_s, now_s):
                served.append(delay_s)
                break
            refused.append(delay_s)
        now_s += SERVICE_S
    return served, refused


def test_a_load_below_the_capacity_is_never_refused() -> None:
    assert offered(0.95, 20)[1] == []


def test_a_burst_of_a_second_is_served_completely() -> None:
    served, refused = offered(0.2, 5, burst=1000)
    assert refused == []
    assert max(served) > 0.9


def test_half_as_much_again_is_answered_at_the_capacity_and_soon_quickly() -> None:
    served, refused = offered(1.5, 20)
    assert len(served) > 0.98 * 20 / SERVICE_S
    assert sorted(served)[int(0.9 * len(served))] <= RULE.overloaded_delay_s
    assert max(served) < 0.7  # before the overload was noticed
    assert len(refused) > 0.3 * 20 / SERVICE_S
    assert refused.count(0.0) > 0.9 * len(refused)  # at once, not after they waited in vain


def test_room_is_limited_under_overload_only_and_follows_the_rate() -> None:
    shedder = LoadShedder(RULE)
    assert shedder.room(0.0) is None
    for served in range(100):
        assert shedder.admits(0.0, served * SERVICE_S)
    shedder.refuse(0.1)
    assert 6 <= (shedder.room(0.1) or 0) <= 10  # of the 10 that are served within 10 ms
    assert shedder.room(0.9) == 1
    assert shedder.room(0.1 + RULE.calm_s) is None


@given(delays=DELAYS)
def test_a_request_that_waited_briefly_is_always_served_and_one_that_waited_too_long_never(
    delays: list[tuple[float, float]],
) -> None:
    shedder, now_s = LoadShedder(RULE), 0.0
    for step_s, delay_s in delays:
        now_s += step_s
        admitted = shedder.admits(delay_s, now_s)
        assert admitted or delay_s > RULE.overloaded_delay_s
        assert not admitted or delay_s <= RULE.max_delay_s


def test_overload_ends_a_second_after_the_last_refusal() -> None:
    shedder, long_s, short_s = LoadShedder(RULE), RULE.target_s + 0.01, RULE.overloaded_delay_s + 0.01
    assert shedder.admits(long_s, 0.0)
    assert shedder.admits(long_s, 0.9)
    assert not shedder.admits(long_s, 1.0)
    assert not shedder.admits(short_s, 1.9)
    assert not shedder.admits(short_s, 2.8)
    assert shedder.admits(RULE.overloaded_delay_s, 3.7)
    assert shedder.admits(short_s, 3.9)


def test_one_request_in_time_shows_that_it_was_a_burst() -> None:
    shedder, long_s = LoadShedder(RULE), RULE.target_s + 0.01
    for second in range(10):
        assert shedder.admits(long_s, second)
        assert shedder.admits(long_s, second + 0.8)
        assert shedder.admits(RULE.target_s, second + 0.9)
