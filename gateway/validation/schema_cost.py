"""Static cost bounds of a JSON Schema: the evaluations that validation may need, and the size once compiled.

A few hundred bytes of `allOf` over `$ref` can require 2^40 evaluations; counting them takes linear time. The count only
depends on which keywords apply a subschema in place and which apply it to a child of the value.
"""

from collections.abc import Iterator
from typing import Any, Final

from gateway.validation.references import References, TooManyReadings
from gateway.validation.regex_syntax import weight_of

MAX_DEPTH: Final = 64  # of a schema
MAX_EVALUATIONS: Final = 200_000  # for a value with one of everything that the schema mentions
_COUNT_CAP: Final = 10**12  # counts saturate here
_MAX_LEVELS: Final = 64  # nesting levels of a value; deeper values are counted as this deep
MAX_REGEX_WEIGHT: Final = 200_000  # of all regular expressions of a schema: half a second to compile
MAX_REGEX_CHARS: Final = 32_768  # of all of them
_BYTES_OF_SUBSCHEMA: Final = 2048  # measured, with the validators of `incremental_schema`
_BYTES_OF_VALUE: Final = 100
_BYTES_OF_REGEX_WEIGHT: Final = 100
_LIMITED_LEVEL: Final = 4  # of a value under a recursive schema, to which MAX_EVALUATIONS applies

# How a keyword applies its subschemas: to the same value, to its children, or only through references.
_IN_PLACE, _CHILD, _DEFINITION = "in_place", "child", "definition"
_KINDS: Final = {
    **dict.fromkeys(
        ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies"), _IN_PLACE
    ),
    **dict.fromkeys(("properties", "patternProperties", "additionalProperties", "unevaluatedProperties"), _CHILD),
    **dict.fromkeys(("items", "prefixItems", "additionalItems", "unevaluatedItems", "contains"), _CHILD),
    "propertyNames": _CHILD,
    **dict.fromkeys(("$defs", "definitions"), _DEFINITION),
}
# Keywords whose value maps names to schemas; elsewhere a mapping is itself a schema.
_MAPS: Final = frozenset(
    {"properties", "patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions"}
)
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")


class SchemaError(ValueError):
    """A schema is invalid, or valid but not supported (`unsupported`). `pointer` is the JSON pointer to the cause."""

    def __init__(self, cause: str, pointer: str = "#", *, unsupported: bool = False) -> None:
        super().__init__(f"{cause} at {pointer}")
        self.cause = cause
        self.pointer = pointer
        self.unsupported = unsupported


class SchemaCost:
    """The evaluations needed for one value, by its nesting depth. Raises SchemaError if there is no bound."""

    def __init__(self, schema: Any) -> None:
        graph = _Graph(schema)
        self._by_level = graph.count()
        self.is_recursive = len(self._by_level) > _MAX_LEVELS
        evaluations = self._by_level[_LIMITED_LEVEL if self.is_recursive else -1]
        if evaluations > MAX_EVALUATIONS:
            raise SchemaError(f"needs more than {MAX_EVALUATIONS} evaluations", unsupported=True)

    def of(self, value: Any) -> int:
        """Evaluations for a value with one element per array; longer arrays multiply it at most by their length."""
        return self._by_level[_depth(value, _MAX_LEVELS)] if self.is_recursive else self._by_level[-1]


class SchemaSize:
    """How large a schema is once compiled. Raises SchemaError if its regular expressions take too long to compile: a
    few hundred bytes of `\\p{L}{20}` take seconds."""

    def __init__(self, schema: Any) -> None:
        self._regex_weight = self._regex_chars = size = 0
        waiting = [(schema, "#")]
        while waiting:
            node, pointer = waiting.pop()
            size += _BYTES_OF_SUBSCHEMA if isinstance(node, dict) else _BYTES_OF_VALUE
            if isinstance(node, str):
                size += len(node)
            elif isinstance(node, list):
                waiting += [(child, pointer) for child in node]
            elif isinstance(node, dict):
                waiting += [(child, f"{pointer}/{escaped(name)}") for name, child in node.items()]
                size += sum(map(len, node))
                self._weigh(node, pointer)
        self.memory_bytes = size + self._regex_weight * _BYTES_OF_REGEX_WEIGHT

    def _weigh(self, node: dict[str, Any], pointer: str) -> None:
        properties = node.get("patternProperties")
        for pattern in properties if isinstance(properties, dict) else ():
            self._add(pattern, f"{pointer}/patternProperties")
        if isinstance(node.get("pattern"), str):
            self._add(node["pattern"], f"{pointer}/pattern")

    def _add(self, pattern: str, pointer: str) -> None:
        self._regex_chars += len(pattern)
        weight = weight_of(pattern) if self._regex_chars <= MAX_REGEX_CHARS else 0
        self._regex_weight += weight
        if weight > MAX_REGEX_WEIGHT:
            raise SchemaError("not a regular expression that can be checked in bounded time", pointer)
        if self._regex_weight > MAX_REGEX_WEIGHT or self._regex_chars > MAX_REGEX_CHARS:
            raise SchemaError("regular expressions that are too large together", pointer, unsupported=True)


