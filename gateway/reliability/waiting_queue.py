"""Waiting for a slot of a full target: bounded, fair between API keys, and without a race for a slot that becomes free.

A slot that is given back is granted to exactly one waiting request, which then holds it: no other request can take it
before that one has woken up. A request may wait for several targets and takes the first slot that it is granted.
"""

from collections.abc import Callable, Sequence

from gateway.reliability.fair_queue import FairQueue
from gateway.types import Candidate


class Waiter:
    """One waiting request. Close it in any case: it leaves its queues, or gives back a slot that it has not claimed."""

    def __init__(self, slots: "Slots", key: str, wake: Callable[[], None]) -> None:
        self.key = key
        self.waits_for: dict[str, Candidate] = {}  # by name of the target
        self.granted: Candidate | None = None
        self._slots = slots
        self._wake = wake
        self._is_claimed = False

    def leave(self, name: str) -> None:
        """Stop waiting for a target; nothing happens if its queue has evicted this request."""
        if self.waits_for.pop(name, None) is not None:
            self._slots.leave(name, self)

    def claim(self) -> None:
        """The granted slot belongs to the caller from now on, who gives it back to `Slots`."""
        assert self.granted is not None
        self._is_claimed = True

    def close(self) -> None:
        """Leave all queues, or give back the slot."""
        for name in list(self.waits_for):
            self.leave(name)
        if self.granted is not None and not self._is_claimed:
            self._is_claimed = True
            self._slots.give_back(self.granted.target.name)

    def grant(self, candidate: Candidate) -> None:
        """A slot is free: hold it, and wait for no other."""
        self.granted = candidate
        del self.waits_for[candidate.target.name]
        for name in list(self.waits_for):
            self.leave(name)
        self._wake()

    def evict(self, name: str) -> None:
        """The queue of this target has no room for this request any more."""
        self.waits_for.pop(name, None)
        if not self.waits_for:
            self._wake()


class Slots:
    """The slots of all targets, by name: those in use, and who waits for them."""

    def __init__(self) -> None:
        self.in_use: dict[str, int] = {}
        self._queues: dict[str, FairQueue[Waiter]] = {}

    def waiting(self, name: str) -> int:
        """The number of requests that wait for a slot."""
        return len(self._queues[name]) if name in self._queues else 0

    def is_full(self, name: str, limit: int | None) -> bool:
        """Whether a new request gets no slot: all are in use, or others have waited longer."""
        return limit is not None and (self.in_use.get(name, 0) >= limit or name in self._queues)

    def take(self, name: str) -> None:
        """Take a slot; the caller has asked `is_full`."""
        self.in_use[name] = self.in_use.get(name, 0) + 1

    def give_back(self, name: str) -> None:
        """Give back a slot, and grant it to the next waiting request."""
        self.in_use[name] -= 1
        if self._queues:
            self._grant(name)

    def wait(self, candidates: Sequence[Candidate], key: str | None, wake: Callable[[], None]) -> Waiter:
        """Wait for a slot of any of the candidates' targets. `wake` is called once: when a slot is granted, or when
        every queue is full. If that is so from the start, the waiter waits for nothing."""
        waiter = Waiter(self, key or "", wake)
        for candidate in candidates:
            name = candidate.target.name
            queue = self._queues.setdefault(name, FairQueue())
            evicted = queue.offer(waiter.key, waiter, limit=candidate.target.queue.max_requests)
            if evicted is not waiter:
                waiter.waits_for[name] = candidate
            if evicted is not None and evicted is not waiter:
                evicted.evict(name)
            self._drop_if_empty(name)
        for name in list(waiter.waits_for):
            self._grant(name)
        return waiter

    def leave(self, name: str, waiter: Waiter) -> None:
        """Remove a waiter from a queue."""
        queue = self._queues.get(name)
        if queue is not None:
            queue.remove(waiter.key, waiter)
            self._drop_if_empty(name)

    def _grant(self, name: str) -> None:
        """Hand free slots to waiting requests."""
        while (queue := self._queues.get(name)) is not None:
            candidate = next(iter(queue)).waits_for[name]
            limit = candidate.target.max_in_flight
            if limit is not None and self.in_use.get(name, 0) >= limit:
                return
            waiter = queue.pop()
            self._drop_if_empty(name)
            self.take(name)
            waiter.grant(waiter.waits_for[name])

    def _drop_if_empty(self, name: str) -> None:
        if not self._queues[name]:
            del self._queues[name]
