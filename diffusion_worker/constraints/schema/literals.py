"""Values that are written out in the schema (`enum`, `const`): each as compact JSON with white space where it may be.

Strings in the plain spelling, numbers as Python writes them and without needless fraction, members as given.
"""

import json
from collections.abc import Iterable
from typing import Any

from diffusion_worker.constraints.automata.code_point_dfa import words
from diffusion_worker.constraints.automata.graph import Graph
from diffusion_worker.constraints.schema.json_strings import string
from diffusion_worker.constraints.schema.site import COLON, COMMA, before, padded, sign


def literals(graph: Graph, values: Iterable[Any], following: int) -> list[int]:
    """The states before any of the values; together they may overlap."""
    texts = [value for value in values if isinstance(value, str)]
    states = [string(graph, words(frozenset(texts)), following)] if texts else []
    states.extend(_literal(graph, value, following) for value in values if not isinstance(value, str))
    return states


def _literal(graph: Graph, value: Any, following: int) -> int:
    if isinstance(value, str):
        return string(graph, words(frozenset((value,))), following)
    if isinstance(value, list):
        return _container(graph, b"[]", [(None, part) for part in value], following)
    if isinstance(value, dict):
        return _container(graph, b"{}", list(value.items()), following)
    forms = {json.dumps(value)}
    if isinstance(value, float) and value.is_integer():
        forms.add(str(int(value)))
    return graph.union(_word(graph, form.encode(), following) for form in forms)


def _word(graph: Graph, word: bytes, following: int) -> int:
    """A number ends where the next byte says so: the last byte leads to `following` itself."""
    return graph.word(word, following)


def _container(graph: Graph, brackets: bytes, parts: list[tuple[str | None, Any]], following: int) -> int:
    state = padded(graph, [(brackets[1], brackets[1], following)])
    for index, (name, value) in reversed(list(enumerate(parts))):
        state = _literal(graph, value, state)
        if name is not None:
            state = string(graph, words(frozenset((name,))), sign(graph, COLON, state))
        state = before(graph, state)
        if index:
            state = padded(graph, [(COMMA, COMMA, state)])
    return graph.state([(brackets[0], brackets[0], state)])
