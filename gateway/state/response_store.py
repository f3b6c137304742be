"""Responses that clients asked to store, in the memory of one process.

Each is readable only with the key that wrote it. The oldest are dropped when the store is full or their time is over.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """`owner` is the name of the key that wrote it; None without keys. `response` is the object as it was sent, `items`
    is the JSON list of all items that led to it: those of earlier responses, and the input."""

    owner: str | None
    response: bytes
    items: bytes
    until_s: float = 0.0  # set by the store

    @property
    def size_bytes(self) -> int:
        """What counts for the limit."""
        return len(self.response) + len(self.items)


class ResponseStore:
    """Holds up to `max_bytes`, each response for `lifetime_s`. Threads may share it: large requests are parsed in one.

    `max_read_bytes` is the most that one request may read. `now_s` returns monotonic seconds.
    """

    def __init__(self, *, max_bytes: int, max_read_bytes: int, lifetime_s: float, now_s: Callable[[], float]) -> None:
        self.max_read_bytes = max_read_bytes
        self._max_bytes = max_bytes
        self._lifetime_s = lifetime_s
        self._now_s = now_s
        self._stored: OrderedDict[str, StoredResponse] = OrderedDict()  # the oldest first
        self._lock = Lock()
        self.used_bytes = 0

    def get(self, response_id: str, owner: str | None) -> StoredResponse | None:
        """None if it is unknown, expired, or another key's."""
        with self._lock:
            self._expire()
            found = self._stored.get(response_id)
            return found if found is not None and found.owner == owner else None

    def put(self, response_id: str, stored: StoredResponse) -> None:
        """Keep a response. One that is larger than the whole store is not kept."""
        with self._lock:
            self._expire()
            self._remove(response_id)
            if stored.size_bytes > self._max_bytes:
                return
            self._stored[response_id] = replace(stored, until_s=self._now_s() + self._lifetime_s)
            self.used_bytes += stored.size_bytes
            while self.used_bytes > self._max_bytes:
                self._remove(next(iter(self._stored)))

    def delete(self, response_id: str, owner: str | None) -> bool:
        """Whether there was one to delete."""
        with self._lock:
            self._expire()
            found = self._stored.get(response_id)
            if found is None or found.owner != owner:
                return False
            self._remove(response_id)
            return True

    def _expire(self) -> None:
        now_s = self._now_s()
        while self._stored and next(iter(self._stored.values())).until_s <= now_s:
            self._remove(next(iter(self._stored)))

    def _remove(self, response_id: str) -> None:
        if (found := self._stored.pop(response_id, None)) is not None:
            self.used_bytes -= found.size_bytes
