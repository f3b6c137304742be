"""How much work a JSON Schema can make, before any of it is done: references resolved, and evaluations counted.

Knows which keywords apply a schema to the same value and which to a part of it, and nothing of what they mean.
A few hundred bytes of `allOf` over `$ref` can ask for 2^40 evaluations; counting them takes linear time.
"""

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import unquote

MAX_DEPTH: Final = 64  # of a schema
MAX_EVALUATIONS: Final = 200_000  # for a value with one of everything the schema mentions
_FAR: Final = 10**12  # counting further tells nothing more
_LEVELS: Final = 64  # of an answer; deeper ones are counted as this deep
_JUDGED_LEVEL: Final = 4  # of an answer to a schema that contains itself

# How a keyword applies the schemas in its value: to the same value, to its parts, or only through references.
_SAME, _PART, _SHELF = "same", "part", "shelf"
_KINDS: Final = {
    **dict.fromkeys(
        ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies"), _SAME
    ),
    **dict.fromkeys(("properties", "patternProperties", "additionalProperties", "unevaluatedProperties"), _PART),
    **dict.fromkeys(("items", "prefixItems", "additionalItems", "unevaluatedItems", "contains"), _PART),
    "propertyNames": _PART,
    **dict.fromkeys(("$defs", "definitions"), _SHELF),
}
# In these the value is schemas by name; elsewhere a mapping is itself a schema.
_MAPS: Final = frozenset(
    {"properties", "patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions"}
)
_UNKNOWN_SCOPE: Final = ("$dynamicRef", "$recursiveRef")


class SchemaFault(ValueError):  # noqa: N818 - as in the tree of errors, the name says what happened
    """A schema that cannot be used. `pointer` says where, `unsupported` that it is valid but more than is done here."""

    def __init__(self, cause: str, pointer: str = "#", *, unsupported: bool = False) -> None:
        super().__init__(f"{cause} at {pointer}")
        self.cause = cause
        self.pointer = pointer
        self.unsupported = unsupported


class SchemaCost:
    """Evaluations needed for one value, by how deep the value is nested. Raises SchemaFault when there is no bound."""

    def __init__(self, schema: Any) -> None:
        graph = _Graph(schema)
        self._by_level = graph.count()
        self.is_recursive = len(self._by_level) > _LEVELS
        judged = self._by_level[_JUDGED_LEVEL if self.is_recursive else -1]
        if judged > MAX_EVALUATIONS:
            raise SchemaFault("its combinations are too many to check", unsupported=True)

    def of(self, value: Any) -> int:
        """Evaluations for a value with one element per array; longer arrays multiply it at most by their length."""
        return self._by_level[_depth(value, _LEVELS)] if self.is_recursive else self._by_level[-1]


