"""The latest decisions by id, for the admin port."""

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Final

from gateway.decision import Decision, Mirrored
from gateway.ports import Observer
from gateway.telemetry.packed_decision import pack, unpack

_AT_ONCE: Final = 32  # decisions that are packed together
_log = logging.getLogger("gateway")


class RecentDecisions:
    """An Observer that keeps the last `capacity` decisions. `replica` is the name of this gateway, if it has one."""

    def __init__(self, capacity: int, replica: str | None = None) -> None:
        self.capacity, self.replica = capacity, replica
        self._new: list[Decision] = []
        self._packed: deque[bytes | Decision] = deque(maxlen=capacity)
        self._ids: deque[str] = deque(maxlen=capacity)  # of the packed ones: unpacking all to find one takes too long
        self.count = 0  # of all decisions so far

    def decided(self, decision: Decision) -> None:
        """See `ports.Observer`."""
        self.count += 1
        self._new.append(decision)
        if len(self._new) >= _AT_ONCE:
            self._packed.extend([pack(each) or each for each in self._new])
            self._ids.extend([each.query_id for each in self._new])
            self._new.clear()

    def mirrored(self, mirrored: Mirrored) -> None:
        """Shadows are not kept."""

    def latest(self, limit: int) -> list[Decision]:
        """The newest decisions, at most `limit`, newest first."""
        return [_unpacked(each) for each in islice(self._newest_first(), limit)]

    def get(self, query_id: str) -> Decision | None:
        """The decision with this id, if it is still kept."""
        ids = chain((each.query_id for each in reversed(self._new)), reversed(self._ids))
        found = (each for known, each in zip(ids, self._newest_first(), strict=False) if known == query_id)
        return next(map(_unpacked, found), None)

    def _newest_first(self) -> Iterator[bytes | Decision]:
        return islice(chain(reversed(self._new), reversed(self._packed)), self.capacity)


def _unpacked(kept: bytes | Decision) -> Decision:
    return unpack(kept) if isinstance(kept, bytes) else kept


class Observers:
    """Several Observers as one. If one raises, which it must not, `failed` receives its name and the others still
    run: the response is already on its way."""

    def __init__(self, observers: Iterable[Observer], failed: Callable[[str], None]) -> None:
        self._observers = tuple(observers)
        self._failed = failed
        self._logged = set[str]()

    def decided(self, decision: Decision) -> None:
        """Call all, in order."""
        for observer in self._observers:
            try:
                observer.decided(decision)
            except Exception:  # noqa: BLE001 - an observer must not break the response
                self._record_failure(observer)

    def mirrored(self, mirrored: Mirrored) -> None:
        """Call all, in order."""
        for observer in self._observers:
            try:
                observer.mirrored(mirrored)
            except Exception:  # noqa: BLE001 - as above
                self._record_failure(observer)

    def _record_failure(self, observer: Observer) -> None:
        """Count every failure but log only the first: it may happen with every request."""
        name = type(observer).__name__
        if name not in self._logged:
            self._logged.add(name)
            _log.exception("observer %s failed; further failures are counted but not logged", name)
        with contextlib.suppress(Exception):  # the failing observer may be the one that counts
            self._failed(name)
