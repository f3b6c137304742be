"""From schemas to shapes: references, combinators and dependencies are expanded into a disjunction of shapes.

Symbolic, before any state is built: conjunctions are multiplied out, branches of `oneOf` are proven or made disjoint,
negations are pushed down to single keywords. What cannot be expressed, or would exceed MAX_PRODUCT, is named in
`Shape.unchecked`: the automaton then accepts too much, never too little, and validation decides.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from diffusion_worker.constraints.schema.document import Conj, Document, Node, conjunction
from diffusion_worker.constraints.schema.keywords import ANNOTATIONS
from diffusion_worker.constraints.schema.negate import NotExpressible, negated
from diffusion_worker.constraints.schema.plain_keywords import plain_shape
from diffusion_worker.constraints.schema.shapes import MemberLayer, Members, Shape
from diffusion_worker.constraints.schema.validation import SchemaValidator
from diffusion_worker.errors import UnsupportedSchema

MAX_PRODUCT: Final = 64
_MAX_SHAPES: Final = 4096  # alternatives of one position
_MAX_EXCLUSIVE: Final = 256  # alternatives of `oneOf`, each of which is compared with the others
_DEPTH_OF_PROOF: Final = 3
_SELF_EVIDENT: Final = frozenset(("enum", "const", "type", *ANNOTATIONS))
Shapes = tuple[Shape, ...]
_ANY: Final[Shapes] = (Shape(),)


class Combiner:
    """The shapes of positions and of conjunctions, each computed once. A lenient combiner leaves to validation every
    keyword that excludes values: it unites the branches of `oneOf` and ignores `not`, `if` and dependencies."""

    def __init__(self, document: Document, validator: SchemaValidator, *, lenient: bool = False) -> None:
        self.document = document
        self._lenient = lenient
        self.has_exclusions = False  # whether a lenient combiner would do less
        self._validator = validator
        self._known: dict[Node, Shapes] = {}
        self._joined: dict[Conj, Shapes] = {}
        self._in_progress: set[Node] = set()

    def shapes(self, conj: Conj) -> Shapes:
        """The shapes that satisfy all nodes."""
        if conj not in self._joined:
            shapes: Shapes = (Shape(),)
            for node in conj:
                shapes = _product(shapes, self._of(node), "allOf")
            self._joined[conj] = shapes
        return self._joined[conj]

    def _of(self, node: Node) -> Shapes:
        if node in self._known:
            return self._known[node]
        if node in self._in_progress:
            raise UnsupportedSchema("infinite $ref recursion", keyword="$ref", pointer=node.pointer)
        self._in_progress.add(node)
        try:
            shapes = self._negative(node) if node.negative else self._positive(node)
        finally:
            self._in_progress.discard(node)
        self._known[node] = shapes
        return shapes

    def _negative(self, node: Node) -> Shapes:
        try:
            return negated(self.document, self._of(self.document.negation(node, "")), node.negative)
        except NotExpressible:
            return (Shape(unchecked=frozenset((node.negative,))),)

    def _positive(self, node: Node) -> Shapes:
        schema = node.schema
        if isinstance(schema, bool):
            return (Shape(),) if schema else ()
        if node.dialect.ignores_siblings and "$ref" in schema:
            return self._of(self.document.resolve(node, "$ref", schema["$ref"]))
        shapes: Shapes = tuple(s for s in (plain_shape(self.document, node),) if s.types)
        for keyword in _COMBINATORS:
            self.has_exclusions |= keyword in schema and keyword in (*_EXCLUDING, "oneOf")
            if keyword in _EXCLUDING and keyword in schema and self._lenient:
                shapes = tuple(_in_progress(shape, keyword) for shape in shapes)
            elif keyword == "oneOf" and keyword in schema:
                shapes = self._one_of(shapes, [self._of(n) for n in self._branches(node, keyword)])
            elif keyword in schema and (keyword not in _DYNAMIC or keyword == node.dialect.dynamic):
                for factor in self._factors(node, keyword, schema[keyword]):
                    shapes = _product(shapes, factor, keyword)
                    if keyword in _DEPENDENCIES:  # most pairs of "with" and "without" are contradictory
                        shapes = tuple(shape for shape in shapes if not self.is_empty(shape))
            if len(shapes) > _MAX_SHAPES:
                pointer = f"{node.pointer}/{keyword}"
                raise UnsupportedSchema(f"more than {_MAX_SHAPES} alternatives", keyword=keyword, pointer=pointer)
        return shapes

    def _factors(self, node: Node, keyword: str, value: Any) -> Iterable[Shapes]:
        child = self.document.child
        match keyword:
            case "$ref" | "$dynamicRef" | "$recursiveRef":
                yield self._of(self.document.resolve(node, keyword, value))
            case "allOf":
                yield from (self._of(branch) for branch in self._branches(node, keyword))
            case "anyOf":
                shapes = [shape for branch in self._branches(node, keyword) for shape in self._of(branch)]
                yield tuple({id(shape): shape for shape in shapes}.values())  # branches may be the same definition
            case "not":
                yield self._of(self.document.negation(child(node, keyword), keyword))
            case "if":
                yield self._condition(node)
            case _:
                yield from (self._dependency(node, keyword, name, needs) for name, needs in value.items())

    def _branches(self, node: Node, keyword: str) -> list[Node]:
        assert not isinstance(node.schema, bool)
        return [self.document.child(node, keyword, index) for index in range(len(node.schema[keyword]))]

    def _condition(self, node: Node) -> Shapes:
        """`then` where `if` holds, `else` where it does not. Without `then`, satisfying either is enough."""
        assert not isinstance(node.schema, bool)
        condition = self.document.child(node, "if")
        if "then" not in node.schema:
            return (
                *self._of(condition),
                *(self._of(self.document.child(node, "else")) if "else" in node.schema else _ANY),
            )
        alternatives: list[Shape] = []
        for keyword, premise in (("then", condition), ("else", self.document.negation(condition, "if"))):
            shapes = self._of(premise)
            if keyword in node.schema:
                shapes = _product(shapes, self._of(self.document.child(node, keyword)), "if")
            alternatives.extend(shapes)
        return tuple(alternatives)

    def _dependency(self, node: Node, keyword: str, name: str, needs: Any) -> Shapes:
        """Either without the name, or with it and what it requires."""
        absent = Shape(members=Members(layers=(_without(self.document, name),)))
        if isinstance(needs, list):
            return absent, Shape(members=Members(required=(name, *needs)))
        present = Shape(members=Members(required=(name,)))
        needed = self._of(self.document.child(node, keyword, name))
        return absent, *_product((present,), needed, keyword)

    def _one_of(self, around: Shapes, branches: Sequence[Shapes]) -> Shapes:
        """What satisfies `around` and exactly one of the branches."""
        if self._lenient or sum(map(len, branches)) > _MAX_EXCLUSIVE:
            return tuple(
                _in_progress(shape, "oneOf") for branch in branches for shape in _product(around, branch, "oneOf")
            )
        alternatives: list[Shape] = []
        for index, branch in enumerate(branches):
            own = _product(around, branch, "oneOf")
            for other, theirs in enumerate(branches):
                if other != index:
                    own = tuple(piece for shape in own for piece in self._excluding(shape, theirs))
            alternatives.extend(own)
        return tuple(alternatives)

    def _excluding(self, ours: Shape, theirs: Shapes) -> Shapes:
        """`ours` minus `theirs`, one type at a time; left unchecked where that cannot be expressed."""
        clear: set[str] = set()
        pieces: list[Shape] = []
        for name in sorted(ours.types):
            own = ours.only(name)
            others = tuple(shape.only(name) for shape in theirs if name in shape.types)
            others = tuple(other_shape for other_shape in others if not self.is_empty(own.and_(other_shape)))
            if not others:
                clear.add(name)
                continue
            try:
                outside = negated(self.document, others, "oneOf", within=own)
                pieces.extend(_product((own,), outside, "oneOf"))
            except NotExpressible:
                pieces.append(_in_progress(own, "oneOf"))
        if len(clear) == len(ours.types):
            return (ours,)
        return (*((ours.only(*clear),) if clear else ()), *(piece for piece in pieces if not self.is_empty(piece)))

    def is_empty(self, shape: Shape, depth: int = 0) -> bool:
        """Whether the shape is provably empty."""
        if shape.types != {"object"} or depth > _DEPTH_OF_PROOF:
            return not shape.types
        return any(self._is_unsatisfiable(self.member(shape.members, name), depth) for name in shape.members.required)

    def _is_unsatisfiable(self, conj: Conj, depth: int) -> bool:
        if not self._in_progress.isdisjoint(conj):
            return False
        try:
            return all(self.is_empty(shape, depth + 1) or self._none_fits(shape, conj) for shape in self.shapes(conj))
        except UnsupportedSchema:  # infinite or unresolved $ref: reported where it is built
            return False

    def _none_fits(self, shape: Shape, conj: Conj) -> bool:
        return shape.literals is not None and not any(self.satisfies(value, conj) for value in shape.literals)

    def satisfies(self, value: Any, conj: Conj) -> bool:
        """Whether a literal satisfies all nodes."""
        return all(_is_self_evident(node) or self._validator.is_satisfied(node, value) for node in conj)

    def member(self, members: Members, name: str) -> Conj:
        """The subschemas of one member in all layers."""
        return conjunction(*(self._in_layer(layer, name) for layer in members.layers))

    def _in_layer(self, layer: MemberLayer, name: str) -> Conj:
        found = [layer.properties[name]] if name in layer.properties else []
        found += [conj for pattern, conj in layer.patterns if _found(pattern, name)]
        return conjunction(*found) if found else layer.rest or ()


def _is_self_evident(node: Node) -> bool:
    """Whether a literal of the node's shape satisfies the node without validation."""
    if node.negative or isinstance(node.schema, bool):
        return not node.negative and node.schema is True
    return _SELF_EVIDENT.issuperset(node.schema)


def _without(document: Document, name: str) -> MemberLayer:
    return MemberLayer(properties={name: (document.never,)})


def _found(pattern: str, name: str) -> bool:
    return re.search(pattern, name) is not None


def _in_progress(shape: Shape, keyword: str) -> Shape:
    return replace(shape, unchecked=shape.unchecked | {keyword})


def _product(ours: Shapes, theirs: Shapes, keyword: str) -> Shapes:
    """The pairwise intersections; above MAX_PRODUCT the second factor stays unchecked."""
    if ours == _ANY:
        return theirs
    if len(ours) > 1 and len(theirs) > 1 and len(ours) * len(theirs) > MAX_PRODUCT:
        return tuple(_in_progress(shape, keyword) for shape in ours)
    return tuple(joined for a in ours for b in theirs if (joined := a.and_(b)).types)


_DEPENDENCIES: Final = ("dependencies", "dependentRequired", "dependentSchemas")
_EXCLUDING: Final = ("not", "if", *_DEPENDENCIES)
_DYNAMIC: Final = ("$dynamicRef", "$recursiveRef")
_COMBINATORS: Final = ("$ref", *_DYNAMIC, "allOf", "anyOf", "oneOf", "not", "if", *_DEPENDENCIES)
