"""Schemas in disjunctive normal form: a list of shapes, each a conjunction of keyword restrictions per JSON type.

Every schema is brought to this form before any state is built: `combine` makes the shapes, this module intersects two
of them. Subschemas stay references to positions (`Conj`) and are expanded where they are reached.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final, TypeVar

from diffusion_worker.constraints.automata.code_point_dfa import accepts, dfa_of_pattern
from diffusion_worker.constraints.schema.document import Conj, canonical, conjunction, json_equal
from diffusion_worker.constraints.schema.formats import FORMATS
from diffusion_worker.constraints.schema.numbers import Bounds, Numbers

T = TypeVar("T")
TYPES: Final = frozenset(("null", "boolean", "number", "string", "array", "object"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Strings: length in code points, patterns that must and must not match, formats, excluded values."""

    low: int = 0
    high: int | None = None
    patterns: tuple[str, ...] = ()
    excluded_patterns: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    excluded: frozenset[str] = frozenset()

    def and_(self, other: "Text") -> "Text":
        """The intersection."""
        return Text(
            low=max(self.low, other.low),
            high=_least(self.high, other.high),
            patterns=_joined(self.patterns, other.patterns),
            excluded_patterns=_joined(self.excluded_patterns, other.excluded_patterns),
            formats=_joined(self.formats, other.formats),
            excluded=self.excluded | other.excluded,
        )

    def fits(self, value: str) -> bool:
        """Whether a string satisfies all of this."""
        if value in self.excluded or len(value) < self.low or (self.high is not None and len(value) > self.high):
            return False
        if not all(accepts(dfa_of_pattern(FORMATS[name], whole=True), value) for name in self.formats):
            return False
        return all(re.search(p, value) for p in self.patterns) and not any(
            re.search(p, value) for p in self.excluded_patterns
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemLayer:
    """What one schema requires of array items. `rest` None: no restriction."""

    prefix: tuple[Conj, ...] = ()
    rest: Conj | None = None

    def at(self, index: int) -> Conj:
        """The subschemas of one item."""
        return self.prefix[index] if index < len(self.prefix) else self.rest or ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """Arrays: all layers together, and the number of items."""

    layers: tuple[ItemLayer, ...] = ()
    low: int = 0
    high: int | None = None

    def and_(self, other: "Items") -> "Items":
        """The intersection."""
        layers = (*self.layers, *other.layers)
        return Items(layers=layers, low=max(self.low, other.low), high=_least(self.high, other.high))

    def at(self, index: int) -> Conj:
        """The subschemas of one item in all layers."""
        return conjunction(*(layer.at(index) for layer in self.layers))

    @property
    def unconstrained(self) -> bool:
        """Whether items after the prefixes are unrestricted."""
        return all(layer.rest is None for layer in self.layers)

    @property
    def prefix(self) -> int:
        """The number of leading items with their own subschemas."""
        return max((len(layer.prefix) for layer in self.layers), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberLayer:
    """What one schema requires of object members. `rest` None: undeclared members are unrestricted."""

    properties: Mapping[str, Conj] = field(default_factory=dict)
    patterns: tuple[tuple[str, Conj], ...] = ()
    rest: Conj | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """Objects: all layers together, required names, the number of members, and restrictions on names."""

    layers: tuple[MemberLayer, ...] = ()
    required: tuple[str, ...] = ()
    low: int = 0
    high: int | None = None
    names: Conj = ()
    closed: bool = False  # undeclared names are not allowed

    def and_(self, other: "Members") -> "Members":
        """The intersection."""
        return Members(
            layers=(*self.layers, *other.layers),
            required=_joined(self.required, other.required),
            low=max(self.low, other.low),
            high=_least(self.high, other.high),
            names=conjunction(self.names, other.names),
            closed=self.closed or other.closed,
        )

    @property
    def declared(self) -> tuple[str, ...]:
        """Names in the order of the normal form: declared names layer by layer, then names that are only required."""
        return tuple(
            dict.fromkeys(
                name for names in (*(layer.properties for layer in self.layers), self.required) for name in names
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One alternative. Restrictions of a type that is not in `types` have no meaning."""

    types: frozenset[str] = TYPES
    numbers: Numbers = field(default_factory=Numbers)
    text: Text = field(default_factory=Text)
    items: Items = field(default_factory=Items)
    members: Members = field(default_factory=Members)
    literals: tuple[Any, ...] | None = None  # the only allowed values
    unchecked: frozenset[str] = frozenset()  # keywords that only validation of the whole answer checks

    def and_(self, other: "Shape") -> "Shape":
        """The intersection."""
        joined = Shape(
            types=self.types & other.types,
            numbers=self.numbers.and_(other.numbers),
            text=self.text.and_(other.text),
            items=self.items.and_(other.items),
            members=self.members.and_(other.members),
            literals=_shared(self.literals, other.literals),
            unchecked=self.unchecked | other.unchecked,
        )
        return joined.reduced()

    def only(self, *types: str) -> "Shape":
        """Restricted to these types."""
        return replace(self, types=self.types & set(types)).reduced()

    def reduced(self) -> "Shape":
        """Without types that have no value left, and without literals of other types."""
        types = self.types
        if self.text.high is not None and self.text.high < self.text.low:
            types -= {"string"}
        if self.numbers.empty:
            types -= {"number"}
        if self.items.high is not None and self.items.high < self.items.low:
            types -= {"array"}
        if self.members.high is not None and self.members.high < max(self.members.low, len(self.members.required)):
            types -= {"object"}
        literals = self.literals
        if literals is not None:
            kept = replace(self, types=types)
            literals = tuple(value for value in literals if kept.fits(value))
            types &= {type_of(value) for value in literals}
        return replace(self, types=types, literals=literals)

    def fits(self, value: Any) -> bool:
        """Whether a value satisfies everything but its subschemas."""
        kind = type_of(value)
        if kind not in self.types:
            return False
        if kind == "number":
            return self._fits_number(value)
        if kind == "string":
            return self.text.fits(value)
        return kind != "object" or all(name in value for name in self.members.required)

    def _fits_number(self, value: float) -> bool:
        number = Decimal(str(value))
        if not number.is_finite():
            return False
        if self.numbers.integer and number != number.to_integral_value():
            return False
        if any(number % divisor for divisor in self.numbers.multiples):
            return False
        return not self.numbers.bounds.and_(Bounds(low=number, high=number)).empty


def type_of(value: Any) -> str:
    """The JSON type of a parsed value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def _least(left: int | None, right: int | None) -> int | None:
    return min((value for value in (left, right) if value is not None), default=None)


def _joined(left: tuple[T, ...], right: tuple[T, ...]) -> tuple[T, ...]:
    return tuple(dict.fromkeys((*left, *right)))


def _shared(left: tuple[Any, ...] | None, right: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    if left is None or right is None:
        return left if right is None else right
    return tuple(value for value in left if any(json_equal(value, other) for other in right))


Restriction = TypeVar("Restriction", Numbers, Text, Items, Members)


def weakest(shapes: Iterable[Restriction]) -> list[Restriction]:
    """The distinct restrictions; only the unrestricted one if it is among them."""
    kept: list[Restriction] = []
    for shape in shapes:
        if shape == type(shape)():
            return [shape]
        if shape not in kept:
            kept.append(shape)
    return kept


def distinct(values: Iterable[Any]) -> list[Any]:
    """The values without repetitions: true is not 1, but 1.0 is."""
    return list({canonical(value): value for value in reversed(list(values))}.values())[::-1]
