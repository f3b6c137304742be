"""Negation of schemas: the complement of a list of shapes, by De Morgan's laws over single keywords.

Not expressible are the complements of formats, `multipleOf`, subschemas of all items or all undeclared members, array
and object literals, and of everything that is itself left to validation.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from diffusion_worker.constraints.schema.document import Document
from diffusion_worker.constraints.schema.numbers import Bounds, Numbers
from diffusion_worker.constraints.schema.shapes import TYPES, Items, MemberLayer, Members, Shape, Text, type_of

_MAX_SHAPES = 48


class NotExpressible(Exception):  # noqa: N818 - says what happened; never leaves the compiler
    """The complement cannot be written as shapes."""


def negated(
    document: Document, shapes: tuple[Shape, ...], keyword: str, *, within: Shape | None = None
) -> tuple[Shape, ...]:
    """The shapes of every value that none of `shapes` accepts, on behalf of `keyword`; within the values of `within` if
    it is given. Raises NotExpressible."""
    outside: tuple[Shape, ...] = (Shape(),)
    for shape in shapes:
        negation = tuple(_negation(_Context(document, keyword, within), shape))
        outside = tuple(joined for a in outside for b in negation if (joined := a.and_(b)).types)
        if len(outside) > _MAX_SHAPES:
            raise NotExpressible
    return outside


class _Context(NamedTuple):
    document: Document
    keyword: str
    within: Shape | None

    def names(self) -> frozenset[str] | None:
        """The names that objects can have here; None: unbounded."""
        layers = () if self.within is None else self.within.members.layers
        closed = [frozenset(layer.properties) for layer in layers if _is_closed(layer)]
        return frozenset.intersection(*closed) if closed else None


def _is_closed(layer: MemberLayer) -> bool:
    return bool(layer.rest) and not layer.patterns and any(node.schema is False for node in layer.rest or ())


def _negation(context: _Context, shape: Shape) -> Iterator[Shape]:
    if shape.unchecked:
        raise NotExpressible
    if other := TYPES - shape.types:
        yield Shape(types=other)
    if shape.literals is not None:
        yield from _other_values(shape)
        return
    if "number" in shape.types:
        yield from _other_numbers(shape)
    if "string" in shape.types:
        yield from (Shape(types=frozenset(("string",)), text=text) for text in _other_texts(shape.text))
        if shape.text.excluded:
            yield Shape(types=frozenset(("string",)), literals=tuple(sorted(shape.text.excluded)))
    if "array" in shape.types:
        yield from (Shape(types=frozenset(("array",)), items=items) for items in _other_items(shape.items))
    if "object" in shape.types:
        found = _other_members(context, shape.members)
        yield from (Shape(types=frozenset(("object",)), members=members) for members in found)


def _other_values(shape: Shape) -> Iterator[Shape]:
    """Values of the literals' types that are none of the literals."""
    literals = shape.literals or ()
    if shape.types & {"array", "object"}:
        raise NotExpressible
    if "boolean" in shape.types and (left := tuple(v for v in (True, False) if v not in literals)):
        yield Shape(types=frozenset(("boolean",)), literals=left)
    if "string" in shape.types:
        excluded = frozenset(value for value in literals if isinstance(value, str))
        yield Shape(types=frozenset(("string",)), text=Text(excluded=excluded))
    numbers = sorted({Decimal(str(value)) for value in literals if type_of(value) == "number"})
    for low, high in zip([None, *numbers], [*numbers, None], strict=True):
        if numbers:
            bounds = Bounds(low=low, high=high, above=low is not None, below=high is not None)
            yield _numbers(bounds)


def _other_numbers(shape: Shape) -> Iterator[Shape]:
    numbers, bounds = shape.numbers, shape.numbers.bounds
    if numbers.integer or numbers.multiples:
        raise NotExpressible
    if bounds.low is not None:
        yield _numbers(Bounds(high=bounds.low, below=not bounds.above))
    if bounds.high is not None:
        yield _numbers(Bounds(low=bounds.high, above=not bounds.below))


def _numbers(bounds: Bounds) -> Shape:
    return Shape(types=frozenset(("number",)), numbers=Numbers(bounds=bounds))


def _other_texts(text: Text) -> Iterator[Text]:
    if text.formats:
        raise NotExpressible
    if text.low:
        yield Text(high=text.low - 1)
    if text.high is not None:
        yield Text(low=text.high + 1)
    yield from (Text(excluded_patterns=(pattern,)) for pattern in text.patterns)
    yield from (Text(patterns=(pattern,)) for pattern in text.excluded_patterns)


def _other_items(items: Items) -> Iterator[Items]:
    if any(layer.rest or any(layer.prefix) for layer in items.layers):
        raise NotExpressible
    if items.low:
        yield Items(high=items.low - 1)
    if items.high is not None:
        yield Items(low=items.high + 1)


def _other_members(context: _Context, members: Members) -> Iterator[Members]:
    document, names = context.document, context.names()
    if members.names or members.closed or any(layer.patterns for layer in members.layers):
        raise NotExpressible
    if names is None and any(layer.rest for layer in members.layers):
        raise NotExpressible
    if members.low:
        yield Members(high=members.low - 1)
    if members.high is not None:
        yield Members(low=members.high + 1)
    rests = [
        {name: layer.rest or () for name in sorted(names or ()) if name not in layer.properties}
        for layer in members.layers
    ]
    said = [
        (name, node)
        for layer, rest in zip(members.layers, rests, strict=True)
        for name, conj in {**layer.properties, **rest}.items()
        for node in conj
    ]
    for name in members.required:
        if all(name != other for other, _ in said):
            yield Members(layers=(MemberLayer(properties={name: (document.never,)}),))
    for name, node in said:
        other = MemberLayer(properties={name: (document.negation(node, context.keyword),)})
        # "absent or different" is one alternative, not two: alternatives multiply with every name
        yield Members(layers=(other,), required=() if name in members.required else (name,))
