"""Retry budgets: extra attempts stay within their share, whatever the order of events."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from gateway.reliability.replication import RetryBudgetSnapshot
from gateway.reliability.retry_budget import MAX_BALANCE, RetryBudget, RetryBudgets


@given(share=st.floats(0, 0.5), events=st.lists(st.booleans(), max_size=300))
def test_extra_attempts_never_exceed_their_share(share: float, events: list[bool]) -> None:
    budget, earned, spent = RetryBudget(), 0, 0
    for is_ordinary in events:
        if is_ordinary:
            budget.deposit(share)
            earned += 1
        else:
            spent += budget.withdraw()
        assert spent <= share * earned + 1e-6


def test_five_requests_at_a_fifth_pay_for_exactly_one_retry() -> None:
    budget = RetryBudget()
    for _ in range(5):
        assert not budget.withdraw()
        budget.deposit(0.2)
    assert [budget.withdraw(), budget.withdraw()] == [True, False]


def test_the_balance_is_limited_after_a_long_quiet_time() -> None:
    budget = RetryBudget()
    for _ in range(10_000):
        budget.deposit(0.2)
    assert sum(budget.withdraw() for _ in range(100)) == MAX_BALANCE


class Replicas:
    """Three budgets and all their snapshots: a merged one may be old, repeated or missing."""

    def __init__(self, count: int = 3) -> None:
        self.budgets = [RetryBudget() for _ in range(count)]
        self.sent: defaultdict[int, list[RetryBudgetSnapshot]] = defaultdict(list)

    def publish(self, who: int) -> None:
        self.sent[who].append(self.budgets[who].snapshot())

    def merge(self, who: int, back: int = 0) -> None:
        """Merge the peers' snapshots, `back` versions old."""
        snapshots = [(str(other), sent[-1 - back % len(sent)]) for other, sent in self.sent.items() if other != who]
        self.budgets[who].merge(str(who), snapshots)

    def exchange(self, times: int = 1) -> None:
        for who in [*range(len(self.budgets))] * times:
            self.publish(who)
            self.merge(who)

    def spend_all(self, who: int) -> int:
        return sum(self.budgets[who].withdraw() for _ in range(100))


EVENTS = st.tuples(
    st.sampled_from(["deposit", "deposit", "withdraw", "publish", "merge"]), st.integers(0, 2), st.integers(0, 5)
)


@given(share=st.floats(0.01, 0.5), events=st.lists(EVENTS, max_size=300))
def test_replicas_together_never_exceed_the_share_if_snapshots_are_late_lost_or_repeated(
    share: float, events: list[tuple[str, int, int]]
) -> None:
    replicas, earned, spent = Replicas(), 0, 0
    for name, who, number in events:
        if name == "deposit":
            for _ in range(3 * number):
                replicas.budgets[who].deposit(share)
            earned += 3 * number
        elif name == "withdraw":
            spent += replicas.budgets[who].withdraw()
        elif name == "publish":
            replicas.publish(who)
        else:
            replicas.merge(who, number)
        assert spent <= share * earned + 1e-6
    replicas.exchange(4)  # all transfers in flight arrive, and no more than was earned
    assert spent + sum(map(replicas.spend_all, range(3))) <= share * earned + 1e-6


def test_the_balance_of_one_replica_may_be_withdrawn_at_another() -> None:
    replicas = Replicas(2)
    for _ in range(100):
        replicas.budgets[0].deposit(0.1)
    assert replicas.spend_all(1) == 0
    replicas.exchange(3)
    assert (replicas.spend_all(1), replicas.spend_all(0)) == (5, 5)


def test_one_that_withdraws_receives_transfers_until_nothing_is_left() -> None:
    replicas = Replicas(2)
    for _ in range(100):
        replicas.budgets[0].deposit(0.1)
    found = 0
    for _ in range(8):
        replicas.exchange(2)
        found += replicas.spend_all(1)
    assert found == 9  # half an extra attempt cannot be transferred
    assert replicas.spend_all(0) == 1


def test_replicas_with_equal_balances_make_no_transfers() -> None:
    replicas = Replicas(2)
    for budget in replicas.budgets:
        for _ in range(30):
            budget.deposit(0.1)
    replicas.exchange(5)
    assert all(not budget.snapshot().sent for budget in replicas.budgets)


def test_all_replicas_together_hold_no_more_than_the_maximum_balance() -> None:
    replicas = Replicas(5)
    replicas.exchange()
    for _ in range(50):
        for budget in replicas.budgets:
            for _ in range(20):
                budget.deposit(0.2)
        replicas.exchange()
    assert sum(map(replicas.spend_all, range(5))) <= MAX_BALANCE


def test_with_very_many_replicas_each_may_still_hold_one_extra_attempt() -> None:
    budget = RetryBudget()
    budget.merge("me", [(str(other), RetryBudgetSnapshot(balance=0.5)) for other in range(40)])
    for _ in range(100):
        budget.deposit(0.1)
    assert [budget.withdraw(), budget.withdraw()] == [True, False]


def test_a_transfer_that_is_received_twice_is_credited_once() -> None:
    budget = RetryBudget()
    for _ in range(3):
        budget.merge("me", [("other", RetryBudgetSnapshot(balance=2.0, sent=(("me", 2), ("third", 5))))])
    assert [budget.withdraw() for _ in range(3)] == [True, True, False]


def test_snapshots_do_not_grow_with_every_replica_that_ever_was() -> None:
    budget = RetryBudget()
    for number in range(500):
        for _ in range(30):
            budget.deposit(0.1)
        budget.merge("me", [(f"other {number}", RetryBudgetSnapshot(balance=0.0, sent=(("me", 1),)))])
    snapshot = budget.snapshot()
    assert [name for name, _ in (*snapshot.sent, *snapshot.received)] == ["other 499"] * 2
    budget.merge("me", [("other 3", RetryBudgetSnapshot(balance=50.0, sent=(("me", 1),)))])
    assert budget.snapshot().received == (("other 3", 1),)  # but no transfer is credited twice


def test_every_target_has_its_own_budget_also_if_only_a_peer_used_it() -> None:
    ours = RetryBudgets[str]()
    ours["fast"].deposit(0.5)
    ours.merge("me", [("other", [("quality", RetryBudgetSnapshot(balance=3.0, sent=(("me", 1),)))])])
    assert [ours["fast"].withdraw(), ours["quality"].withdraw()] == [False, True]
    assert sorted(name for name, _ in ours.snapshot()) == ["fast", "quality"]
