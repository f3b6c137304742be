"""Objects: declared members in declared order, then undeclared ones in a loop.

A member may be skipped if it is optional; whether a comma is due is known from the place alone (before the first member
or after one), so n optional members take 2n places, not 2^n. Counts of members, where they matter, multiply the places.
"""

from collections.abc import Sequence
from typing import Final

from diffusion_worker.constraints.automata.automaton import Edge
from diffusion_worker.constraints.automata.code_point_dfa import member, words
from diffusion_worker.constraints.automata.graph import Graph
from diffusion_worker.constraints.schema.document import Conj
from diffusion_worker.constraints.schema.json_strings import QUOTE, body
from diffusion_worker.constraints.schema.property_names import Cell, admitted, cells
from diffusion_worker.constraints.schema.shapes import Members
from diffusion_worker.constraints.schema.site import COLON, COMMA, WHITE, Place, Site, padded, sign

_OPEN: Final = 0x7B
_CLOSE: Final = 0x7D
_PLAIN: Final = frozenset(map(chr, range(0x20, 0x7F))) - {'"', "\\"}


def object_(site: Site, members: Members, place: Place) -> int | None:
    """The state before the opening brace; None: no such object."""
    builder = _Object(site, members, place)
    inner = builder.inner()
    return None if inner is None else site.graph.state([(_OPEN, _OPEN, inner)])


