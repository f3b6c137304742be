"""A bounded waiting queue that is fair between keys.

Each key has a first-in-first-out queue of its own, and they are served in turn (Nagle 1987, "On Packet Switches with
Infinite Storage"). If the queue is full, the newest item of the key with the most items has to leave (McKenney 1990,
"Stochastic Fairness Queuing"), so that a key that floods the queue displaces only itself.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class FairQueue(Generic[Item]):
    """All operations take constant time, however many keys there are."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[str, dict[Item, None]] = OrderedDict()  # the next key to be served first
        self._by_count: defaultdict[int, dict[str, None]] = defaultdict(dict)  # keys by their number of items
        self._most = 0  # items of a key
        self.size = 0  # items of all keys

    def __len__(self) -> int:
        return self.size

    def has_only(self, key: str) -> bool:
        """Whether no other key has an item in the queue, but this one has."""
        return len(self._by_key) == 1 and key in self._by_key

    def __iter__(self) -> Iterator[Item]:
        """All items, by key."""
        return (item for items in self._by_key.values() for item in items)

    def offer(self, key: str, item: Item, *, limit: int) -> Item | None:
        """Add an item. If that exceeds the limit, one item has to leave and is returned: it may be the new one."""
        if self.size < limit:
            self._add(key, item)
            return None
        if self._most <= len(self._by_key.get(key, ())) + 1:
            return item
        longest = next(iter(self._by_count[self._most]))
        newest = next(reversed(self._by_key[longest]))
        self.remove(longest, newest)
        self._add(key, item)
        return newest

    def pop(self) -> Item:
        """Remove and return the oldest item of the next key. The queue must not be empty."""
        key, items = next(iter(self._by_key.items()))
        item = next(iter(items))
        self._take(key, items, item)
        if items:
            self._by_key.move_to_end(key)
        return item

    def remove(self, key: str, item: Item) -> None:
        """Remove an item, if it is in the queue."""
        items = self._by_key.get(key)
        if items is not None and item in items:
            self._take(key, items, item)

    def _take(self, key: str, items: dict[Item, None], item: Item) -> None:
        count = len(items)
        del items[item]
        self.size -= 1
        of_count = self._by_count[count]
        del of_count[key]
        if not of_count:
            del self._by_count[count]
            if self._most == count:
                self._most = count - 1  # the key itself has the most now, maybe beside others
        if items:
            self._by_count[count - 1][key] = None
        else:
            del self._by_key[key]

    def _add(self, key: str, item: Item) -> None:
        items = self._by_key.setdefault(key, {})
        count = len(items)
        items[item] = None
        self.size += 1
        if count:
            of_count = self._by_count[count]
            del of_count[key]
            if not of_count:
                del self._by_count[count]
        self._by_count[count + 1][key] = None
        if self._most <= count:
            self._most = count + 1
