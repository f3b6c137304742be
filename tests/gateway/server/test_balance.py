"""Which process gets a connection."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.server.balance import WINDOW, Balance

COUNTS = st.dictionaries(st.integers(0, 20), st.integers(0, 500), min_size=1, max_size=8)


@given(counts=COUNTS, more=st.integers(0, 200))
def test_of_64_connections_no_process_gets_more_than_one_and_a_half_shares(counts: dict[int, int], more: int) -> None:
    balance, picks = Balance(), []
    for _ in range(WINDOW + more):
        picks.append(balance.pick(counts))
        counts[picks[-1]] += 1
    for start in range(more + 1):
        most = max(Counter(picks[start : start + WINDOW]).values())
        assert most <= max(1.5 * WINDOW / len(counts), 1)


@given(counts=COUNTS)
def test_the_least_loaded_process_is_picked_first_and_all_end_up_alike(counts: dict[int, int]) -> None:
    balance = Balance()
    assert counts[balance.pick(counts)] == min(counts.values())
    for _ in range(20_000 if max(counts.values()) - min(counts.values()) > 1 else 0):
        picked = balance.pick(counts)
        counts[picked] += 1
        if max(counts.values()) - min(counts.values()) <= 1:
            break
    assert max(counts.values()) - min(counts.values()) <= 1


def test_equally_loaded_processes_take_turns() -> None:
    balance = Balance()
    assert Counter(balance.pick({1: 5, 2: 5, 3: 5}) for _ in range(30)) == {1: 10, 2: 10, 3: 10}
