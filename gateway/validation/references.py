"""Where the references of a schema may lead: an upper bound, for the cost of validation (`schema_cost`).

Validation resolves references itself. Drafts differ in what changes the base of a reference (`id`, `$id`, a `$id`
beside `$ref`), and a dynamic reference depends on the references before it. So every target that a reference has in any
reading is counted. Only targets within the schema exist: nothing is fetched.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import unquote, urldefrag, urljoin

from twolane.process import exact_json

MAX_BASES: Final = 16  # of one position: resources inside each other
MAX_TARGETS: Final = 16  # of one reference
_DATA: Final = frozenset(("enum", "const"))
_Node = dict[str, Any]


class TooManyReadings(Exception):  # noqa: N818 - becomes a SchemaError
    """More bases of a position, or targets of a reference, than the limit."""


class References:
    """The resources and anchors of a schema. Raises TooManyReadings, and ValueError for an identifier that is no
    URI."""

    def __init__(self, root: Any) -> None:
        self._resources = defaultdict[str, list[Any]](list, {"": [root]})
        self._anchors = defaultdict[tuple[str, str], list[_Node]](list)
        self._dynamic = defaultdict[str, list[_Node]](list)  # `$recursiveAnchor` has no name
        self._bases: dict[int, tuple[str, ...]] = {}  # by id() of the node
        waiting: list[tuple[Any, tuple[str, ...]]] = [(root, ("",))]
        while waiting:
            node, bases = waiting.pop()
            if isinstance(node, list):
                waiting += [(each, bases) for each in node]
            elif isinstance(node, dict):
                bases = self._add(node, bases)
                waiting += [(each, bases) for name, each in node.items() if name not in _DATA]

    def targets(self, node: _Node, keyword: str) -> list[Any]:
        """Every schema that the reference under a keyword of a node may lead to. Raises TooManyReadings, and ValueError
        for a reference that is no URI."""
        found: dict[int, Any] = {}
        for target in self._readings(node, keyword):
            found[id(target)] = target
            if len(found) > MAX_TARGETS:
                raise TooManyReadings(f"more than {MAX_TARGETS} targets of one reference")
        return list(found.values())

    def _readings(self, node: _Node, keyword: str) -> Iterator[Any]:
        is_found = False
        for target in self._static(node, node[keyword]):
            is_found = True
            yield target
        if is_found and keyword != "$ref":
            yield from self._dynamic.get(unquote(urldefrag(node[keyword]).fragment), ())

    def _add(self, node: _Node, bases: tuple[str, ...]) -> tuple[str, ...]:
        """The bases of references in a node."""
        for name in [node[key] for key in ("$id", "id") if isinstance(node.get(key), str)]:
            for base in bases:
                uri, fragment = urldefrag(urljoin(base, name))
                if fragment:
                    self._anchors[uri, fragment].append(node)
                elif uri not in bases:
                    self._resources[uri].append(node)
                    bases = (*bases, uri)
        if len(bases) > MAX_BASES:
            raise TooManyReadings(f"more than {MAX_BASES} identifiers around one position")
        self._bases[id(node)] = bases
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(name := node.get(keyword), str):
                for base in bases:
                    self._anchors[base, name].append(node)
        if isinstance(name := node.get("$dynamicAnchor"), str):
            self._dynamic[name].append(node)
        if node.get("$recursiveAnchor") is True:
            self._dynamic[""].append(node)
        return bases

    def _static(self, node: _Node, reference: str) -> Iterator[Any]:
        for base in self._bases[id(node)]:
            uri, fragment = urldefrag(base + reference if reference.startswith("#") else urljoin(base, reference))
            fragment = unquote(fragment)
            if not fragment or fragment.startswith("/"):
                for resource in self._resources.get(uri, ()):
                    yield from _at(resource, fragment)
            else:
                yield from self._anchors.get((uri, fragment), ())


def _at(resource: Any, pointer: str) -> Iterator[Any]:
    """The value at a pointer into a resource, if there is one."""
    try:
        for token in exact_json.pointer_tokens(pointer):
            resource = exact_json.pointer_step(resource, token)
    except KeyError:
        return
    yield resource
