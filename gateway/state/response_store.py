"""Responses that clients asked to store: the interface, and a store in the memory of one process.

Each is readable only with the key that wrote it. The oldest are dropped when the store is full or their time is over.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """`owner` is the name of the key that wrote it; None without keys. `response` is the object as it was sent, `items`
    is the JSON list of all items that led to it: those of earlier responses, and the input. `item_ids` are those of
    output items that do not contain the id of the response. `locations` are those to which the request was limited
    (None: no limit); a request that continues the response is, too."""

    owner: str | None
    response: bytes
    items: bytes
    item_ids: tuple[str, ...] = ()
    locations: frozenset[str] | None = None
    until_s: float = 0.0  # set by the store

    @property
    def size_bytes(self) -> int:
        """What counts for the limit."""
        return len(self.response) + len(self.items) + sum(map(len, self.item_ids))


class ReadTooLarge(Exception):  # noqa: N818 - says what happened
    """What a request refers to exceeds the most that one request may read."""


class ResponseStore(Protocol):
    """Holds responses up to a total size, each for a limited time. All calls but `put` may raise
    StoreUnavailable."""

    @property
    def max_read_bytes(self) -> int:
        """The most that one request may read."""
        ...

    @property
    def is_up(self) -> bool:
        """Whether it is expected to keep a response."""
        ...

    async def get(self, response_id: str, owner: str | None) -> StoredResponse | None:
        """None if it is unknown, expired, or another key's."""
        ...

    async def outputs(self, response_ids: Sequence[str], owner: str | None) -> Mapping[str, StoredResponse]:
        """The responses that exist, by their ids; `items` may be empty. May raise ReadTooLarge."""
        ...

    async def responses_of(self, item_ids: Sequence[str], owner: str | None) -> Mapping[str, str]:
        """The id of the response that has an item with one of these `item_ids`, by the id of the item."""
        ...

    async def put(self, response_id: str, stored: StoredResponse) -> bool:
        """Keep a response; False if it is not kept, for example because it is too large."""
        ...

    async def delete(self, response_id: str, owner: str | None) -> bool:
        """Whether there was one to delete."""
        ...


class MemoryResponseStore:
    """See `ResponseStore`. Holds up to `max_bytes`, each response for `lifetime_s`. `now_s`: monotonic seconds."""

    is_up = True

    def __init__(self, *, max_bytes: int, max_read_bytes: int, lifetime_s: float, now_s: Callable[[], float]) -> None:
        self.max_read_bytes = max_read_bytes
        self._max_bytes = max_bytes
        self._lifetime_s = lifetime_s
        self._now_s = now_s
        self._stored: OrderedDict[str, StoredResponse] = OrderedDict()  # the oldest first
        self._responses: dict[tuple[str | None, str], str] = {}  # by owner and item
        self.used_bytes = 0

    async def get(self, response_id: str, owner: str | None) -> StoredResponse | None:
        """See `ResponseStore`."""
        self._expire()
        found = self._stored.get(response_id)
        return found if found is not None and found.owner == owner else None

    async def outputs(self, response_ids: Sequence[str], owner: str | None) -> Mapping[str, StoredResponse]:
        """See `ResponseStore`. They take no further memory."""
        found = {each: await self.get(each, owner) for each in response_ids}
        return {each: stored for each, stored in found.items() if stored is not None}

    async def responses_of(self, item_ids: Sequence[str], owner: str | None) -> Mapping[str, str]:
        """See `ResponseStore`."""
        return {each: self._responses[owner, each] for each in item_ids if (owner, each) in self._responses}

    async def put(self, response_id: str, stored: StoredResponse) -> bool:
        """See `ResponseStore`."""
        self._expire()
        self._remove(response_id)
        if stored.size_bytes > self._max_bytes:
            return False
        self._stored[response_id] = replace(stored, until_s=self._now_s() + self._lifetime_s)
        self._responses.update({(stored.owner, each): response_id for each in stored.item_ids})
        self.used_bytes += stored.size_bytes
        while self.used_bytes > self._max_bytes:
            self._remove(next(iter(self._stored)))
        return True

    async def delete(self, response_id: str, owner: str | None) -> bool:
        """See `ResponseStore`."""
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
            for each in found.item_ids:
                if self._responses.get((found.owner, each)) == response_id:  # some targets give one id to many items
                    del self._responses[found.owner, each]
