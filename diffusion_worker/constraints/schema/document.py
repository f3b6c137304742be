"""A schema document: its positions, its dialect, and the targets of its references.

A position (`Node`) exists once, so nodes are compared by identity. References are resolved within the document only:
remote ones are refused and nothing is fetched.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urldefrag, urljoin

from diffusion_worker.constraints.automata.unicode_properties import without_properties
from diffusion_worker.errors import InvalidRequest, UnsupportedSchema

Schema = bool | Mapping[str, Any]
_OLD: Final = ("draft-03", "draft-04", "draft-05", "draft-06", "draft-07")
_OLDEST: Final = ("draft-03", "draft-04", "draft-05")
_DATA: Final = ("enum", "const", "default", "examples", "example")
_NAMES: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """One position of the document. `negative`: the keyword on whose behalf the complement of the schema is meant;
    empty: the schema itself."""

    schema: Schema
    pointer: str
    base: str
    negative: str = ""


Conj = tuple[Node, ...]  # a conjunction of nodes; empty: any value


class Document:
    """A schema and its reference rules by dialect. `root` is its first position."""

    def __init__(self, schema: Schema) -> None:
        uri = schema.get("$schema", "") if isinstance(schema, Mapping) else ""
        dialect = uri if isinstance(uri, str) else ""
        self.old = any(name in dialect for name in _OLD)  # siblings of `$ref` are ignored up to draft 7
        self._id = "id" if any(name in dialect for name in _OLDEST) else "$id"  # renamed in draft 6
        self.lists_items = self.old or "2019-09" in dialect  # `items` may be a list
        self._nodes: dict[tuple[str, str], Node] = {}
        self._resources: dict[str, str] = {"": ""}  # URI -> pointer
        self._anchors: dict[tuple[str, str], str] = {}  # URI, name -> pointer
        self._bases: dict[str, str] = {}  # pointer -> URI, where it changes
        self._schema = readable(schema)
        self._index(self._schema, "", "")
        self.root = self.at("")
        self.never = Node(schema=False, pointer="", base="")
        self._always = Node(schema=True, pointer="", base="")

    def at(self, pointer: str, *, negative: str = "") -> Node:
        """The node at a JSON pointer. Raises KeyError if there is none."""
        key = (pointer, negative)
        if key not in self._nodes:
            schema, base = self._find(pointer)
            if not isinstance(schema, bool | Mapping):
                raise InvalidRequest(f"a schema must be an object or a boolean (at `#{pointer}`)")
            self._nodes[key] = Node(schema=schema, pointer=pointer, base=base, negative=negative)
        return self._nodes[key]

    def child(self, node: Node, *tokens: str | int) -> Node:
        """A subschema of a node."""
        return self.at(node.pointer + "".join(f"/{_escaped(str(token))}" for token in tokens))

    def negation(self, node: Node, keyword: str) -> Node:
        """The complement of a node, on behalf of `keyword`."""
        if node is self.never or node is self._always:
            return self._always if node is self.never else self.never
        return self.at(node.pointer, negative="" if node.negative else keyword)

    def resolve(self, node: Node, keyword: str, reference: str) -> Node:
        """The target of a reference. Raises UnsupportedSchema if it is not in the document."""
        uri, fragment = urldefrag(
            urljoin(node.base, reference) if not reference.startswith("#") else node.base + reference
        )
        pointer = self._resources.get(uri)
        if pointer is not None and (fragment == "" or fragment.startswith("/")):
            pointer += unquote(fragment)
        else:
            pointer = self._anchors.get((uri, fragment))
        try:
            if pointer is not None:
                return self.at(pointer)
        except KeyError:
            pass
        raise UnsupportedSchema(
            f"the reference {reference!r} does not resolve within the document",
            keyword=keyword,
            pointer=f"{node.pointer}/{_escaped(keyword)}",
        )

    def _find(self, pointer: str) -> tuple[Any, str]:
        here: Any = self._schema
        base, walked = self._bases.get("", ""), ""
        for token in pointer.split("/")[1:]:
            name = token.replace("~1", "/").replace("~0", "~")
            try:
                here = here[int(name)] if isinstance(here, list) else here[name]
            except (LookupError, TypeError, ValueError):
                raise KeyError(pointer) from None
            walked += f"/{token}"
            base = self._bases.get(walked, base)
        return here, base

    def _index(self, schema: Any, pointer: str, base: str) -> None:
        """Index every resource and anchor."""
        todo = [(schema, pointer, base)]
        while todo:
            here, pointer, base = todo.pop()
            if isinstance(here, Mapping):
                base = self._index_schema(here, pointer, base)
            todo.extend((value, f"{pointer}/{_escaped(name)}", base) for name, value in _inside(here))

    def _index_schema(self, schema: Mapping[str, Any], pointer: str, base: str) -> str:
        name = schema.get(self._id)
        if isinstance(name, str) and not (self.old and "$ref" in schema):
            uri, fragment = urldefrag(urljoin(base, name))
            if fragment:
                self._anchors[uri, fragment] = pointer
            if uri != base:
                base = uri
                self._resources.setdefault(uri, pointer)
                self._bases[pointer] = uri
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(name := schema.get(keyword), str):
                self._anchors[base, name] = pointer
        return base


def readable(schema: Schema) -> Schema:
    """The schema with properties of Unicode in its patterns written as characters (see `unicode_properties`)."""
    content = json.dumps(schema)
    found = _readable(schema) if "\\\\p{" in content or "\\\\P{" in content else schema
    assert isinstance(found, bool | Mapping)
    return found


def _readable(value: Any, *, are_names: bool = False) -> Any:
    if isinstance(value, list):
        return [_readable(part) for part in value]
    if not isinstance(value, Mapping):
        return value
    if are_names:
        return {name: _readable(part) for name, part in value.items()}
    found = dict[str, Any]()
    for name, part in value.items():
        if name in _DATA:
            found[name] = part
        elif name == "pattern" and isinstance(part, str):
            found[name] = without_properties(part)
        elif name == "patternProperties" and isinstance(part, Mapping):
            found[name] = {without_properties(pattern): _readable(inner) for pattern, inner in part.items()}
        else:
            found[name] = _readable(part, are_names=name in _NAMES)
    return found


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((name, part) for name, part in value.items() if name not in _DATA)
    elif isinstance(value, list):
        yield from ((str(index), part) for index, part in enumerate(value))


def _escaped(token: str) -> str:
    return token.replace("~", "~0").replace("/", "~1")


def conjunction(*parts: Iterable[Node]) -> Conj:
    """The conjunction of the nodes, without duplicates, in order of appearance."""
    return tuple(dict.fromkeys(node for part in parts for node in part))


def json_equal(left: Any, right: Any) -> bool:
    """Equality of JSON values: true is not 1, but 1.0 is."""
    return canonical(left) == canonical(right)


def canonical(value: Any) -> str:
    """A canonical text: equal for equal JSON values only."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value
