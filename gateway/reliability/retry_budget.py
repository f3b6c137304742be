"""Extra attempts as a share of ordinary ones: what keeps hedges and retries from becoming a storm.

Every ordinary attempt earns a share of an extra one, and each extra one costs a whole (retry budgets, as in Finagle
and Envoy; for hedges: Dean and Barroso 2013, "The Tail at Scale"). So extras <= share x ordinary at any moment.

Replicas share what is saved without asking each other first: each spends only what is in its own purse, and whoever has
more gives whole extras to who has less (escrow, O'Neil 1986; as a replicated type: Balegas et al. 2015, "Extending
Eventually Consistent Cloud Databases for Enforcing Numeric Invariants"). A gift leaves the giver's purse before anybody
hears of it, so all together never spend more than all together earned, whatever gets lost on the way. Knows neither
clock nor target.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import Final, Generic, TypeVar

from gateway.reliability.replication import RetryBudgetSnapshot

MOST_SAVED: Final = 10.0  # of all replicas together: a quiet night must not pay for a storm in the morning
_SLACK: Final = 1e-9  # ten tenths are one
_EMPTY: Final = RetryBudgetSnapshot(saved=0.0)

Key = TypeVar("Key", bound=Hashable)


class RetryBudget:
    """One replica's purse. Begins empty: the first extra attempt has been earned as well."""

    __slots__ = ("_given", "_most", "_others", "_saved", "_taken")

    def __init__(self) -> None:
        self._saved = 0.0
        self._most = MOST_SAVED
        self._others = frozenset[str]()  # heard of last
        # Whole extras ever given and taken, by replica. Kept as long as the process lives: who forgets takes twice.
        self._given = Counter[str]()
        self._taken = Counter[str]()

    def earn(self, share: float) -> None:
        """An ordinary attempt was made."""
        self._saved = max(self._saved, min(self._saved + share, self._most))  # what others gave may exceed it

    def spend(self) -> bool:
        """May an extra attempt be made? If so, it is paid for."""
        if self._saved < 1.0 - _SLACK:
            return False
        self._saved -= 1.0
        return True

    def snapshot(self) -> RetryBudgetSnapshot:
        """What to tell the other replicas; nothing of those that are gone: reports must not grow with every restart."""
        given, taken = self._of_others(self._given), self._of_others(self._taken)
        return RetryBudgetSnapshot(saved=self._saved, given=given, taken=taken)

    def _of_others(self, counts: Counter[str]) -> tuple[tuple[str, int], ...]:
        return tuple((name, counts[name]) for name in sorted(self._others) if counts[name])

    def merge(self, me: str, heard: Sequence[tuple[str, RetryBudgetSnapshot]]) -> None:
        """Take what others gave to the replica `me`, once, and give to those who have less."""
        self._others = frozenset(name for name, _ in heard)
        for name, snapshot in heard:
            gift = dict(snapshot.given).get(me, 0) - self._taken[name]
            if gift > 0:
                self._saved += gift
                self._taken[name] += gift
        balances = sorted((self._balance(me, name, snapshot), name) for name, snapshot in heard)
        self._most = max(1.0, MOST_SAVED / (1 + len(balances)))
        if self._saved + sum(balance for balance, _ in balances) > MOST_SAVED:  # earned before they had met
            self._saved = min(self._saved, self._most)
        self._give(balances)

    def _balance(self, me: str, name: str, snapshot: RetryBudgetSnapshot) -> float:
        """What another will have once it has heard of all our gifts."""
        return snapshot.saved + max(0, self._given[name] - dict(snapshot.taken).get(me, 0))

    def _give(self, others: Sequence[tuple[float, str]]) -> None:
        """Half the difference, in whole extras: fractions would leave several with less than one each."""
        for balance, name in others:
            gift = int((self._saved - balance + _SLACK) // 2)
            if gift < 1:
                return
            self._saved -= gift
            self._given[name] += gift


class RetryBudgets(Generic[Key]):
    """A purse for every target, or for every lane."""

    def __init__(self) -> None:
        self._purses: defaultdict[Key, RetryBudget] = defaultdict(RetryBudget)

    def __getitem__(self, key: Key) -> RetryBudget:
        return self._purses[key]

    def snapshot(self) -> tuple[tuple[Key, RetryBudgetSnapshot], ...]:
        """All of them."""
        return tuple((key, purse.snapshot()) for key, purse in self._purses.items())

    def merge(self, me: str, heard: Sequence[tuple[str, Sequence[tuple[Key, RetryBudgetSnapshot]]]]) -> None:
        """What others said of theirs. Who has not used one yet has an empty one, and so have we."""
        told = [(name, dict(purses)) for name, purses in heard]
        for key in {*self._purses, *(key for _, purses in told for key in purses)}:
            self._purses[key].merge(me, [(name, purses.get(key, _EMPTY)) for name, purses in told])
