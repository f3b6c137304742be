"""Glushkov's construction, then the subset construction: from the syntax tree of a regular expression to a
deterministic automaton.

Labels are code points (and the two boundary markers of `regex`); the result is neither trimmed nor minimal.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from diffusion_worker.constraints.automata.automaton import Edge
from diffusion_worker.constraints.automata.graph import TooLarge, overlay
from diffusion_worker.constraints.automata.ranges import Ranges
from diffusion_worker.constraints.automata.regex import Alt, Chars, NotRegular, Repeat, Seq, Tree

MAX_STATES: Final = 4096
_MAX_POSITIONS: Final = 6000
_MAX_RANGES: Final = 100_000  # of all positions; one letter of any script has 650


def determinise(tree: Tree) -> tuple[list[list[Edge]], list[bool]]:
    """The rows and accepting states of the DFA; 0 is the start. Raises NotRegular, or TooLarge."""
    positions = _Positions()
    shape = positions.shape(tree)
    start = len(positions.ranges)
    rows = [[(a, b, q) for q in follow for a, b in positions.ranges[q]] for follow in positions.follow]
    rows.append([(a, b, q) for q in shape.first for a, b in positions.ranges[q]])
    last = {*shape.last, *((start,) if shape.nullable else ())}
    return _subsets(rows, last, start)


class _Shape:
    """Nullable, first and last positions of a subexpression."""

    __slots__ = ("first", "last", "nullable")

    def __init__(self, nullable: bool, first: list[int], last: list[int]) -> None:
        self.nullable, self.first, self.last = nullable, first, last


class _Positions:
    """The position automaton: one state per character of the expression, no epsilon transitions."""

    def __init__(self) -> None:
        self.ranges: list[Ranges] = []
        self.follow: list[list[int]] = []
        self._size = 0

    def shape(self, tree: Tree) -> _Shape:
        match tree:
            case Chars(ranges):
                return self._char(ranges)
            case Seq(parts):
                return self._sequence([self.shape(part) for part in parts])
            case Alt(parts):
                shapes = [self.shape(part) for part in parts]
                first = [position for shape in shapes for position in shape.first]
                last = [position for shape in shapes for position in shape.last]
                return _Shape(any(shape.nullable for shape in shapes), first, last)
            case Repeat(part, low, high):
                return self._repeat(part, low, high)
        raise NotRegular("look-ahead inside an expression")

    def _char(self, ranges: Ranges) -> _Shape:
        self._size += len(ranges)
        if len(self.ranges) >= _MAX_POSITIONS or self._size > _MAX_RANGES:
            raise TooLarge("a regular expression with too many characters")
        self.ranges.append(ranges)
        self.follow.append([])
        return _Shape(False, [len(self.ranges) - 1], [len(self.ranges) - 1])

    def _sequence(self, shapes: Sequence[_Shape]) -> _Shape:
        whole = _Shape(True, [], [])
        for shape in shapes:
            self._link(whole.last, shape.first)
            first = [*whole.first, *shape.first] if whole.nullable else whole.first
            last = [*whole.last, *shape.last] if shape.nullable else shape.last
            whole = _Shape(whole.nullable and shape.nullable, first, last)
        return whole

    def _link(self, before: Iterable[int], after: Sequence[int]) -> None:
        for position in before:
            self.follow[position].extend(after)

    def _repeat(self, part: Tree, low: int, high: int | None) -> _Shape:
        shapes = [self.shape(part) for _ in range(low)]
        if high is None:
            loop = self.shape(part) if not shapes else shapes[-1]
            self._link(loop.last, loop.first)
            if not shapes:
                shapes = [_Shape(True, loop.first, loop.last)]
        elif high > low:
            shapes.append(self._optional(part, high - low))
        return self._sequence(shapes)

    def _optional(self, part: Tree, times: int) -> _Shape:
        """x{0,n} as (x(x(x)?)?)?, which links each copy only to the next."""
        nested = _Shape(True, [], [])
        for shape in [self.shape(part) for _ in range(times)]:
            whole = self._sequence([shape, nested])
            nested = _Shape(True, whole.first, whole.last)
        return nested


def _subsets(rows: Sequence[Sequence[Edge]], last: set[int], start: int) -> tuple[list[list[Edge]], list[bool]]:
    groups: list[tuple[int, ...]] = [(start,)]
    numbers = {groups[0]: 0}
    made: list[list[Edge]] = []
    for group in groups:
        edges: list[Edge] = []
        for first, after, targets in overlay([rows[state] for state in group]):
            number = numbers.setdefault(targets, len(groups))
            if number == len(groups):
                groups.append(targets)
            edges.append((first, after, number))
        made.append(edges)
        if len(groups) > MAX_STATES:
            raise TooLarge("a regular expression with too many states")
    return made, [not last.isdisjoint(group) for group in groups]
