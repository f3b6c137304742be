"""Finite answers: a few answers are enumerated, or reported as not finite."""

import json
from typing import Any

import jsonschema
import pytest

from diffusion_worker.constraints.finite_answers import MAX_LABELS, label_texts
from diffusion_worker.constraints.spec import Constraint

COLOUR = {"title": "Colour", "enum": ["red", "grün"], "type": "string"}


def closed(**members: Any) -> dict[str, Any]:
    return {"type": "object", "properties": members, "required": [*members], "additionalProperties": False}


def values(schema: Any) -> list[Any] | None:
    texts = label_texts(Constraint(kind="json_schema", value=schema))
    return None if texts is None else [json.loads(texts[0]) for texts in texts]


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (COLOUR, ["red", "grün"]),
        ({"enum": ["a", 1, 1.0, True, None, "a"], "type": ["string", "integer"]}, ["a", 1]),
        ({"const": {"a": [1]}}, [{"a": [1]}]),
        ({"type": ["boolean", "null"]}, [True, False, None]),
        ({"anyOf": [{"const": 1}, {"type": "null"}, {"enum": [1, 2]}]}, [1, None, 2]),
        (
            closed(c=COLOUR, yes={"type": "boolean"}),
            [{"c": c, "yes": y} for c in ("red", "grün") for y in (True, False)],
        ),
        ({**closed(c={"$ref": "#/$defs/C"}), "$defs": {"C": COLOUR}}, [{"c": "red"}, {"c": "grün"}]),
        ({"type": "string"}, None),
        ({"enum": ["a", "b"], "maxLength": 1}, None),
        ({**closed(c=COLOUR), "required": []}, None),
        ({**closed(c=COLOUR), "additionalProperties": {}}, None),
        ({**closed(c=COLOUR), "minProperties": 1}, None),
        (closed(c=COLOUR, note={"type": "string"}), None),
        ({"$ref": "#"}, None),
        ({"$ref": "#/$defs/C", "$defs": {"C": {"$ref": "#/$defs/C"}}}, None),
        ({"$ref": "#/$defs/no"}, None),
        ({"enum": list(range(MAX_LABELS + 1))}, None),
        (closed(**{name: {"enum": [1, 2, 3]} for name in "abcdefghij"}), None),
        (True, None),
    ],
)
def test_a_schema_of_enums_is_enumerated(schema: Any, expected: list[Any] | None) -> None:
    """All values are valid; any other keyword makes the answers not finite."""
    found = values(schema)
    assert json.dumps(found) == json.dumps(expected)  # true is not 1
    for value in found or ():
        jsonschema.validate(value, schema)


@pytest.mark.parametrize("leaf", [{"const": 1}, {"const": 1, "type": "string"}])
def test_references_that_multiply_are_abandoned_early(leaf: Any) -> None:
    """It is fast, whether or not the leaves have values."""
    defs: dict[str, Any] = {f"d{at}": {"anyOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 90} for at in range(7)}
    assert values({"$ref": "#/$defs/d0", "$defs": {**defs, "d7": leaf}}) is None


def test_a_value_has_a_compact_and_a_default_layout() -> None:
    """A choice has one layout, and so has a scalar."""
    texts = label_texts(Constraint(kind="json_schema", value=closed(c=COLOUR)))
    assert texts is not None
    assert texts[1] == ('{"c":"grün"}', '{"c": "grün"}')
    assert label_texts(Constraint(kind="choice", value=["a", "b c", "a"])) == (("a",), ("b c",))
    assert label_texts(Constraint(kind="choice", value=[f"x{at}" for at in range(MAX_LABELS + 1)])) is None
    assert label_texts(Constraint(kind="regex", value="a|b")) is None
