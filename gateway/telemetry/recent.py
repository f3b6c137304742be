"""The last decisions by id, for whoever asks why. Bounded; knows nothing of HTTP."""

from collections import OrderedDict
from collections.abc import Iterable

from gateway.decisions import Decision, Mirrored
from gateway.ports import Observer


class RecentDecisions:
    """An Observer that remembers."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._known: OrderedDict[str, Decision] = OrderedDict()

    def decided(self, decision: Decision) -> None:
        """See `ports.Observer`."""
        self._known[decision.query_id] = decision
        if len(self._known) > self._capacity:
            self._known.popitem(last=False)

    def mirrored(self, mirrored: Mirrored) -> None:
        """Nothing that a client asks for."""

    def get(self, query_id: str) -> Decision | None:
        """The decision of this id, if it is among the last."""
        return self._known.get(query_id)


class Observers:
    """Several Observers as one."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = tuple(observers)

    def decided(self, decision: Decision) -> None:
        """Tell all, in order."""
        for observer in self._observers:
            observer.decided(decision)

    def mirrored(self, mirrored: Mirrored) -> None:
        """Tell all, in order."""
        for observer in self._observers:
            observer.mirrored(mirrored)