class _Graph:
    """Every schema that can be reached, numbered, and whom each asks for the same value and for its parts."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._numbers: dict[int, int] = {}
        self._places: list[str] = []
        self._same: list[list[int]] = []  # first by id(), then by number
        self._parts: list[list[int]] = []
        self._discover()
        for edges in (self._same, self._parts):
            for number, children in enumerate(edges):
                edges[number] = [self._numbers[child] for child in children]

    def count(self) -> list[int]:
        """Evaluations of the root for values nested 0, 1, ... levels deep, until more levels change nothing."""
        order = self._inner_first()
        parts_cost = [0] * len(self._places)
        by_level: list[int] = []
        while len(by_level) <= _LEVELS:
            costs = [0] * len(self._places)
            for number in order:
                own = 1 + sum(costs[child] for child in self._same[number])
                costs[number] = min(own + sum(parts_cost[child] for child in self._parts[number]), _FAR)
            by_level.append(costs[0] if costs else 1)
            if costs == parts_cost and max(costs, default=0) < _FAR:
                break
            parts_cost = costs
        return by_level

    def _discover(self) -> None:
        waiting: list[tuple[Any, str, int]] = [(self._root, "#", 0)]
        while waiting:
            node, place, depth = waiting.pop()
            if not isinstance(node, dict) or id(node) in self._numbers:
                continue
            if depth > MAX_DEPTH:
                raise SchemaFault(f"nested deeper than {MAX_DEPTH} levels", place)
            self._numbers[id(node)] = len(self._places)
            self._places.append(place)
            children = [*_children(node, place), *self._referenced(node, place)]
            # What was evaluated is found out by evaluating it again.
            twice = 2 if any(key in node for key in ("unevaluatedProperties", "unevaluatedItems")) else 1
            same = [id(child) for child, _, kind in children if kind == _SAME and isinstance(child, dict)]
            self._same.append(same * twice)
            self._parts.append([id(child) for child, _, kind in children if kind == _PART and isinstance(child, dict)])
            waiting += [(child, inside, depth + (kind != _SAME)) for child, inside, kind in children]

    def _referenced(self, node: dict[str, Any], place: str) -> Iterator[tuple[Any, str, str]]:
        for keyword in _UNKNOWN_SCOPE:
            if isinstance(node.get(keyword), str):
                raise SchemaFault(f"{keyword} is not supported", place, unsupported=True)
        reference = node.get("$ref")
        if not isinstance(reference, str):
            return
        if node is not self._root and _renames(node):
            raise SchemaFault("a reference beside an $id of its own is not supported", place, unsupported=True)
        if not reference.startswith("#"):
            raise SchemaFault("only references into the schema itself are followed", f"{place}/$ref", unsupported=True)
        yield _find(self._root, reference, place), reference, _SAME

    def _inner_first(self) -> list[int]:
        """An order in which everything asked for the same value comes before who asks: there is one, or no end."""
        order: list[int] = []
        state = [0] * len(self._places)  # 0 new, 1 entered, 2 done
        for start in range(len(self._places)):
            waiting = [start]
            while waiting:
                number = waiting[-1]
                if state[number] == 0:
                    state[number] = 1
                    for child in self._same[number]:
                        if state[child] == 1:
                            raise SchemaFault("it refers to itself without end", self._places[child])
                        if state[child] == 0:
                            waiting.append(child)
                else:
                    waiting.pop()
                    if state[number] == 1:
                        state[number] = 2
                        order.append(number)
        return order


def _children(node: dict[str, Any], place: str) -> Iterator[tuple[Any, str, str]]:
    """(schema, its place, how it is applied) for every schema directly inside `node`."""
    for keyword, value in node.items():
        kind = _KINDS.get(keyword)
        if kind is None:
            continue
        inside = f"{place}/{escaped(keyword)}"
        if isinstance(value, list):
            yield from ((child, f"{inside}/{index}", kind) for index, child in enumerate(value))
        elif isinstance(value, dict) and keyword in _MAPS:
            yield from ((child, f"{inside}/{escaped(name)}", kind) for name, child in value.items())
        else:
            yield value, inside, kind


def _find(root: Any, reference: str, place: str) -> Any:
    """What a reference into the schema points to: a JSON pointer, or an anchor."""
    fragment = unquote(reference[1:])
    if fragment and not fragment.startswith("/"):
        return _find_anchor(root, fragment, place)
    node = root
    for step in fragment.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        try:
            node = node[int(name)] if isinstance(node, list) else node[name]
        except (KeyError, IndexError, ValueError, TypeError):
            raise SchemaFault("it refers to nothing", f"{place}/$ref") from None
    return node


def _find_anchor(root: Any, name: str, place: str) -> Any:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if node.get("$anchor") == name or f"#{name}" in (node.get("$id"), node.get("id")):
                return node
            waiting += [child for child, _, _ in _children(node, "")]
    raise SchemaFault("it refers to nothing", f"{place}/$ref")


def _renames(node: dict[str, Any]) -> bool:
    return any(isinstance(node.get(key), str) and not node[key].startswith("#") for key in ("$id", "id"))


def _depth(value: Any, most: int) -> int:
    """How deep a value is nested, no further than `most`."""
    level, depth = [value], 0
    while depth < most:
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            break
        depth += 1
    return depth


def escaped(name: str) -> str:
    """A name as one step of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")
