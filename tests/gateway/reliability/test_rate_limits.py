"""Rate limits: never more than the quota, which refills evenly."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.policy_types import Limit
from gateway.reliability.rate_limits import KeyUsage
from gateway.reliability.replication import KeyUsageSnapshot

SIX = Limit(requests_per_minute=6)


def admitted_count(usage: KeyUsage, limit: Limit, now_s: float, times: int = 20, key: str | None = "ann") -> int:
    return sum(usage.acquire(key, limit, now_s) is None for _ in range(times))


def test_a_minute_of_quota_may_be_used_at_once_and_refills_evenly() -> None:
    usage = KeyUsage()
    assert admitted_count(usage, SIX, 100.0) == 6
    assert admitted_count(usage, SIX, 109.9) == 0
    assert admitted_count(usage, SIX, 110.1) == 1
    assert admitted_count(usage, SIX, 400.0) == 6


def test_a_request_after_the_returned_wait_is_admitted() -> None:
    usage = KeyUsage()
    admitted_count(usage, SIX, 0.0)
    wait_s = usage.acquire("ann", SIX, 3.0)
    assert wait_s is not None
    assert 6.9 < wait_s < 7.1
    assert usage.acquire("ann", SIX, 3.0 + wait_s + 1e-6) is None


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 20)), max_size=40), st.integers(1, 30))
def test_in_any_interval_usage_is_at_most_a_burst_plus_the_rate(steps: list[tuple[float, int]], rate: int) -> None:
    usage, limit, now_s, admitted = KeyUsage(), Limit(requests_per_minute=rate), 0.0, list[tuple[float, int]]()
    for after_s, wanted in steps:
        now_s += after_s
        admitted.append((now_s, admitted_count(usage, limit, now_s, wanted)))
    for first, (began_s, _) in enumerate(admitted):
        for last in range(first, len(admitted)):
            total = sum(count for _, count in admitted[first : last + 1])
            assert total <= rate + (admitted[last][0] - began_s) * rate / 60 + 1e-6


def test_tokens_are_counted_at_the_end_of_a_response() -> None:
    usage, limit = KeyUsage(), Limit(tokens_per_minute=100)
    assert usage.acquire("ann", limit, 0.0) is None
    usage.release("ann", 250)  # overfills the bucket: tokens are known only at the end
    assert usage.acquire("ann", limit, 0.0) == 90.0
    assert usage.acquire("ann", limit, 91.0) is None


def test_concurrent_requests_are_limited_and_released_when_they_end() -> None:
    usage, limit = KeyUsage(), Limit(max_in_flight=2)
    assert admitted_count(usage, limit, 0.0) == 2
    usage.release("ann", 0)
    assert admitted_count(usage, limit, 0.0) == 1


def test_each_key_has_its_own_limit_and_all_keyless_requests_share_one() -> None:
    usage = KeyUsage()
    assert [admitted_count(usage, SIX, 0.0, key=key) for key in ("ann", "bob", None, None)] == [6, 6, 6, 0]


def exchange(usage: list[KeyUsage], now_s: float) -> None:
    snapshots = [(str(number), each.snapshot()) for number, each in enumerate(usage)]
    for number, each in enumerate(usage):
        each.merge(now_s, [one for one in snapshots if one[0] != str(number)])


def test_usage_at_one_replica_counts_at_the_others() -> None:
    one, other = KeyUsage(), KeyUsage()
    admitted_count(one, SIX, 0.0, times=1)
    exchange([one, other], 0.0)  # the first exchange
    assert admitted_count(one, SIX, 0.0, times=3) == 3
    for _ in range(3):
        exchange([one, other], 0.5)  # a repeated snapshot counts once
    assert admitted_count(other, SIX, 0.5) == 3  # the one used before the first exchange does not count
    exchange([one, other], 1.0)
    assert admitted_count(one, SIX, 1.0) == admitted_count(other, SIX, 1.0) == 0


def test_requests_in_flight_at_peers_count_while_the_peers_are_alive() -> None:
    one, other, limit = KeyUsage(), KeyUsage(), Limit(max_in_flight=3)
    admitted_count(one, limit, 0.0, times=2)
    exchange([one, other], 0.0)
    assert admitted_count(other, limit, 1.0) == 1
    assert admitted_count(other, limit, 60.0) == 2  # the peer's snapshot has expired


def test_replicas_that_are_gone_do_not_fill_the_memory() -> None:
    usage = KeyUsage()
    for number in range(1000):
        usage.merge(0.0, [(str(number), [("ann", KeyUsageSnapshot(requests=1, tokens=1, in_flight=0))])])
    assert len(usage._counters["ann"].peers) <= 64
