"""The latest decisions by id, for the admin port, and the fan-out of decisions to what observes them."""

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final, Protocol

from gateway.decision import Decision, Mirrored
from gateway.enums import AttemptOutcome
from gateway.ports import Observer
from gateway.telemetry.packed_decision import pack, unpack

# One decision between two requests takes almost three times as long as in a loop over several.
_AT_ONCE: Final = 32
_ATTEMPT_OK: Final = AttemptOutcome.OK  # finding a member in its class takes 0.2 µs
_log = logging.getLogger("gateway")


class BatchObserver(Protocol):
    """Receives decisions some time after their requests have ended."""

    def decided_all(self, decisions: Iterable[Decision]) -> None:
        """These requests have ended. After an exception, it is called again with those that it has not taken yet."""
        ...

    def mirrored(self, mirrored: Mirrored) -> None:
        """A shadow attempt has ended."""


class RecentDecisions:
    """A BatchObserver that keeps the last `capacity` decisions. `replica` is the name of this gateway, if any."""

    def __init__(self, capacity: int, replica: str | None = None) -> None:
        self.capacity, self.replica = capacity, replica
        self.before_reading: Callable[[], None] = _nothing  # brings the decisions that wait elsewhere
        self._packed: deque[bytes | Decision] = deque(maxlen=capacity)
        self._ids: deque[str] = deque(maxlen=capacity)  # unpacking all to find one takes too long
        self._count = 0

    @property
    def count(self) -> int:
        """Of all decisions so far."""
        self.before_reading()
        return self._count

    def decided_all(self, decisions: Iterable[Decision]) -> None:
        """See `BatchObserver`."""
        new = list(decisions)
        self._count += len(new)
        self._packed.extend([pack(each) or each for each in new])
        self._ids.extend([each.query_id for each in new])

    def mirrored(self, mirrored: Mirrored) -> None:
        """Shadows are not kept."""

    def latest(self, limit: int) -> list[Decision]:
        """The newest decisions, at most `limit`, newest first."""
        self.before_reading()
        return [_unpacked(each) for each in islice(reversed(self._packed), limit)]

    def get(self, query_id: str) -> Decision | None:
        """The decision with this id, if it is still kept."""
        self.before_reading()
        kept = zip(reversed(self._ids), reversed(self._packed), strict=True)
        return next((_unpacked(each) for known, each in kept if known == query_id), None)


def _nothing() -> None:
    """Nothing waits."""


def _unpacked(kept: bytes | Decision) -> Decision:
    return unpack(kept) if isinstance(kept, bytes) else kept


class Observers:
    """An Observer that hands decisions on: to `at_once` those that failures concern, to `batched` several at a time.

    If one of them raises, which it must not, `failed` receives its name and the others still run: the response is
    already on its way.
    """

    def __init__(
        self,
        batched: Iterable[BatchObserver],
        failed: Callable[[str], None],
        *,
        at_once: Iterable[Observer] = (),
        later: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        """`later` calls a function soon, for decisions that no others follow; None: each is handed on by itself."""
        self._batched, self._at_once = tuple(batched), tuple(at_once)
        self._failed, self._later = failed, later
        self._most = _AT_ONCE if later is not None else 1
        self._is_due = False  # `later` will call `flush`
        self._waiting: list[Decision] = []
        self._logged = set[str]()

    def decided(self, decision: Decision) -> None:
        """See `ports.Observer`."""
        attempts, waiting = decision.attempts, self._waiting
        if len(attempts) != 1 or attempts[0].outcome is not _ATTEMPT_OK or decision.error_source is not None:
            self._decided_at_once(decision)
        waiting.append(decision)
        if len(waiting) >= self._most:
            self.flush()
        elif not self._is_due and self._later is not None:
            self._is_due = True
            self._later(self._on_time)

    def flush(self) -> None:
        """Hand on what waits, before somebody reads it."""
        batch, self._waiting = self._waiting, []
        for observer in self._batched if batch else ():
            left = iter(batch)
            for _ in batch:  # until it has taken all: each may raise
                try:
                    observer.decided_all(left)
                    break
                except Exception:  # noqa: BLE001 - an observer must not break the response
                    self._record_failure(observer)

    def mirrored(self, mirrored: Mirrored) -> None:
        """Call all, in order."""
        every: tuple[Observer | BatchObserver, ...] = (*self._batched, *self._at_once)
        for observer in every:
            try:
                observer.mirrored(mirrored)
            except Exception:  # noqa: BLE001 - as above
                self._record_failure(observer)

    def _decided_at_once(self, decision: Decision) -> None:
        for observer in self._at_once:
            try:
                observer.decided(decision)
            except Exception:  # noqa: BLE001 - as above
                self._record_failure(observer)

    def _on_time(self) -> None:
        self._is_due = False
        self.flush()

    def _record_failure(self, observer: Observer | BatchObserver) -> None:
        """Count every failure but log only the first: it may happen with every request."""
        name = type(observer).__name__
        if name not in self._logged:
            self._logged.add(name)
            _log.exception("observer %s failed; further failures are counted but not logged", name)
        with contextlib.suppress(Exception):  # the failing observer may be the one that counts
            self._failed(name)
