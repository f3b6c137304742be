"""Brings a value into the normal form of its schema: the same value with its members in the order in which the
automaton reads them.

Where a schema allows several orders (alternatives that declare members differently), the first alternative that matches
two levels deep is taken.
"""

from collections.abc import Sequence
from typing import Any

from diffusion_worker.constraints.schema.combine import Combiner
from diffusion_worker.constraints.schema.document import Conj, Document, Schema, json_equal
from diffusion_worker.constraints.schema.shapes import Shape
from diffusion_worker.constraints.schema.validation import SchemaValidator


def to_normal_form(schema: Schema, value: Any) -> Any:
    """`value` in normal form. Raises UnsupportedSchema where the compiler does."""
    document = Document(schema)
    return _Normaliser(Combiner(document, SchemaValidator(schema))).to_normal_form((document.root,), value)


class _Normaliser:
    def __init__(self, combiner: Combiner) -> None:
        self._combiner = combiner

    def to_normal_form(self, conj: Conj, value: Any) -> Any:
        if not isinstance(value, list | dict):
            return value
        shapes = self._combiner.shapes(conj)
        for literal in (literal for shape in shapes for literal in shape.literals or ()):
            if json_equal(literal, value):
                return literal
        shape = self._first_matching([shape for shape in shapes if shape.literals is None and shape.fits(value)], value)
        if isinstance(value, list):
            return [self.to_normal_form(shape.items.at(index), part) for index, part in enumerate(value)]
        declared = [name for name in shape.members.declared if name in value]
        names = [*declared, *(name for name in value if name not in declared)]
        return {name: self.to_normal_form(self._combiner.member(shape.members, name), value[name]) for name in names}

    def _first_matching(self, shapes: Sequence[Shape], value: Any) -> Shape:
        return next((shape for shape in shapes if self._matches(shape, value, 2)), shapes[0] if shapes else Shape())

    def _matches(self, shape: Shape, value: Any, depth: int) -> bool:
        """Whether the value has this shape, looking `depth` levels into it."""
        if shape.literals is not None:
            return any(json_equal(literal, value) for literal in shape.literals)
        if not shape.fits(value):
            return False
        if depth == 0 or not isinstance(value, list | dict):
            return True
        if isinstance(value, list):
            inside = [(shape.items.at(index), part) for index, part in enumerate(value)]
        else:
            inside = [(self._combiner.member(shape.members, name), part) for name, part in value.items()]
        return all(any(self._matches(s, part, depth - 1) for s in self._combiner.shapes(conj)) for conj, part in inside)
