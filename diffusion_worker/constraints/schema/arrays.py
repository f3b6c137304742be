"""Arrays: items one after the other, the last of them in a loop if there is no end; counts as copies of the item.

`after[i]` reads what may follow i items: a comma and item i, or the closing bracket.
"""

from diffusion_worker.constraints.automata.automaton import Edge
from diffusion_worker.constraints.schema.shapes import Items
from diffusion_worker.constraints.schema.site import COMMA, WHITE, Place, Site, before, padded

_OPEN = 0x5B
_CLOSE = 0x5D


def array(site: Site, items: Items, place: Place) -> int | None:
    """The state before the opening bracket; None: no such array."""
    builder = _Array(site, items, place)
    inner = builder.inner()
    return None if inner is None else site.graph.state([(_OPEN, _OPEN, inner)])


class _Array:
    def __init__(self, site: Site, items: Items, place: Place) -> None:
        self._site, self._graph, self._items, self._place = site, site.graph, items, place
        self._low, self._high = self._capped(items.low, "minItems"), items.high
        if self._high is not None and self._high > max(site.caps.items, self._low):
            self._high = None
            site.unchecked.add("maxItems")

    def _capped(self, count: int, keyword: str) -> int:
        if count > self._site.caps.items:
            self._site.unchecked.add(keyword)
        return min(count, self._site.caps.items)

    def inner(self) -> int | None:
        """Behind the opening bracket."""
        start = self._chain()
        edges: list[Edge] = [(_CLOSE, _CLOSE, self._place.following)] if self._low == 0 else []
        if start is not None:
            edges += self._graph.rows[start]
        return padded(self._graph, edges) if edges else None

    def _chain(self) -> int | None:
        """The state before the first item, built from the last one backwards. An item that cannot be ends the array."""
        regular = max(self._items.prefix, self._low, 1)
        last = regular if self._high is None else self._high
        next_item = self._loop(regular) if self._high is None else None
        for index in range(last - 1, -1, -1):
            after = self._after(index + 1, next_item)
            next_item = None if after is None else self._item(index, after)
        return next_item

    def _after(self, count: int, next_item: int | None) -> int | None:
        edges: list[Edge] = []
        if next_item is not None:
            edges.append((COMMA, COMMA, before(self._graph, next_item)))
        if count >= self._low:
            edges.append((_CLOSE, _CLOSE, self._place.following))
        return padded(self._graph, edges) if edges else None

    def _loop(self, index: int) -> int | None:
        """The state before item `index` of an array without end."""
        graph = self._graph
        after, inner = graph.reserve(), graph.reserve()
        graph.fill(after, [*WHITE, (COMMA, COMMA, inner), (_CLOSE, _CLOSE, self._place.following)])
        item = self._item(index, after)
        graph.fill(inner, [] if item is None else [*WHITE, *graph.rows[item]])
        return item

    def _item(self, index: int, following: int) -> int | None:
        silent = index >= self._items.prefix and self._items.silent
        return self._site.value(self._items.at(index), self._place.inside(following, free=int(silent)))
