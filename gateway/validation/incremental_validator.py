"""Incremental JSON Schema validation: validate a JSON text while it arrives, and report the first certain error.

Combines the grammar (`json_prefix`) with the incremental view of a schema (`incremental_schema`). An error is certain;
without one, the complete text must still be validated. A repeated key is an error:
readers differ in which member counts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from gateway.validation.incremental_schema import IncrementalSchema, Subschema, Subschemas, Violation
from gateway.validation.json_prefix import JsonPrefix
from gateway.validation.runaway import Elements
from gateway.validation.schema_cost import escaped
from twolane.process import exact_json

REPEATED: Final = Violation("repeatedKey", "#")
_RAW_CHARS: Final = 12  # of one code point of a string at most: two escapes of four digits
MAX_BRANCHES: Final = 32  # alternatives followed at once; further ones are left to the final validation


class IncrementalValidator(JsonPrefix):
    """`feed` text as to a JsonPrefix. After an error, `violation` is the keyword, or None if the text is not JSON."""

    def __init__(self, schema: IncrementalSchema) -> None:
        super().__init__()
        self.violation: Violation | None = None
        self._validator = _Validator(schema, schema.root, _BranchBudget())

    def feed(self, text: str) -> bool:
        """See `JsonPrefix`. A string that is longer than any that the schema allows is an error before its end."""
        if not super().feed(text):
            return False
        start = self.value_string_at
        if start is None:
            return True
        return self._accept(self._validator.too_long((self._length - start - 1) // _RAW_CHARS), start)

    def elements(self, levels: int) -> Elements:
        """What the schema says about the number of elements in the innermost `levels` arrays that are open."""
        return self._validator.elements(levels)

    def _on_value(self, char: str, at: int) -> bool:
        return self._accept(self._validator.on_value(char), at)

    def _on_key(self, raw: str, at: int) -> bool:
        return self._accept(self._validator.on_key(_parsed(raw)), at)

    def _on_scalar(self, raw: str, at: int) -> bool:
        return self._accept(self._validator.on_scalar(_parsed(raw)), at)

    def _on_close(self, at: int) -> bool:
        return self._accept(self._validator.on_close(), at)

    def _accept(self, violation: Violation | None, at: int) -> bool:
        if violation is None:
            return True
        self.violation = violation
        self.error_at = at
        return False


@dataclass(slots=True)
class _BranchBudget:
    """How many more alternatives may be followed; without a limit, a recursive schema doubles them at every level."""

    left: int = MAX_BRANCHES


@dataclass(slots=True)
class _Container:
    """An open array or object. `next` holds the subschemas of the next value. `is_declared`: the schema mentions it."""

    subschemas: Subschemas
    is_object: bool
    is_declared: bool = True
    next: Subschemas = ()
    is_next_declared: bool = True
    names: set[str] = field(default_factory=set)
    items: int = 0


@dataclass(slots=True)
class _Alternatives:
    """The alternatives of one value (`anyOf`, `oneOf`) that are still possible."""

    violation: Violation  # if none is left
    depth: int  # nesting depth of the value that they apply to
    validators: "list[_Validator]"


class _Validator:
    """Validates one value against one schema. Each event returns the Violation that is now certain, or None."""

    def __init__(self, schema: IncrementalSchema, root: Subschemas | Violation, budget: _BranchBudget) -> None:
        self._schema = schema
        self._root = root
        self._budget = budget
        self._stack: list[_Container] = []
        self._value: Subschemas = ()  # of the value that started last
        self._alternatives: list[_Alternatives] = []

    def on_value(self, char: str) -> Violation | None:
        """A value starts with this character."""
        expected = self._expected()
        if isinstance(expected, Violation):
            return expected
        for subschema in expected:
            if subschema.first_chars is not None and char not in subschema.first_chars:
                return Violation("type", subschema.pointer)
            if subschema.alternatives:
                self._alternatives += self._new_alternatives(subschema)
        self._value = expected
        violation = self._feed_alternatives(lambda validator: validator.on_value(char)) if self._alternatives else None
        if char in "[{":
            self._stack.append(_Container(expected, char == "{", self._is_next_declared()))
        return violation

    def on_key(self, name: object) -> Violation | None:
        """The name of a member is complete."""
        container = self._stack[-1]
        if name in container.names:
            return REPEATED
        if isinstance(name, str):
            container.names.add(name)
        if container.subschemas and isinstance(name, str):
            expected = _too_many_members(container) or self._schema.member(container.subschemas, name)
            if isinstance(expected, Violation):
                return expected
            container.next = expected
            container.is_next_declared = container.is_declared and _is_declared(container.subschemas, name)
        return self._feed_alternatives(lambda validator: validator.on_key(name)) if self._alternatives else None

    def on_scalar(self, value: object) -> Violation | None:
        """The value that started last is this scalar."""
        if value is not _UNREADABLE:
            for subschema in self._value:
                if subschema.scalar is not None and (violation := _violation_of(subschema, value)) is not None:
                    return violation
        return self._end_value(lambda validator: validator.on_scalar(value)) if self._alternatives else None

    def too_long(self, length: int) -> Violation | None:
        """The value that started last is a string of more code points than this."""
        for subschema in self._value:
            if subschema.longest is not None and length > subschema.longest[1]:
                return Violation(subschema.longest[0], subschema.pointer)
        return None

    def on_close(self) -> Violation | None:
        """The innermost array or object is complete."""
        container = self._stack.pop()
        for subschema in container.subschemas:
            violation = (
                _missing_members(subschema, container.names)
                if container.is_object
                else _too_few_items(subschema, container.items)
            )
            if violation is not None:
                return violation
        return self._end_value(lambda validator: validator.on_close()) if self._alternatives else None

    def elements(self, levels: int) -> Elements:
        """See `IncrementalValidator`."""
        if any(_is_limited(container) for container in self._stack[-levels:]):
            return Elements.LIMITED
        return Elements.UNKNOWN if self._is_next_declared() else Elements.UNDECLARED

    def release(self) -> None:
        """Return this validator's share of the branch budget."""
        self._budget.left += 1
        for alternatives in self._alternatives:
            for validator in alternatives.validators:
                validator.release()

    def _expected(self) -> Subschemas | Violation:
        if not self._stack:
            return self._root
        container = self._stack[-1]
        if container.is_object:
            return container.next
        container.items += 1
        return self._schema.item(container.subschemas, container.items - 1) if container.subschemas else ()

    def _is_next_declared(self) -> bool:
        container = self._stack[-1] if self._stack else None
        return container is None or (container.is_next_declared if container.is_object else container.is_declared)

    def _new_alternatives(self, subschema: Subschema) -> Iterator[_Alternatives]:
        """The alternatives of a value that starts, as far as the budget allows to follow all of them."""
        for keyword in subschema.alternatives:
            branches = self._schema.branches(subschema, keyword)
            if not branches or len(branches) > self._budget.left:
                continue
            self._budget.left -= len(branches)
            validators = [_Validator(self._schema, branch, self._budget) for branch in branches]
            yield _Alternatives(Violation(keyword, subschema.pointer), len(self._stack), validators)

    def _feed_alternatives(self, event: "Callable[[_Validator], Violation | None]") -> Violation | None:
        """Drop the alternatives that an event rules out; a Violation if none is left."""
        for alternatives in self._alternatives:
            possible = []
            for validator in alternatives.validators:
                if event(validator) is None:
                    possible.append(validator)
                else:
                    validator.release()
            alternatives.validators = possible
            if not possible:
                return alternatives.violation
        return None

    def _end_value(self, event: "Callable[[_Validator], Violation | None]") -> Violation | None:
        """A value is complete; remove its alternatives."""
        violation = self._feed_alternatives(event)
        while self._alternatives and self._alternatives[-1].depth >= len(self._stack):
            for validator in self._alternatives.pop().validators:
                validator.release()
        return violation


