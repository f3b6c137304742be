"""The fixed syntax of JSON as states over bytes: white space, punctuation, and values that the schema writes out.

White space, `[ \\t\\n\\r]*`, is admitted wherever RFC 8259 allows it, as a loop on the state that it precedes. It is
unbounded: a bound would cost one state per byte and position, and `max_tokens` limits it anyway.
"""

import json
from collections.abc import Iterable
from typing import Any, Final

from diffusion_worker.constraints.automata.automaton import Edge
from diffusion_worker.constraints.automata.code_point_dfa import dfa_of_words
from diffusion_worker.constraints.automata.graph import SELF, Graph
from diffusion_worker.constraints.schema.json_strings import string

WHITE: Final[tuple[Edge, ...]] = ((0x09, 0x0A, SELF), (0x0D, 0x0D, SELF), (0x20, 0x20, SELF))
COMMA: Final = 0x2C
COLON: Final = 0x3A


def padded(graph: Graph, edges: Iterable[Edge]) -> int:
    """White space, then `edges`."""
    return graph.state([*WHITE, *edges])


def before(graph: Graph, state: int) -> int:
    """White space, then what `state` reads."""
    return padded(graph, graph.rows[state])


def sign(graph: Graph, byte: int, following: int) -> int:
    """White space, one byte, white space, then what `following` reads."""
    return padded(graph, [(byte, byte, before(graph, following))])


def literals(graph: Graph, values: Iterable[Any], following: int) -> list[int]:
    """The states before any of the values of `enum` or `const`; they may overlap."""
    texts = [value for value in values if isinstance(value, str)]
    states = [string(graph, dfa_of_words(frozenset(texts)), following)] if texts else []
    states.extend(_literal(graph, value, following) for value in values if not isinstance(value, str))
    return states


def _literal(graph: Graph, value: Any, following: int) -> int:
    if isinstance(value, str):
        return string(graph, dfa_of_words(frozenset((value,))), following)
    if isinstance(value, list):
        return _container(graph, b"[]", [(None, part) for part in value], following)
    if isinstance(value, dict):
        return _container(graph, b"{}", list(value.items()), following)
    forms = {json.dumps(value)}
    if isinstance(value, float) and value.is_integer():
        forms.add(str(int(value)))
    return graph.union(_word(graph, form.encode(), following) for form in forms)


def _word(graph: Graph, word: bytes, following: int) -> int:
    """A number ends at the next byte of another kind, so its last byte leads to `following` itself."""
    return graph.word(word, following)


def _container(graph: Graph, brackets: bytes, parts: list[tuple[str | None, Any]], following: int) -> int:
    state = padded(graph, [(brackets[1], brackets[1], following)])
    for index, (name, value) in reversed(list(enumerate(parts))):
        state = _literal(graph, value, state)
        if name is not None:
            state = string(graph, dfa_of_words(frozenset((name,))), sign(graph, COLON, state))
        state = before(graph, state)
        if index:
            state = padded(graph, [(COMMA, COMMA, state)])
    return graph.state([(brackets[0], brackets[0], state)])
