"""Compiled JSON Schemas, checked against jsonschema: on all values of small sets, and on random members.

*Sound*: what the automaton accepts is valid, unless the compilation named keywords that it leaves to validation.
*Complete*: a valid value is accepted in some order of its members.
"""

import json
import random
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from diffusion_worker.constraints.compile import Compilation, compile_schema
from diffusion_worker.constraints.schema.size_limits import SIZE_TIERS
from diffusion_worker.errors import InvalidRequest, UnsupportedSchema
from tests.worker.constraints.reference import accepts_in_some_order, is_trimmed, moore_classes, random_member

Json = Any
ROOMY = replace(SIZE_TIERS[0], states=20_000)  # the last tier: every value of the set is within its size limits
NAMES = ("a", "b", "c")
SCALARS: tuple[Json, ...] = (None, True, False, 0, 1, 2, -1, 7, 10, 1.5, -2.5, "", "a", "ab", "b", "é", "aaa")
WORLD: tuple[Json, ...] = (
    *SCALARS,
    *([], [0], ["a"], [1, 2], ["a", "b", "a"], [None, True], [[]], [{}], [1, "a"], [1, 2, 3, 4]),
    *({}, {"a": 0}, {"a": "a"}, {"b": 1}, {"a": 1, "b": "ab"}, {"c": None}, {"a": [], "c": {}}, {"ab": 1, "b": 2}),
    *({"a": 7, "b": 0, "c": "a"}, {"a": {"a": 1}}, {"a": {"b": "a"}}, {"é": 1}, {"a": 1, "z": 2}, {"x": 1, "y": 2}),
)


def scalars() -> st.SearchStrategy[Json]:
    """Schemas of one type, with its own keywords."""
    number = st.fixed_dictionaries(
        {"type": st.sampled_from(["integer", "number"])},
        optional={
            "minimum": st.sampled_from([-2.5, 0, 1, 2]),
            "maximum": st.sampled_from([0, 1.5, 7]),
            "exclusiveMinimum": st.sampled_from([-1, 0, 1.5]),
            "exclusiveMaximum": st.sampled_from([1, 2, 10]),
            "multipleOf": st.sampled_from([1, 2, 5]),
        },
    )
    text = st.fixed_dictionaries(
        {"type": st.just("string")},
        optional={
            "minLength": st.integers(0, 3),
            "maxLength": st.integers(0, 3),
            "pattern": st.sampled_from(["a", "^a", "b$", "^a*$", "^(a|b){1,2}$", "^[^a]*$"]),
        },
    )
    return st.one_of(
        number,
        text,
        st.just({"type": "null"}),
        st.just({"type": "boolean"}),
        st.just({"type": ["string", "null"]}),
        st.builds(lambda values: {"enum": values}, st.lists(st.sampled_from(WORLD), min_size=1, max_size=3)),
        st.builds(lambda value: {"const": value}, st.sampled_from(WORLD)),
        st.booleans(),
        st.just({}),
    )


def containers(inner: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    """Objects and arrays of the schemas given."""
    objects = st.fixed_dictionaries(
        {"type": st.just("object")},
        optional={
            "properties": st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
            "required": st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
            "additionalProperties": inner,
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "b", "^[ab]$"]), inner, max_size=2),
            "propertyNames": st.sampled_from([{"pattern": "^[ab]"}, {"maxLength": 1}, {"enum": ["a", "z"]}]),
            "minProperties": st.integers(0, 2),
            "maxProperties": st.integers(0, 3),
            "dependentRequired": st.sampled_from([{"a": ["b"]}, {"b": ["a", "c"]}]),
            "dependentSchemas": st.builds(lambda schema: {"a": schema}, inner),
        },
    )
    arrays = st.fixed_dictionaries(
        {"type": st.just("array")},
        optional={
            "items": inner,
            "prefixItems": st.lists(inner, min_size=1, max_size=2),
            "minItems": st.integers(0, 3),
            "maxItems": st.integers(0, 3),
            "uniqueItems": st.booleans(),
        },
    )
    return st.one_of(objects, arrays)