class _Graph:
    """The graph of all reachable subschemas, numbered, with in-place edges and child edges."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._references = _references(root)
        self._numbers: dict[int, int] = {}
        self._pointers: list[str] = []
        self._in_place: list[list[int]] = []  # first by id(), then by number
        self._children: list[list[int]] = []
        self._discover()
        for edges in (self._in_place, self._children):
            for number, children in enumerate(edges):
                edges[number] = [self._numbers[child] for child in children]

    def count(self) -> list[int]:
        """Evaluations of the root for values nested 0, 1, ... levels deep, until the count no longer changes."""
        order = self._topological_order()
        child_costs = [0] * len(self._pointers)
        by_level: list[int] = []
        while len(by_level) <= _MAX_LEVELS:
            costs = [0] * len(self._pointers)
            for number in order:
                own = 1 + sum(costs[child] for child in self._in_place[number])
                costs[number] = min(own + sum(child_costs[child] for child in self._children[number]), _COUNT_CAP)
            by_level.append(costs[0] if costs else 1)
            if costs == child_costs and max(costs, default=0) < _COUNT_CAP:
                break
            child_costs = costs
        return by_level

    def _discover(self) -> None:
        waiting: list[tuple[Any, str, int]] = [(self._root, "#", 0)]
        while waiting:
            node, pointer, depth = waiting.pop()
            if not isinstance(node, dict) or id(node) in self._numbers:
                continue
            if depth > MAX_DEPTH:
                raise SchemaError(f"nested deeper than {MAX_DEPTH} levels", pointer)
            self._numbers[id(node)] = len(self._pointers)
            self._pointers.append(pointer)
            children = [*_subschemas(node, pointer), *self._referenced(node, pointer)]
            # The validator evaluates subschemas again to find out what is unevaluated.
            factor = 2 if any(key in node for key in ("unevaluatedProperties", "unevaluatedItems")) else 1
            by_kind = {
                wanted: [id(child) for child, _, kind in children if kind == wanted and isinstance(child, dict)]
                for wanted in (_IN_PLACE, _CHILD)
            }
            self._in_place.append(by_kind[_IN_PLACE] * factor)
            self._children.append(by_kind[_CHILD])
            waiting += [(child, inside, depth + (kind != _IN_PLACE)) for child, inside, kind in children]

    def _referenced(self, node: dict[str, Any], pointer: str) -> Iterator[tuple[Any, str, str]]:
        for keyword in _REFERENCES:
            reference = node.get(keyword)
            if not isinstance(reference, str):
                continue
            try:
                found = self._references.targets(node, keyword)
            except TooManyReadings as error:
                raise SchemaError(str(error), f"{pointer}/{keyword}", unsupported=True) from None
            except ValueError:
                raise SchemaError("not a URI reference", f"{pointer}/{keyword}") from None
            if not found and reference.startswith("#"):
                raise SchemaError("unresolved reference", f"{pointer}/{keyword}")
            if not found:
                raise SchemaError(
                    "only references within the schema are supported", f"{pointer}/{keyword}", unsupported=True
                )
            yield from ((target, reference, _IN_PLACE) for target in found)

    def _topological_order(self) -> list[int]:
        """Subschemas ordered so that in-place children come first. Raises SchemaError for a cycle."""
        order: list[int] = []
        state = [0] * len(self._pointers)  # 0 new, 1 entered, 2 done
        for start in range(len(self._pointers)):
            waiting = [start]
            while waiting:
                number = waiting[-1]
                if state[number] == 0:
                    state[number] = 1
                    for child in self._in_place[number]:
                        if state[child] == 1:
                            raise SchemaError("infinite $ref recursion", self._pointers[child])
                        if state[child] == 0:
                            waiting.append(child)
                else:
                    waiting.pop()
                    if state[number] == 1:
                        state[number] = 2
                        order.append(number)
        return order


def _references(root: Any) -> References:
    try:
        return References(root)
    except TooManyReadings as error:
        raise SchemaError(str(error), unsupported=True) from None
    except ValueError:
        raise SchemaError("an identifier that is not a URI") from None


def _subschemas(node: dict[str, Any], pointer: str) -> Iterator[tuple[Any, str, str]]:
    """(schema, its pointer, how it is applied) for every direct subschema of `node`."""
    for keyword, value in node.items():
        kind = _KINDS.get(keyword)
        if kind is None:
            continue
        inside = f"{pointer}/{escaped(keyword)}"
        if isinstance(value, list):
            yield from ((child, f"{inside}/{index}", kind) for index, child in enumerate(value))
        elif isinstance(value, dict) and keyword in _MAPS:
            yield from ((child, f"{inside}/{escaped(name)}", kind) for name, child in value.items())
        else:
            yield value, inside, kind


def _depth(value: Any, limit: int) -> int:
    """The nesting depth of a value, at most `limit`."""
    level, depth = [value], 0
    while depth < limit:
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


def masked_pointer(pointer: str) -> str:
    """A pointer into a schema with `*` for every step that is neither a keyword nor an index: names may be private."""
    head, *steps = pointer.split("/")
    is_name = False
    for at, step in enumerate(steps):
        is_kept = not is_name and (step in _KINDS or step == "$ref" or step.isdecimal())
        is_name = not is_name and step in _MAPS
        if not is_kept:
            steps[at] = "*"
    return "/".join([head, *steps])


def escaped(name: str) -> str:
    """A name escaped as a reference token of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")
