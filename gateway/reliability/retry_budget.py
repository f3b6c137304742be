"""Retry budgets: limit retries and hedges to a share of ordinary attempts, so that they cannot become a storm.

Every ordinary attempt deposits a share of an extra one, and each extra attempt withdraws one (retry budgets, as in
Finagle and Envoy; for hedges: Dean and Barroso 2013, "The Tail at Scale"). So extras <= share x ordinary at any moment.

Replicas share their balances without coordination: each spends only its own balance, and transfers whole extras to
replicas with less (escrow, O'Neil 1986; as a replicated type: Balegas et al. 2015, "Extending Eventually Consistent
Cloud Databases for Enforcing Numeric Invariants"). A transfer is deducted before it is published, so all replicas
together never spend more than they earned together, even if messages are lost.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import Final, Generic, TypeVar

from gateway.reliability.replication import RetryBudgetSnapshot

MAX_BALANCE: Final = 10.0  # of all replicas together: a quiet night must not pay for a storm in the morning
_EPSILON: Final = 1e-9  # for rounding: ten tenths are one
_EMPTY: Final = RetryBudgetSnapshot(balance=0.0)

Key = TypeVar("Key", bound=Hashable)


class RetryBudget:
    """One replica's budget. It starts empty, so that even the first extra attempt is earned."""

    __slots__ = ("_balance", "_limit", "_peers", "_received", "_sent")

    def __init__(self) -> None:
        self._balance = 0.0
        self._limit = MAX_BALANCE
        self._peers = frozenset[str]()  # of the last merge
        # Totals of transfers by replica, kept for the life of the process: forgetting one would credit it twice.
        self._sent = Counter[str]()
        self._received = Counter[str]()

    def deposit(self, share: float) -> None:
        """Add the share of one ordinary attempt."""
        self._balance = max(self._balance, min(self._balance + share, self._limit))  # transfers may exceed the limit

    def withdraw(self) -> bool:
        """Pay for one extra attempt; False if the balance is too low."""
        if self._balance < 1.0 - _EPSILON:
            return False
        self._balance -= 1.0
        return True

    def snapshot(self) -> RetryBudgetSnapshot:
        """The state to send to other replicas. It omits replicas that have ended, so that it does not grow without
        bound."""
        return RetryBudgetSnapshot(
            balance=self._balance, sent=self._of_peers(self._sent), received=self._of_peers(self._received)
        )

    def _of_peers(self, totals: Counter[str]) -> tuple[tuple[str, int], ...]:
        return tuple((name, totals[name]) for name in sorted(self._peers) if totals[name])

    def merge(self, me: str, peers: Sequence[tuple[str, RetryBudgetSnapshot]]) -> None:
        """Credit new transfers to this replica (`me`), and send transfers to peers with a lower balance."""
        self._peers = frozenset(name for name, _ in peers)
        for name, snapshot in peers:
            transfer = dict(snapshot.sent).get(me, 0) - self._received[name]
            if transfer > 0:
                self._balance += transfer
                self._received[name] += transfer
        balances = sorted((self._balance_of(me, name, snapshot), name) for name, snapshot in peers)
        self._limit = max(1.0, MAX_BALANCE / (1 + len(balances)))
        if self._balance + sum(balance for balance, _ in balances) > MAX_BALANCE:  # earned before the replicas met
            self._balance = min(self._balance, self._limit)
        self._send(balances)

    def _balance_of(self, me: str, name: str, snapshot: RetryBudgetSnapshot) -> float:
        """A peer's balance after it has received all our transfers."""
        return snapshot.balance + max(0, self._sent[name] - dict(snapshot.received).get(me, 0))

    def _send(self, balances: Sequence[tuple[float, str]]) -> None:
        """Send half the difference, in whole extras: fractions would leave several replicas with less than one each."""
        for balance, name in balances:
            transfer = int((self._balance - balance + _EPSILON) // 2)
            if transfer < 1:
                return
            self._balance -= transfer
            self._sent[name] += transfer


class RetryBudgets(Generic[Key]):
    """One budget for every target, or for every lane."""

    def __init__(self) -> None:
        self._budgets: defaultdict[Key, RetryBudget] = defaultdict(RetryBudget)

    def __getitem__(self, key: Key) -> RetryBudget:
        return self._budgets[key]

    def snapshot(self) -> tuple[tuple[Key, RetryBudgetSnapshot], ...]:
        """The state of all budgets to send to other replicas."""
        return tuple((key, budget.snapshot()) for key, budget in self._budgets.items())

    def merge(self, me: str, peers: Sequence[tuple[str, Sequence[tuple[Key, RetryBudgetSnapshot]]]]) -> None:
        """Merge the peers' budgets. A budget that a replica has not used yet counts as empty."""
        snapshots = [(name, dict(budgets)) for name, budgets in peers]
        for key in {*self._budgets, *(key for _, budgets in snapshots for key in budgets)}:
            self._budgets[key].merge(me, [(name, budgets.get(key, _EMPTY)) for name, budgets in snapshots])
