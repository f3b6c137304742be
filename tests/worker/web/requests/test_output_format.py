"""Output format: one constraint is parsed, or the invalid field is named."""

from typing import Any

import pytest

from diffusion_worker.constraints.spec import Constraint, WhiteSpace
from diffusion_worker.errors import InvalidRequest
from diffusion_worker.web.requests.fields import Fields
from diffusion_worker.web.requests.output_format import parse_constraint


@pytest.mark.parametrize(
    ("body", "constraint"),
    [
        ({}, None),
        ({"response_format": None, "structured_outputs": None}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Constraint(kind="json_object")),
        (
            {"response_format": {"type": "json_object", "schema": {"required": ["a"]}}},
            Constraint(kind="json_schema", value={"type": "object", "required": ["a"]}),
        ),
        ({"structured_outputs": {"json_object": True}}, Constraint(kind="json_object")),
        ({"structured_outputs": {"regex": "a+", "choice": None}}, Constraint(kind="regex", value="a+")),
        ({"structured_outputs": {"json": {"enum": [1]}}}, Constraint(kind="json_schema", value={"enum": [1]})),
        ({"structured_outputs": {"choice": ["a", "b"]}}, Constraint(kind="choice", value=["a", "b"])),
        ({"structured_outputs": {"template": "Dear {{x}}"}}, Constraint(kind="template", value={"text": "Dear {{x}}"})),
        (
            {"structured_outputs": {"template": {"text": "{{x}}", "holes": {"x": {"choice": ["a"]}}}}},
            Constraint(kind="template", value={"text": "{{x}}", "holes": {"x": {"choice": ["a"]}}}),
        ),
    ],
)
def test_each_form_of_constraint_is_parsed(body: dict[str, Any], constraint: Constraint | None) -> None:
    parsed = parse_constraint(Fields(body))
    assert parsed == constraint
    if parsed is not None:
        field, _, inner = str(parsed.field).partition(".")
        assert inner in body[field] or field == "response_format"


@pytest.mark.parametrize(
    ("options", "white_space"),
    [
        ({}, WhiteSpace.BOUNDED),
        ({"disable_any_whitespace": True}, WhiteSpace.BOUNDED),
        ({"disable_any_whitespace": False}, WhiteSpace.ANY),
        ({"whitespace_pattern": ""}, WhiteSpace.BOUNDED),
        ({"whitespace_pattern": "[ ]?"}, WhiteSpace.BOUNDED),
        ({"whitespace_pattern": r"[\n\t ]*"}, WhiteSpace.ANY),
        ({"whitespace_pattern": r"\s*"}, WhiteSpace.ANY),
        ({"whitespace_pattern": " *", "disable_any_whitespace": True}, WhiteSpace.BOUNDED),
    ],
)
def test_white_space_is_bounded_unless_the_request_says_otherwise(
    options: dict[str, Any], white_space: WhiteSpace
) -> None:
    beside = parse_constraint(Fields({"structured_outputs": {"json": {"type": "object"}, **options}}))
    assert beside is not None
    assert beside.white_space is white_space
    of_format = parse_constraint(Fields({"response_format": {"type": "json_object"}, "structured_outputs": options}))
    assert of_format == Constraint(kind="json_object", white_space=white_space)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"structured_outputs": {"json": {}, "whitespace_pattern": "x*"}}, "structured_outputs.whitespace_pattern"),
        ({"structured_outputs": {"whitespace_pattern": " *"}}, "structured_outputs.regex"),
        ({"response_format": {"type": "json_object", "schema": {"type": "x"}}}, "response_format.schema"),
        ({"response_format": {"type": "text", "schema": {}}}, "response_format.schema"),
        ({"structured_outputs": {}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": 7}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": "a"}}, "structured_outputs.choice"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"choice": ["a", ""]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"template": {"holes": {}}}}, "structured_outputs.template.text"),
        (
            {"structured_outputs": {"template": {"text": "{{x}}", "holes": {"x": {"json": {}}}}}},
            "structured_outputs.template.holes.json",
        ),
        ({"structured_outputs": {"json": {"type": "nonsense"}}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": "{}"}}, "structured_outputs.json"),
        ({"structured_outputs": {"grammar": "x"}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}, "structured_outputs"),
    ],
)
def test_an_invalid_field_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse_constraint(Fields(body))
    assert raised.value.param is not None
    assert raised.value.param.startswith(param.rsplit(".json", 1)[0])