def combined(inner: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    """Schemas of schemas."""
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        containers(inner),
        st.builds(lambda word, parts: {word: parts}, st.sampled_from(["anyOf", "allOf", "oneOf"]), several),
        st.builds(lambda part: {"not": part}, inner),
        st.builds(lambda a, b: {"allOf": [a, {"not": b}]}, inner, inner),
        st.builds(lambda a, b, c: {"if": a, "then": b, "else": c}, inner, inner, inner),
    )


SCHEMAS = st.recursive(scalars(), combined, max_leaves=6)


def compiled_or_none(schema: Json) -> Compilation | None:
    """None: the schema is unsatisfiable."""
    try:
        return compile_schema(schema, tiers=(ROOMY,))
    except UnsupportedSchema as error:
        assume("accepts no value" in error.message)
        return None


@pytest.mark.slow
@given(SCHEMAS)
def test_the_automaton_and_jsonschema_agree_on_a_small_world(schema: Json) -> None:
    """Valid values are accepted, in some order of members; invalid ones are not, unless a keyword is left to
    validation."""
    validator = jsonschema.Draft202012Validator(schema)
    compiled = compiled_or_none(schema)
    for value in WORLD:
        accepted = compiled is not None and accepts_in_some_order(compiled.automaton, value)
        valid = validator.is_valid(value)
        if accepted != valid:
            assert accepted, value
            assert compiled is not None
            assert compiled.needs_check, value


@pytest.mark.slow
@given(SCHEMAS, st.integers(0, 2**32))
def test_random_members_are_valid(schema: Json, seed: int) -> None:
    """Random walks through the automaton end in documents that satisfy the schema."""
    compiled = compiled_or_none(schema)
    assume(compiled is not None)
    assert compiled is not None
    validator = jsonschema.Draft202012Validator(schema)
    draw = random.Random(seed)
    for _ in range(8):
        text = random_member(compiled.automaton, draw)
        value = json.loads(text.decode())
        assert compiled.needs_check or validator.is_valid(value), text


@pytest.mark.slow
@given(SCHEMAS)
def test_automata_are_minimal_and_trimmed(schema: Json) -> None:
    """As the docstring of the record states."""
    compiled = compiled_or_none(schema)
    assume(compiled is not None and compiled.stats.states < 1500)
    assert compiled is not None
    assert is_trimmed(compiled.automaton)
    assert moore_classes(compiled.automaton) == compiled.stats.states


@pytest.mark.parametrize("schema", [False, {"type": "string", "minLength": 2, "maxLength": 1}, {"enum": []}])
def test_an_unsatisfiable_schema_is_refused(schema: Json) -> None:
    """Instead of giving an automaton of the empty language."""
    with pytest.raises(UnsupportedSchema, match="accepts no value"):
        compile_schema(schema)


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"$schema": "http://json-schema.org/draft-03/schema#", "properties": {"a": {"required": True}}}, "required"),
        ({"$schema": "http://json-schema.org/draft-03/schema#", "type": ["null", {"type": "string"}]}, "type"),
    ],
)
def test_draft_3_keywords_are_refused_by_name(schema: Json, keyword: str) -> None:
    """The metaschema of draft 3 accepts what later ones reject."""
    with pytest.raises(UnsupportedSchema) as caught:
        compile_schema(schema)
    assert caught.value.keyword == keyword


def test_a_dialect_that_is_not_a_string_is_refused() -> None:
    """A 400, not an internal error."""
    with pytest.raises(InvalidRequest, match="must be a string"):
        compile_schema({"$schema": 5})


def test_thousands_of_literals_are_deduplicated_in_one_pass() -> None:
    """true and 1 stay distinct, and the order is kept."""
    values = [*range(3000), 1.0, True, "1"]
    automaton = compile_schema({"enum": values}, tiers=(ROOMY,)).automaton
    assert all(automaton.accepts(json.dumps(value).encode()) for value in (0, 2999, True, "1"))
    assert not automaton.accepts(b"3000")


@pytest.mark.slow
def test_too_many_oneof_branches_are_united_and_checked() -> None:
    """Instead of exceeding the state budget."""
    branches = [
        {"type": "object", "properties": {f"p{i}": {"type": "string"}, "n": {"type": "integer"}}, "required": [f"p{i}"]}
        for i in range(8)
    ]
    compiled = compile_schema({"oneOf": branches})
    assert compiled.needs_check == ("oneOf",)
    assert compiled.automaton.accepts(b'{"p7":"x","n":1}')
