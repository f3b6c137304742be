"""States under construction, built backwards from their continuations, with structurally equal states shared (hash
consing).

A state is a tuple of disjoint label ranges with targets. A fragment is built from the state that follows it, so
concatenation is free and every state stays deterministic. Only where alternatives overlap does `union` run the subset
construction, confined to the overlap. The number of states is limited; exceeding it raises TooLarge.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

from diffusion_worker.constraints.automata.automaton import Edge
from diffusion_worker.constraints.automata.native import NATIVE

SELF: Final = -2  # as a target: the state being built
Block = tuple[tuple[Edge, ...], ...]  # rows of states that are copied; a target is one of them, or -1: what follows
Overlaid = tuple[int, int, tuple[int, ...]]  # first label, last label, all targets


class TooLarge(Exception):  # noqa: N818 - says what happened; never leaves the compiler
    """More states than the budget allows."""


def overlay(rows: Sequence[Sequence[Edge]]) -> list[Overlaid]:
    """The edges of several states as disjoint ranges, each with all its targets."""
    if NATIVE is not None:
        laid: list[Overlaid] = NATIVE.overlay(rows)
        return laid
    return overlay_in_python(rows)


def overlay_in_python(rows: Sequence[Sequence[Edge]]) -> list[Overlaid]:
    """What `overlay` returns, by a sweep over the borders of all ranges."""
    edges = sorted(edge for row in rows for edge in row)
    if all(edges[i][1] < edges[i + 1][0] for i in range(len(edges) - 1)):
        return [(first, last, (target,)) for first, last, target in edges]
    points = sorted({edge[0] for edge in edges} | {edge[1] + 1 for edge in edges})
    laid: list[Overlaid] = []
    active: list[Edge] = []
    upcoming = 0
    for point, following in pairwise(points):
        active = [edge for edge in active if edge[1] >= point]
        while upcoming < len(edges) and edges[upcoming][0] == point:
            active.append(edges[upcoming])
            upcoming += 1
        if active:
            laid.append((point, following - 1, tuple(sorted({edge[2] for edge in active}))))
    return laid


def coalesce(edges: Iterable[Edge]) -> tuple[Edge, ...]:
    """The canonical row: sorted, with adjacent ranges of one target merged."""
    if NATIVE is not None:
        row: tuple[Edge, ...] = NATIVE.coalesce(edges)
        return row
    return coalesce_in_python(edges)


def coalesce_in_python(edges: Iterable[Edge]) -> tuple[Edge, ...]:
    """What `coalesce` returns."""
    joined: list[Edge] = []
    for edge in sorted(edges):
        if joined and joined[-1][2] == edge[2] and joined[-1][1] + 1 == edge[0]:
            joined[-1] = (joined[-1][0], edge[1], edge[2])
        else:
            joined.append(edge)
    return tuple(joined)


class Graph:
    """A growing set of deterministic states, whose edges never change once set."""

    def __init__(self, *, max_states: int) -> None:
        self.rows: list[tuple[Edge, ...]] = []
        self.accepting: list[bool] = []
        self._max_states = max_states
        self._known: dict[tuple[bool, tuple[Edge, ...]], int] = {}
        self._unions: dict[tuple[int, ...], int] = {}
        self._intersections: dict[tuple[int, int], int] = {}

    def state(self, edges: Iterable[Edge], *, accepting: bool = False) -> int:
        """The state with these disjoint edges; targets may be SELF."""
        if NATIVE is not None:
            return self._within_budget(
                NATIVE.state(self.rows, self.accepting, self._max_states, self._known, edges, accepting)
            )
        key = (accepting, coalesce(edges))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self.reserve()
            self.rows[found] = tuple((a, b, found if t == SELF else t) for a, b, t in key[1])
            self.accepting[found] = accepting
        return found

    def reserve(self) -> int:
        """A state whose edges are set later: the head of a loop."""
        self._within_budget(-1 if len(self.rows) >= self._max_states else 0)
        self.rows.append(())
        self.accepting.append(False)
        return len(self.rows) - 1

    def _within_budget(self, state: int) -> int:
        """The state, unless the native code returned -1."""
        if state < 0:
            raise TooLarge(f"more than {self._max_states} states")
        return state

    def fill(self, state: int, edges: Iterable[Edge], *, accepting: bool = False) -> None:
        """Set the edges of a reserved state, once."""
        row = ((first, last, state if target == SELF else target) for first, last, target in edges)
        self.rows[state], self.accepting[state] = coalesce(row), accepting

    def paste(self, block: Block, following: int) -> int:
        """A copy of a block in front of a state; returns the copy of its first state."""
        if NATIVE is not None:
            return self._within_budget(NATIVE.paste(self.rows, self.accepting, self._max_states, block, following))
        base = len(self.rows)
        self._within_budget(-1 if base + len(block) > self._max_states else 0)
        for row in block:
            self.rows.append(tuple((a, b, following if t < 0 else base + t) for a, b, t in row))
            self.accepting.append(False)
        return base

    def word(self, labels: Sequence[int], following: int) -> int:
        """The state that reads `labels`, then continues as `following`."""
        for label in reversed(labels):
            following = self.state([(label, label, following)])
        return following

    def merged(self, edges: Iterable[Edge], *states: int) -> list[Edge]:
        """`edges` and those of the states as one deterministic row."""
        rows = [tuple(edges), *(self.rows[state] for state in states)]
        return [(first, last, self.union(targets)) for first, last, targets in overlay(rows)]

    def union(self, states: Iterable[int]) -> int:
        """The union of states by the subset construction. Every state reached before they meet must be filled."""
        if NATIVE is not None:
            return self._within_budget(
                NATIVE.union(self.rows, self.accepting, self._max_states, self._unions, list(states))
            )
        members = tuple(sorted(set(states)))
        if len(members) == 1:
            return members[0]
        todo: list[tuple[int, ...]] = []
        start = self._joint(members, todo)
        while todo:
            group = todo.pop()
            laid = overlay([self.rows[state] for state in group])
            edges = [
                (first, last, targets[0] if len(targets) == 1 else self._joint(targets, todo))
                for first, last, targets in laid
            ]
            self.fill(self._unions[group], edges, accepting=any(self.accepting[state] for state in group))
        return start

    def _joint(self, group: tuple[int, ...], todo: list[tuple[int, ...]]) -> int:
        found = self._unions.get(group)
        if found is None:
            found = self._unions[group] = self.reserve()
            todo.append(group)
        return found

    def intersect(self, left: int, right: int) -> int:
        """The intersection of two states by the product construction; it may lead to states that accept nothing."""
        if NATIVE is not None:
            return self._within_budget(
                NATIVE.intersect(self.rows, self.accepting, self._max_states, self._intersections, left, right)
            )
        todo: list[tuple[int, int]] = []
        start = self._pair(left, right, todo)
        while todo:
            pair = todo.pop()
            ours, theirs = (self.rows[state] for state in pair)
            edges = [
                (max(a, c), min(b, d), self._pair(t, u, todo))
                for a, b, t in ours
                for c, d, u in theirs
                if a <= d and c <= b
            ]
            self.fill(self._intersections[pair], edges, accepting=all(self.accepting[state] for state in pair))
        return start

    def _pair(self, left: int, right: int, todo: list[tuple[int, int]]) -> int:
        if left == right:
            return left
        pair = (min(left, right), max(left, right))
        found = self._intersections.get(pair)
        if found is None:
            found = self._intersections[pair] = self.reserve()
            todo.append(pair)
        return found
