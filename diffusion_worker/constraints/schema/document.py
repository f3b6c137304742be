"""A schema document: its positions, their dialects, and the targets of references.

A position (`Node`) exists once, so nodes are compared by identity. References are resolved within the document and to
the metaschemas of JSON Schema, which come with `jsonschema_specifications`: others are refused and nothing is fetched.
The pointer of a position in a metaschema begins with the URI of the metaschema and `#`.

What a dynamic reference leads to depends on the references before it, which a position does not know. It is resolved
where all of them lead to the same target, and refused elsewhere.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urldefrag, urljoin

import jsonschema_specifications

from diffusion_worker.constraints.automata.unicode_properties import without_properties
from diffusion_worker.errors import InvalidRequest, UnsupportedSchema
from twolane.process import exact_json

Schema = bool | Mapping[str, Any]
_DATA: Final = ("enum", "const", "default", "examples", "example")
_NAMES: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What a draft says about references and items. `dynamic`: its keyword for dynamic references, if it has one."""

    id: str = "$id"
    ignores_siblings: bool = False  # of `$ref`
    lists_items: bool = False  # `items` may be a list
    dynamic: str = ""


_OLDEST: Final = Dialect(id="id", ignores_siblings=True, lists_items=True)
_OLD: Final = Dialect(ignores_siblings=True, lists_items=True)
_LATEST: Final = Dialect(dynamic="$dynamicRef")
_DIALECTS: Final = {
    **dict.fromkeys(("draft-03", "draft-04", "draft-05"), _OLDEST),
    **dict.fromkeys(("draft-06", "draft-07"), _OLD),
    "2019-09": Dialect(lists_items=True, dynamic="$recursiveRef"),
    "2020-12": _LATEST,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """One position of the document. `negative`: the keyword on whose behalf the complement of the schema is meant;
    empty: the schema itself."""

    schema: Schema
    pointer: str
    base: str
    dialect: Dialect = _LATEST
    negative: str = ""


Conj = tuple[Node, ...]  # a conjunction of nodes; empty: any value


class Document:
    """A schema, with the metaschemas that it refers to. `root` is its first position."""

    def __init__(self, schema: Schema) -> None:
        self._nodes: dict[tuple[str, str], Node] = {}
        self._resources: dict[str, str] = {"": ""}  # URI -> pointer
        self._anchors: dict[tuple[str, str], str] = {}  # URI, name -> pointer
        self._dynamic: dict[tuple[str, str], str] = {}  # the same of `$dynamicAnchor`; `$recursiveAnchor` has no name
        self._bases: dict[str, str] = {}  # pointer -> URI, where it changes
        self._schemas: dict[str, Schema] = {"": readable(schema)}  # URI of a metaschema, or nothing -> schema
        self._entered: set[str] = set()  # metaschemas that the document itself refers to
        self._index("", "")
        self.root = self.at("")
        self.never = Node(schema=False, pointer="", base="")
        self._always = Node(schema=True, pointer="", base="")

    def at(self, pointer: str, *, negative: str = "") -> Node:
        """The node at a JSON pointer. Raises KeyError if there is none."""
        key = (pointer, negative)
        if key not in self._nodes:
            schema, base, dialect = self._find(pointer)
            if not isinstance(schema, bool | Mapping):
                raise InvalidRequest(f"a schema must be an object or a boolean (at `#{pointer}`)")
            self._nodes[key] = Node(schema=schema, pointer=pointer, base=base, dialect=dialect, negative=negative)
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
        """The target of a reference. Raises UnsupportedSchema if it is not in the document or a metaschema, or if a
        dynamic reference may have several."""
        uri, fragment = urldefrag(_absolute(node.base, reference, node.pointer))
        self._load(uri)
        pointer = self._resources.get(uri)
        if pointer is not None and (fragment == "" or fragment.startswith("/")):
            pointer += unquote(fragment)
        else:
            pointer = self._anchors.get((uri, fragment))
        if keyword != "$ref" and (uri, fragment) in self._dynamic:
            pointer = self._outermost(fragment)
        try:
            if pointer is not None:
                return self.at(pointer)
        except KeyError:
            pass
        raise UnsupportedSchema(
            f"the reference {reference!r} does not resolve within the document"
            if keyword == "$ref" or pointer is not None or (uri, fragment) not in self._dynamic
            else f"the reference {reference!r} has a target that depends on other references",
            keyword=keyword,
            pointer=f"{node.pointer}/{_escaped(keyword)}",
        )

    def _outermost(self, name: str) -> str | None:
        """The target of dynamic references to this anchor; None: it depends on where they are."""
        found = {uri: pointer for (uri, anchor), pointer in self._dynamic.items() if anchor == name}
        root = self.root.base
        if root in found and (name or len(found) == len(self._resources) - ("" not in found)):
            return found[root]
        own = [uri for uri in found if uri not in self._schemas]
        entered = [uri for uri in found if uri in self._entered]
        only = own if len(found) == len(own) else [] if own else entered
        return found[only[0]] if len(only) == 1 else None

    def _load(self, uri: str) -> None:
        """Add a metaschema, if it is one, unless it has been added."""
        if uri in self._resources or (found := jsonschema_specifications.REGISTRY.get(uri)) is None:
            return
        self._schemas[uri] = found.contents
        self._resources[uri] = f"{uri}#"
        self._index(uri, f"{uri}#")

    def _find(self, pointer: str) -> tuple[Any, str, Dialect]:
        """What a pointer leads to, the base of references there, and the dialect."""
        uri = "" if pointer[:1] in ("", "/") else pointer.partition("#")[0]
        walked = uri and f"{uri}#"
        here: Any = self._schemas[uri]
        base = self._bases.get(walked, uri)
        dialect = _dialect(here, _LATEST)
        for token in exact_json.pointer_tokens(pointer.removeprefix(walked)):
            here = exact_json.pointer_step(here, token)
            walked += f"/{_escaped(token)}"
            base, dialect = self._bases.get(walked, base), _dialect(here, dialect)
        return here, base, dialect

    def _index(self, uri: str, pointer: str) -> None:
        """Index every resource and anchor, and load the metaschemas that the document refers to."""
        todo: list[tuple[Any, str, str, Dialect]] = [(self._schemas[uri], pointer, uri, _LATEST)]
        while todo:
            here, pointer, base, dialect = todo.pop()
            if isinstance(here, Mapping):
                dialect = _dialect(here, dialect)
                base = self._index_schema(here, pointer, base, dialect)
                if not uri and isinstance(reference := here.get("$ref"), str):
                    self._enter(urldefrag(_absolute(base, reference, pointer))[0])
            todo.extend((value, f"{pointer}/{_escaped(name)}", base, dialect) for name, value in _inside(here))

    def _enter(self, uri: str) -> None:
        if uri in jsonschema_specifications.REGISTRY:
            self._entered.add(uri)

    def _index_schema(self, schema: Mapping[str, Any], pointer: str, base: str, dialect: Dialect) -> str:
        name = schema.get(dialect.id)
        if isinstance(name, str) and not (dialect.ignores_siblings and "$ref" in schema):
            uri, fragment = urldefrag(_joined(base, name, pointer))
            if fragment:
                self._anchors[uri, fragment] = pointer
            if uri != base:
                base = uri
                self._resources.setdefault(uri, pointer)
                self._bases[pointer] = uri
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(name := schema.get(keyword), str):
                self._anchors[base, name] = pointer
        if dialect.dynamic == "$dynamicRef" and isinstance(name := schema.get("$dynamicAnchor"), str):
            self._dynamic[base, name] = pointer
        if dialect.dynamic == "$recursiveRef" and schema.get("$recursiveAnchor") is True:
            self._dynamic[base, ""] = pointer
        return base


def root_base(schema: Schema) -> str:
    """The base of references at the root of a document."""
    name = schema.get(_dialect(schema, _LATEST).id) if isinstance(schema, Mapping) else None
    return urldefrag(name)[0] if isinstance(name, str) else ""


def _absolute(base: str, reference: str, pointer: str) -> str:
    return base + reference if reference.startswith("#") else _joined(base, reference, pointer)


def _joined(base: str, reference: str, pointer: str) -> str:
    try:
        return urljoin(base, reference)
    except ValueError:
        raise InvalidRequest(f"{reference[:200]!r} is not a URI reference (at `#{pointer}`)") from None


def _dialect(schema: Any, around: Dialect) -> Dialect:
    """The dialect that a schema names, or that of the schema around it."""
    uri = schema.get("$schema") if isinstance(schema, Mapping) else None
    if not isinstance(uri, str):
        return around
    return next((dialect for name, dialect in _DIALECTS.items() if name in uri), around)


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