# Keywords that may mention more members than `properties` does, or that allow others explicitly.
_DECLARING: Final = frozenset(
    "patternProperties additionalProperties unevaluatedProperties anyOf oneOf if dependentSchemas dependencies".split()
)


def _is_declared(subschemas: Subschemas, name: str) -> bool:
    """Whether one of the subschemas mentions the member, or none of them lists any."""
    listed = [subschema.schema.get("properties") for subschema in subschemas]
    if any(isinstance(properties, dict) and name in properties for properties in listed):
        return True
    return not any(listed) or any(not _DECLARING.isdisjoint(subschema.schema) for subschema in subschemas)


def _is_limited(container: _Container) -> bool:
    """Whether the schema limits the number of elements of an array, or requires more than there are."""
    return not container.is_object and any(
        "maxItems" in subschema.schema or _too_few_items(subschema, container.items) is not None
        for subschema in container.subschemas
    )


_UNREADABLE = object()


def _parsed(raw: str) -> object:
    """The parsed scalar or key; _UNREADABLE if it cannot be represented, which the final validation reports."""
    try:
        return exact_json.loads(raw)
    except exact_json.JsonError:
        return _UNREADABLE


def _violation_of(subschema: Subschema, value: object) -> Violation | None:
    assert subschema.scalar is not None
    if subschema.scalar.is_valid(value):
        return None
    return Violation(next(iter(subschema.scalar.iter_errors(value))).kind.name, subschema.pointer)


def _missing_members(subschema: Subschema, names: set[str]) -> Violation | None:
    """Missing members, reported as by the final validation: at the missing property's schema, if there is one."""
    required = subschema.schema.get("required")
    for name in required if isinstance(required, list) else ():
        if isinstance(name, str) and name not in names:
            properties = subschema.schema.get("properties")
            has_schema = isinstance(properties, dict) and name in properties
            return Violation(
                "required", f"{subschema.pointer}/properties/{escaped(name)}" if has_schema else subschema.pointer
            )
    minimum = subschema.schema.get("minProperties")
    if isinstance(minimum, int | float) and len(names) < minimum:
        return Violation("minProperties", subschema.pointer)
    return None


def _too_many_members(container: _Container) -> Violation | None:
    for subschema in container.subschemas:
        maximum = subschema.schema.get("maxProperties")
        if isinstance(maximum, int | float) and len(container.names) > maximum:
            return Violation("maxProperties", subschema.pointer)
    return None


def _too_few_items(subschema: Subschema, items: int) -> Violation | None:
    minimum = subschema.schema.get("minItems")
    return Violation("minItems", subschema.pointer) if isinstance(minimum, int | float) and items < minimum else None
