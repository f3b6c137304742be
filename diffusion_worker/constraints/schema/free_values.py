"""Values that a schema leaves unconstrained: any JSON, nested to a limit, as a block of states that is built once and
copied to every position.

A finite automaton remembers which brackets are open, so any nesting to depth d would take 2^d copies of a value. Blocks
allow every nesting to depth 3 and, below it, what documents hold: objects in objects, and arrays of anything but
arrays. Undeclared members, and what is deeper than 3, are written on one line; strings as `json_strings.Style` "raw"
says, or "plain" in the outermost container of a declared value; and numbers without an exponent.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from diffusion_worker.constraints.automata.automaton import Edge
from diffusion_worker.constraints.automata.code_point_dfa import ANY_TEXT
from diffusion_worker.constraints.automata.graph import Block, Graph
from diffusion_worker.constraints.automata.minimise import as_block, minimise
from diffusion_worker.constraints.schema.json_strings import Style, string
from diffusion_worker.constraints.schema.json_syntax import COLON, COMMA, Layout
from diffusion_worker.constraints.schema.numbers import free_number
from diffusion_worker.constraints.schema.size_limits import MAX_FREE_DEPTH
from diffusion_worker.constraints.spec import WhiteSpace

OBJECT: Final = "{"
ARRAY: Final = "["
ONE_LINE: Final = -1
_ANY_NESTING: Final = 3  # depth to which every nesting is allowed
_LINES: Final = 3  # depth to which containers may have several lines
_MAX_STATES: Final = 20_000
_CLOSES: Final = {OBJECT: ord("}"), ARRAY: ord("]")}


def is_allowed(nesting: str) -> bool:
    """Whether containers may be nested like this: `{[` is an array in an object."""
    return len(nesting) <= _ANY_NESTING or ARRAY + ARRAY not in nesting


@dataclass(frozen=True, slots=True)
class Copy:
    """Containers that are copied: their opening brackets, the unconstrained containers around them, and the nesting
    depth of the line that they begin on, or ONE_LINE."""

    openings: str
    around: str
    line: int
    indents: tuple[int, ...]


@lru_cache(maxsize=512)
def containers(copy: Copy, depth: int, white_space: WhiteSpace) -> Block:
    """The states of a container of any content; the first one reads its opening bracket. `depth`: the most
    unconstrained containers around each other, besides empty ones. No states: there is none."""
    graph = Graph(max_states=_MAX_STATES)
    following = graph.state((), accepting=True)
    builder = _Builder(graph, Layout(graph, white_space, copy.indents), depth, copy.line)
    start = graph.state([edge for edge in builder.containers(copy.around, following) if chr(edge[0]) in copy.openings])
    return as_block(minimise(graph.rows, graph.accepting, start))


@lru_cache(maxsize=512)
def sizes(copy: Copy, least: int, white_space: WhiteSpace) -> tuple[int, ...]:
    """The states of containers from the least depth to MAX_FREE_DEPTH."""
    depths = range(least, max(least, MAX_FREE_DEPTH) + 1)
    return tuple(len(containers(copy, depth, white_space)) for depth in depths)


class _Builder:
    def __init__(self, graph: Graph, layout: Layout, depth: int, line: int) -> None:
        self._graph, self._layout, self._depth, self._line = graph, layout, depth, line

    def containers(self, around: str, following: int) -> Iterator[Edge]:
        """The edges over the opening brackets that are allowed here."""
        for opening in (OBJECT, ARRAY):
            nesting = around + opening
            if len(nesting) <= self._depth and is_allowed(nesting):
                yield ord(opening), ord(opening), self._container(nesting, following)
            elif len(nesting) <= self._depth + 1 and is_allowed(nesting):
                closing: Edge = (_CLOSES[opening], _CLOSES[opening], following)
                yield ord(opening), ord(opening), self._graph.state(self._layout.inline([closing]))

    def _container(self, nesting: str, following: int) -> int:
        """The state after the opening bracket."""
        graph, layout, opening = self._graph, self._layout, nesting[-1]
        closing: Edge = (_CLOSES[opening], _CLOSES[opening], following)
        after, behind_comma = graph.reserve(), graph.reserve()
        comma: Edge = (COMMA, COMMA, behind_comma)
        if has_lines := self._line != ONE_LINE and len(nesting) <= _LINES:
            line = self._line + len(nesting) - 1
            graph.fill(after, layout.edges([comma], [closing], line))
        else:
            graph.fill(after, layout.inline([comma, closing]))
        value = self._value(nesting, after)
        if opening == OBJECT:
            value = string(graph, ANY_TEXT, layout.sign(COLON, value), style=self._style(nesting))
        if has_lines:
            graph.fill(behind_comma, layout.edges((), graph.rows[value], line + 1))
            return layout.state([closing], graph.rows[value], line + 1)
        graph.fill(behind_comma, graph.rows[layout.spaced(value)])
        return graph.state(layout.inline([closing, *graph.rows[value]]))

    def _style(self, nesting: str) -> Style:
        return "plain" if self._line != ONE_LINE and len(nesting) == 1 else "raw"

    def _value(self, nesting: str, following: int) -> int:
        graph = self._graph
        starts = [
            *(graph.word(word, following) for word in (b"null", b"true", b"false")),
            free_number(graph, following, integer=False, exponent=False),
            string(graph, ANY_TEXT, following, style=self._style(nesting)),
        ]
        return graph.state(graph.merged(list(self.containers(nesting, following)), *starts))
