"""Values that a schema leaves unconstrained: their depth, their form, and the report of what is missing."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from diffusion_worker.constraints.compile import Compilation, compile_schema
from diffusion_worker.constraints.schema.free_values import ONE_LINE, Copy, is_allowed, sizes
from diffusion_worker.constraints.schema.size_limits import MAX_FREE_DEPTH, SIZE_TIERS, SizeLimits
from diffusion_worker.constraints.spec import WhiteSpace
from diffusion_worker.errors import UnsupportedSchema
from tests.worker.constraints.reference import accepts_in_some_order
from tests.worker.constraints.schema.test_builder import SCHEMAS

Json = Any
OPEN = {"type": "object", "properties": {"a": {"type": "integer"}}}
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-99, 99), st.sampled_from([0.5, -1.25]), st.text(max_size=3))
NAMES = st.sampled_from(["a", "b", "ab", "é", "x"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(NAMES, inner, max_size=2)),
    max_leaves=6,
)


def nested(nesting: str) -> Json:
    """A value with these brackets, from the outside in, around a number."""
    value: Json = 1
    for opening in reversed(nesting):
        value = {"n": value, "m": None} if opening == "{" else [value, "s"]
    return value


def accepts(compiled: Compilation, value: Json) -> bool:
    return compiled.automaton.accepts(json.dumps(value, ensure_ascii=False).encode())


@pytest.mark.parametrize("nesting", ["{", "[", "[[[", "{[{", "[{[{[", "{{[{", "{{{{{", "[{{[{"])
def test_undeclared_members_and_free_values_are_deep_where_the_states_suffice(nesting: str) -> None:
    assert accepts(compile_schema(OPEN), {"a": 1, "extra": nested(nesting)})
    assert accepts(compile_schema({}), nested(nesting))
    assert accepts(compile_schema({"type": "object"}), {"b": nested(nesting[1:])})


@given(st.text("{[", max_size=7), st.integers(0, 6))
def test_the_nesting_of_copies_is_what_is_allowed(nesting: str, depth: int) -> None:
    """Every prefix of a nesting must be allowed."""
    limits = replace(SIZE_TIERS[0], states=40_000, undeclared_depth=depth, free_states=0)
    compiled = compile_schema(OPEN, tiers=(limits,))
    allowed = len(nesting) <= depth and all(is_allowed(nesting[:end]) for end in range(len(nesting) + 1))
    assert accepts(compiled, {"extra": nested(nesting)}) == allowed


def test_many_open_objects_share_the_states_for_depth() -> None:
    """Each of forty gets less of it, and all are admitted."""
    many = {"type": "object", "properties": {f"m{index}": OPEN for index in range(40)}}
    compiled = compile_schema(many)
    assert accepts(compiled, {"m0": {"extra": [1]}, "m39": {"extra": {"b": "c"}}, "other": {}})
    assert not accepts(compiled, {"m0": {"extra": nested("{{{{{")}})
    assert compiled.stats.truncated


def test_values_are_as_deep_as_their_share_of_the_states() -> None:
    """One state less, and they are less deep."""
    copy = Copy(openings="{[", around="", line=ONE_LINE, indents=())
    found = sizes(copy, 0, WhiteSpace.BOUNDED)
    assert list(found) == sorted(set(found))
    assert len(found) == MAX_FREE_DEPTH + 1
    for depth in range(1, MAX_FREE_DEPTH + 1):
        for states, deepest in ((found[depth] - found[0], depth), (found[depth] - found[0] - 1, depth - 1)):
            compiled = compile_schema(OPEN, tiers=(replace(SIZE_TIERS[0], free_states=states),))
            assert accepts(compiled, {"extra": nested("{" * deepest)})
            assert not accepts(compiled, {"extra": nested("{" * (deepest + 1))})


@pytest.mark.parametrize("white_space", list(WhiteSpace))
@pytest.mark.parametrize("layout", [{}, {"separators": (",", ":")}])
def test_undeclared_and_deep_values_are_written_on_one_line(white_space: WhiteSpace, layout: dict[str, Any]) -> None:
    compiled = compile_schema(OPEN, white_space=white_space)
    assert compiled.automaton.accepts(json.dumps({"extra": nested("{[{")}, **layout).encode())
    pretty = json.dumps({"extra": nested("{[{")}, indent=2)
    assert compiled.automaton.accepts(pretty.encode()) == (white_space is WhiteSpace.ANY)
    declared = compile_schema({"type": "object", "properties": {"a": {}}}, white_space=white_space)
    assert declared.automaton.accepts(json.dumps({"a": nested("{[{")}, indent=2).encode())
    assert declared.automaton.accepts(json.dumps({"a": nested("{[{[")}, indent=2).encode()) == (
        white_space is WhiteSpace.ANY
    )


def check_report(schema: Json, value: Json, tiers: Sequence[SizeLimits] = SIZE_TIERS) -> None:
    """A valid value that is rejected in every order of its members is reported."""
    try:
        compiled = compile_schema(schema, tiers=tiers)
    except UnsupportedSchema:
        assume(False)
        return
    if jsonschema.Draft202012Validator(schema).is_valid(value) and not accepts_in_some_order(compiled.automaton, value):
        assert compiled.stats.truncated, value


@given(SCHEMAS, VALUES)
def test_what_is_missing_is_reported(schema: Json, value: Json) -> None:
    check_report(schema, value)


@given(SCHEMAS, VALUES, st.sampled_from([limits for limits in SIZE_TIERS if limits.dense]))
def test_what_is_missing_in_a_dense_tier_is_reported(schema: Json, value: Json, limits: SizeLimits) -> None:
    check_report(schema, value, (limits,))


@given(SCHEMAS, VALUES, st.sampled_from([limits for limits in SIZE_TIERS if limits.dense]))
def test_a_dense_tier_accepts_valid_values_only(schema: Json, value: Json, limits: SizeLimits) -> None:
    try:
        compiled = compile_schema(schema, tiers=(limits,))
    except UnsupportedSchema:
        assume(False)
        return
    if not compiled.needs_check and accepts_in_some_order(compiled.automaton, value):
        assert jsonschema.Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({}, nested("{{{{{{")),
        (OPEN, {"x": nested("[[[[[")}),
        ({"type": "array", "items": {"format": "date"}}, ["tomorrow"]),
        ({"enum": ["tomorrow", "2024-01-01"], "format": "date"}, "tomorrow"),
        ({"type": "string", "pattern": r"^\d$"}, "\u0663"),
        ({"type": "string", "not": {"pattern": r"\d"}}, "\u00e9"),
        ({"type": "number", "exclusiveMinimum": 0}, 1e-20),
        ({"patternProperties": {r"\bfoo": {"type": "null"}}, "additionalProperties": False}, {"foo": None}),
        ({"patternProperties": {"^.{1,99}$": {"type": "null"}}}, {"n" * 150: 1}),
        ({"propertyNames": {"pattern": r"^\d$"}}, {"\u0663": 1}),
    ],
)
def test_each_reason_is_reported(schema: Json, value: Json) -> None:
    assert jsonschema.Draft202012Validator(schema).is_valid(value)
    compiled = compile_schema(schema)
    assert not accepts_in_some_order(compiled.automaton, value)
    assert compiled.stats.truncated


def test_a_schema_that_is_kept_entirely_reports_nothing() -> None:
    closed = {**OPEN, "additionalProperties": False, "required": ["a"]}
    assert not compile_schema({"type": "array", "items": closed}).stats.truncated


@given(st.integers(0, 3))
def test_an_empty_container_needs_no_depth(depth: int) -> None:
    """It is admitted where no other container may nest any deeper."""
    limits = replace(SIZE_TIERS[0], undeclared_depth=depth, free_states=0)
    compiled = compile_schema(OPEN, tiers=(limits,))
    value: Json = {}
    for _ in range(depth):
        value = {"n": value}
    assert accepts(compiled, {"extra": value})
    assert not accepts(compiled, {"extra": {"n": value}})
    assert accepts(compiled, {"extra": nested("{" * depth)})
    assert not accepts(compiled, {"extra": nested("{" * (depth + 1))})
