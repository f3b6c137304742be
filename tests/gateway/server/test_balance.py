"""Which process gets a connection."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.server.balance import WINDOW, Balance

COUNTS = st.dictionaries(st.integers(0, 20), st.integers(0, 500), min_size=1, max_size=8)


def send(balance: Balance, counts: dict[int, int]) -> int:
    """Pick a process, and send it a connection."""
    picked = balance.pick(counts)
    counts[picked] += 1
    balance.sent(picked)
    return picked


@given(counts=COUNTS, more=st.integers(0, 200))
def test_of_64_connections_no_process_gets_more_than_one_and_a_half_shares(counts: dict[int, int], more: int) -> None:
    balance, picks = Balance(), []
    for _ in range(WINDOW + more):
        picks.append(send(balance, counts))
    for start in range(more + 1):
        most = max(Counter(picks[start : start + WINDOW]).values())
        assert most <= max(1.5 * WINDOW / len(counts), 1)


@given(counts=COUNTS)
def test_the_least_loaded_process_is_picked_first_and_all_end_up_alike(counts: dict[int, int]) -> None:
    balance = Balance()
    assert counts[balance.pick(counts)] == min(counts.values())
    for _ in range(20_000 if max(counts.values()) - min(counts.values()) > 1 else 0):
        send(balance, counts)
        if max(counts.values()) - min(counts.values()) <= 1:
            break
    assert max(counts.values()) - min(counts.values()) <= 1


def test_equally_loaded_processes_take_turns() -> None:
    balance = Balance()
    assert Counter(send(balance, {1: 5, 2: 5, 3: 5}) for _ in range(30)) == {1: 10, 2: 10, 3: 10}


def test_a_process_that_could_not_be_sent_a_connection_has_not_had_its_turn() -> None:
    balance, counts = Balance(), {1: 0, 2: 100}
    for _ in range(WINDOW):
        assert balance.pick(counts) == 1  # each time in vain
    for _ in range(8):
        balance.sent(2)
    assert send(balance, counts) == 1
