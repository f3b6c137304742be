"""Normal form: the same value in the member order of the automaton."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.constraints.compile import compile_schema
from diffusion_worker.constraints.schema.normal_form import to_normal_form

POINT = {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}}, "required": ["x", "y"]}
SHAPES = {
    "oneOf": [
        {"properties": {"kind": {"const": "disc"}, "at": POINT, "r": {"type": "number"}}, "required": ["kind", "r"]},
        {"properties": {"corners": {"items": POINT}, "kind": {"const": "polygon"}}, "required": ["kind", "corners"]},
    ],
    "type": "object",
    "additionalProperties": True,
}


@pytest.mark.parametrize(
    ("schema", "value", "names"),
    [
        (POINT, {"z": 0, "y": 2, "x": 1}, ["x", "y", "z"]),
        (SHAPES, {"r": 1, "kind": "disc", "at": {"y": 1, "x": 2}}, ["kind", "at", "r"]),
        (SHAPES, {"kind": "polygon", "corners": [{"y": 1, "x": 2}]}, ["corners", "kind"]),
        ({"enum": [{"b": 1, "a": 2}]}, {"a": 2, "b": 1}, ["b", "a"]),
        ({"allOf": [POINT], "properties": {"y": True}}, {"x": 1, "y": 2}, ["y", "x"]),
    ],
)
def test_members_are_in_declared_order(schema: Any, value: Any, names: list[str]) -> None:
    """The schema's own, those of the matching alternative, then undeclared ones; at every depth."""
    found = to_normal_form(schema, value)
    assert list(found) == names
    assert found == value
    assert compile_schema(schema).automaton.accepts(json.dumps(found).encode())


@given(st.recursive(st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from("xyz"), inner)))
def test_no_member_is_added_or_lost(value: Any) -> None:
    """Also where the value violates the schema."""
    assert to_normal_form(SHAPES, value) == value