class _Object:
    def __init__(self, site: Site, members: Members, place: Place) -> None:
        self._site, self._graph, self._members, self._place = site, site.graph, members, place
        allowed = admitted(site.combiner, members, site.caps, site.unchecked)
        self._names = [name for name in members.declared if member(allowed, name)]
        self._required = set(members.required)
        self._impossible = any(name not in self._names for name in members.required)
        self._cells = [] if self._impossible else self._worthy(cells(members, allowed, site.unchecked))
        self._low, self._high = self._counts()
        self._tails: dict[tuple[int, int], int | None] = {}
        self._extra: dict[int, int] = {}

    def _worthy(self, found: Sequence[Cell]) -> list[Cell]:
        """Cells that can hold a member. Members of which the schema says nothing are admitted as the caps say."""
        bare = not self._members.layers and not self._names
        if not bare and self._site.caps.undeclared_depth < 0:
            found = [cell for cell in found if not cell.silent]
        return [cell for cell in found if cell.names.rows and (cell.silent or self._site.combiner.shapes(cell.conj))]

    def _counts(self) -> tuple[int, int | None]:
        low = 0 if self._members.low <= len(self._required) else self._members.low
        high = self._members.high
        if high is not None and not self._cells and high >= len(self._names):
            high = None
        if low > 1 and self._cells:
            self._site.unchecked.add("minProperties")  # a repeated name counts once
        if low > self._site.caps.members:
            low = self._site.caps.members
            self._site.unchecked.add("minProperties")
        if high is not None and high > self._site.caps.members:
            high = None
            self._site.unchecked.add("maxProperties")
        return low, high

    def _counted(self, count: int) -> int:
        """One more member, as far as it matters."""
        return min(count + 1, self._low if self._high is None else self._high)

    def _full(self, count: int) -> bool:
        return self._high is not None and count >= self._high

    def inner(self) -> int | None:
        """Behind the opening brace."""
        if self._impossible:
            return None
        most = self._low if self._high is None else self._high
        for index in reversed(range(len(self._names))):  # the last first, so that no chain of members nests calls
            for count in range(min(index, most) + 1):
                self._tail(index, count)
        edges = self._closing(0, 0)
        if not self._full(0) and (keys := self._keys(0, 0)) is not None:
            edges.append((QUOTE, QUOTE, keys))
        return padded(self._graph, edges) if edges else None

    def _closing(self, at: int, count: int) -> list[Edge]:
        """The closing brace, if nothing that is required is missing."""
        if count < self._low or any(name in self._required for name in self._names[at:]):
            return []
        return [(_CLOSE, _CLOSE, self._place.following)]

    def _after(self, at: int, count: int) -> int | None:
        """Behind a member, before declared member `at`."""
        edges = self._closing(at, count)
        if not self._full(count) and (keys := self._keys(at, count)) is not None:
            edges.append((COMMA, COMMA, padded(self._graph, [(QUOTE, QUOTE, keys)])))
        return padded(self._graph, edges) if edges else None

    def _keys(self, at: int, count: int) -> int | None:
        """Behind the opening quote of a name: declared member `at` or a later one up to the next that is required."""
        heads: list[int] = []
        plain: list[tuple[str, int]] = []
        required = False
        for index in range(at, len(self._names)):
            name = self._names[index]
            if (tail := self._tail(index, count)) is not None:
                if _PLAIN.issuperset(name):
                    plain.append((name, tail))
                else:
                    heads.append(body(self._graph, words(frozenset((name,))), tail))
            if required := name in self._required:
                break
        if plain:
            heads.append(_trie(self._graph, plain, 0))
        if not required and (extra := self._undeclared(count)) is not None:
            heads.append(extra)
        return self._graph.state(self._graph.merged([], *heads)) if heads else None

    def _tail(self, index: int, count: int) -> int | None:
        """Behind the closing quote of declared member `index`."""
        key = (index, count)
        if key not in self._tails:
            after = self._after(index + 1, self._counted(count))
            conj = self._site.combiner.member(self._members, self._names[index])
            value = None if after is None else self._value(conj, after, silent=False)
            self._tails[key] = None if value is None else sign(self._graph, COLON, value)
        return self._tails[key]

    def _value(self, conj: Conj, following: int, *, silent: bool) -> int | None:
        place = self._place.inside(following)
        if silent and self._members.layers:
            spent = self._site.caps.free_depth - self._site.caps.undeclared_depth
            place = self._place.inside(following, free=max(1, spent - self._place.free))
        elif silent:
            place = self._place.inside(following, free=1)
        return self._site.value(conj, place)

    def _undeclared(self, count: int) -> int | None:
        """Behind the opening quote of an undeclared name; what follows it reads undeclared names only."""
        if not self._cells or self._full(count):
            return None
        if count not in self._extra:
            ahead = self._counted(count)
            if ahead == count:
                self._extra[count] = self._loop(count)
            else:
                after = self._undeclared_after(ahead, self._undeclared(ahead))
                self._extra[count] = self._cell_names(after)
        return self._extra[count]

    def _undeclared_after(self, count: int, keys: int | None) -> int:
        edges: list[Edge] = [(_CLOSE, _CLOSE, self._place.following)] if count >= self._low else []
        if keys is not None:
            edges.append((COMMA, COMMA, padded(self._graph, [(QUOTE, QUOTE, keys)])))
        return padded(self._graph, edges)

    def _loop(self, count: int) -> int:
        graph = self._graph
        after, quote = graph.reserve(), graph.reserve()
        closing = [(_CLOSE, _CLOSE, self._place.following)] if count >= self._low else []
        graph.fill(after, [*WHITE, (COMMA, COMMA, quote), *closing])
        keys = self._cell_names(after)
        graph.fill(quote, [*WHITE, (QUOTE, QUOTE, keys)])
        return keys

    def _cell_names(self, following: int) -> int:
        """Names of every cell, each with its value and then `following`."""
        heads: list[int] = []
        for cell in self._cells:
            value = self._value(cell.conj, following, silent=cell.silent)
            if value is not None:
                heads.append(body(self._graph, cell.names, sign(self._graph, COLON, value)))
        return self._graph.state(self._graph.merged([], *heads))


def _trie(graph: Graph, names: Sequence[tuple[str, int]], at: int) -> int:
    """Names that agree up to `at`, each followed by its closing quote and its own state."""
    grouped: dict[str, list[tuple[str, int]]] = {}
    for name, tail in names:
        grouped.setdefault(name[at : at + 1], []).append((name, tail))
    edges = [
        (ord(char), ord(char), _trie(graph, group, at + 1)) if char else (QUOTE, QUOTE, group[0][1])
        for char, group in grouped.items()
    ]
    return graph.state(edges)
