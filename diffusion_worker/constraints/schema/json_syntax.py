"""The fixed syntax of JSON as states over bytes: white space, punctuation, and values that the schema writes out.

White space is bounded by default to what serialisers write: one space after a colon or a comma and inside brackets, or
a newline and the indentation of the next line, 2 or 4 spaces per level. Unbounded white space (`[ \\t\\n\\r]*` wherever
RFC 8259 allows it) lets a model that does not know an answer fill `max_tokens` with blanks.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from diffusion_worker.constraints.automata.automaton import Edge
from diffusion_worker.constraints.automata.code_point_dfa import dfa_of_words
from diffusion_worker.constraints.automata.graph import SELF, Graph
from diffusion_worker.constraints.schema.json_strings import string
from diffusion_worker.constraints.spec import WhiteSpace

COMMA: Final = 0x2C
COLON: Final = 0x3A
_NEWLINE: Final = 0x0A
_SPACE: Final = 0x20
_ANY_WHITE: Final[tuple[Edge, ...]] = ((0x09, 0x0A, SELF), (0x0D, 0x0D, SELF), (0x20, 0x20, SELF))
INDENTS: Final = (2, 4)  # spaces per level


class Layout:
    """Places white space. `depth` is the nesting depth of a line: 0 for the outermost brackets. Without `indents`, a
    document is on one line."""

    def __init__(self, graph: Graph, white_space: WhiteSpace, indents: Sequence[int] = INDENTS) -> None:
        self._graph = graph
        self._indents = indents
        self._is_any = white_space == WhiteSpace.ANY

    def edges(self, direct: Iterable[Edge], line: Iterable[Edge], depth: int) -> list[Edge]:
        """The edges of a state: `direct` ones, and those of a token that may start a new line of this depth."""
        line = list(line)
        if self._is_any:
            return [*_ANY_WHITE, *direct, *line]
        if not line:
            return list(direct)
        token = self._graph.state(line)
        newline = [(_NEWLINE, _NEWLINE, self._indented(token, depth))] if self._indents else []
        return [*direct, *line, (_SPACE, _SPACE, token), *newline]

    def state(self, direct: Iterable[Edge], line: Iterable[Edge], depth: int) -> int:
        """The state with these edges."""
        return self._graph.state(self.edges(direct, line, depth))

    def inline(self, edges: Iterable[Edge]) -> list[Edge]:
        """The edges of a state where bounded white space allows none."""
        return [*(_ANY_WHITE if self._is_any else ()), *edges]

    def sign(self, byte: int, following: int) -> int:
        """A colon or comma, perhaps a space, then what `following` reads."""
        return self._graph.state(self.edges([(byte, byte, self.spaced(following))], (), 0))

    def spaced(self, following: int) -> int:
        """Perhaps a space, then what `following` reads."""
        row = self._graph.rows[following]
        return self._graph.state([*(_ANY_WHITE if self._is_any else ((_SPACE, _SPACE, following),)), *row])

    def tag(self, following: int) -> int:
        """Perhaps a space or a newline, then what `following` reads."""
        return self._graph.state(self.edges((), self._graph.rows[following], 0))

    def start(self, document: int) -> int:
        """The state before a document: no white space if it is bounded."""
        return self.spaced(document) if self._is_any else document

    def end(self) -> int:
        """The state after a document: one newline if white space is bounded."""
        if self._is_any:
            return self._graph.state(_ANY_WHITE, accepting=True)
        last = self._graph.state((), accepting=True)
        return self._graph.state([(_NEWLINE, _NEWLINE, last)], accepting=True)

    def _indented(self, token: int, depth: int) -> int:
        """The state after a newline: the indentation, then what `token` reads."""
        widths = {indent * depth for indent in self._indents}
        row = self._graph.rows[token]
        state = token
        for width in reversed(range(max(widths))):
            state = self._graph.state([(_SPACE, _SPACE, state), *(row if width in widths else ())])
        return state


def literals(graph: Graph, layout: Layout, values: Iterable[Any], following: int, depth: int) -> list[int]:
    """The states before any of the values of `enum` or `const` at this nesting depth; they may overlap."""
    texts = [value for value in values if isinstance(value, str)]
    states = [string(graph, dfa_of_words(frozenset(texts)), following)] if texts else []
    literal = _Literals(graph, layout)
    states.extend(literal.state(value, following, depth) for value in values if not isinstance(value, str))
    return states


class _Literals:
    def __init__(self, graph: Graph, layout: Layout) -> None:
        self._graph = graph
        self._layout = layout

    def state(self, value: Any, following: int, depth: int) -> int:
        """The state before a value. A number ends at the next byte of another kind, so its last byte leads to
        `following` itself."""
        if isinstance(value, str):
            return string(self._graph, dfa_of_words(frozenset((value,))), following)
        if isinstance(value, list):
            return self._container(b"[]", [(None, part) for part in value], following, depth)
        if isinstance(value, dict):
            return self._container(b"{}", list(value.items()), following, depth)
        forms = {json.dumps(value)}
        if isinstance(value, float) and value.is_integer():
            forms.add(str(int(value)))
        return self._graph.union(self._graph.word(form.encode(), following) for form in forms)

    def _container(self, brackets: bytes, parts: list[tuple[str | None, Any]], following: int, depth: int) -> int:
        graph, layout = self._graph, self._layout
        state = layout.state((), [(brackets[1], brackets[1], following)], depth)
        for index, (name, value) in reversed(list(enumerate(parts))):
            state = self.state(value, state, depth + 1)
            if name is not None:
                state = string(graph, dfa_of_words(frozenset((name,))), layout.sign(COLON, state))
            state = layout.state((), graph.rows[state], depth + 1)
            if index:
                state = layout.state([(COMMA, COMMA, state)], (), depth)
        return graph.state([(brackets[0], brackets[0], state)])
