"""The last decisions by id, for whoever asks why. Bounded; knows nothing of HTTP."""

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable

from gateway.decision import Decision, Mirrored
from gateway.ports import Observer

_log = logging.getLogger("gateway")


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
    """Several Observers as one. One that raises, against its word, is told to `failed` by its name and nobody else is
    any the worse for it: by then an answer is on its way, and the other observers have yet to hear of it."""

    def __init__(self, observers: Iterable[Observer], failed: Callable[[str], None]) -> None:
        self._observers = tuple(observers)
        self._failed = failed
        self._complained = set[str]()

    def decided(self, decision: Decision) -> None:
        """Tell all, in order."""
        for observer in self._observers:
            try:
                observer.decided(decision)
            except Exception:  # noqa: BLE001 - whatever it is, the answer must not pay for it
                self._suffer(observer)

    def mirrored(self, mirrored: Mirrored) -> None:
        """Tell all, in order."""
        for observer in self._observers:
            try:
                observer.mirrored(mirrored)
            except Exception:  # noqa: BLE001 - as above
                self._suffer(observer)

    def _suffer(self, observer: Observer) -> None:
        """Count every time, log once: it may happen at every request."""
        name = type(observer).__name__
        if name not in self._complained:
            self._complained.add(name)
            _log.exception("%s failed to take note of a decision; further failures are only counted", name)
        with contextlib.suppress(Exception):  # it may be the one that counts
            self._failed(name)
