"""Every spelling of an output format asks for the same thing."""

import json
from typing import Any

import pytest

from gateway.enums import Capability, FormatKind
from gateway.errors import InvalidField
from gateway.types import OutputFormat, Query
from gateway.validation.json_schema import Schema, SchemaCache
from gateway.validation.text_checks import TextChecks
from gateway.web import output_format
from gateway.web.parse_request import parse_chat

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def parse(**body: Any) -> Query:
    document = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], **body}
    return parse_chat(json.dumps(document).encode(), {}, now_s=0.0, key=None)


def format_of(**body: Any) -> OutputFormat:
    found = parse(**body).output_format
    assert found is not None
    return found


JSON_SCHEMA_SPELLINGS: list[dict[str, Any]] = [
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}},
    {"response_format": {"type": "json_schema", "schema": SCHEMA}},
    {"response_format": {"type": "json_object", "schema": SCHEMA}},
    {"response_format": {"type": "json", "value": SCHEMA}},
    {"structured_outputs": {"json": SCHEMA}},
    {"structured_outputs": {"json": json.dumps(SCHEMA), "whitespace_pattern": " ?"}},
    {"guided_json": SCHEMA},
    {"guided_json": json.dumps(SCHEMA), "guided_decoding_backend": "xgrammar"},
    {"json_schema": SCHEMA},
    {"json_schema": json.dumps(SCHEMA)},
    {"format": SCHEMA},
    {"extra_body": {"guided_json": SCHEMA}},
    {"extra_body": {"structured_outputs": {"json": SCHEMA}}},
    {"nvext": {"guided_json": SCHEMA}},
    {"guided_json": SCHEMA, "response_format": {"type": "json_object", "schema": SCHEMA}},
]


@pytest.mark.parametrize("body", JSON_SCHEMA_SPELLINGS)
def test_a_schema_is_read_in_every_spelling(body: dict[str, Any]) -> None:
    query = parse(**body)
    assert query.output_format is not None
    assert (query.output_format.form, query.output_format.schema) == (FormatKind.JSON_SCHEMA, SCHEMA)
    assert Capability.JSON_SCHEMA in query.needs


@pytest.mark.parametrize("body", JSON_SCHEMA_SPELLINGS)
def test_the_format_names_the_field_that_asks_for_it(body: dict[str, Any]) -> None:
    name = str(format_of(**body).param)
    outer, _, inner = name.partition(".")
    assert inner in body[outer] if inner else outer in body


def test_a_schema_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is sent, in whatever layout, and for the check of the answer as well."""
    cache, compiled = SchemaCache(), []
    monkeypatch.setattr(output_format, "COMPILED", cache)
    monkeypatch.setattr(output_format, "Schema", lambda schema: compiled.append(schema) or Schema(schema))
    for _ in range(3):
        for body in JSON_SCHEMA_SPELLINGS:
            parse(**body)
    check = TextChecks(cache, early=True, guarded=True).of_format(format_of(guided_json=SCHEMA))
    check.feed('{"n": 1}')
    assert check.finish() is None
    assert compiled == [SCHEMA]


@pytest.mark.parametrize(
    "body",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_object", "schema": None}},
        {"structured_outputs": {"json_object": True}},
        {"format": "json"},
    ],
)
def test_any_json_object_is_read_in_every_spelling(body: dict[str, Any]) -> None:
    assert format_of(**body) == OutputFormat(form=FormatKind.JSON_OBJECT)


@pytest.mark.parametrize(
    "body",
    [
        {"structured_outputs": {"regex": "a+"}},
        {"guided_regex": "a+"},
        {"regex": "a+"},
        {"response_format": {"type": "regex", "pattern": "a+"}},
        {"response_format": {"type": "regex", "value": "a+"}},
        {"extra_body": {"guided_regex": "a+"}},
    ],
)
def test_a_regular_expression_is_read_in_every_spelling(body: dict[str, Any]) -> None:
    assert format_of(**body) == OutputFormat(form=FormatKind.REGEX, pattern="a+")


@pytest.mark.parametrize("body", [{"structured_outputs": {"choice": ["a", "b"]}}, {"guided_choice": ["a", "b"]}])
def test_a_choice_is_read_in_every_spelling(body: dict[str, Any]) -> None:
    assert format_of(**body) == OutputFormat(form=FormatKind.CHOICE, choices=("a", "b"))


@pytest.mark.parametrize(
    "body",
    [
        {"structured_outputs": {"grammar": "root ::= a"}},
        {"guided_grammar": "root ::= a"},
        {"ebnf": "root ::= a"},
        {"grammar": "root ::= a"},
        {"response_format": {"type": "grammar", "grammar": "root ::= a"}},
    ],
)
def test_a_grammar_needs_a_target_that_knows_grammars(body: dict[str, Any]) -> None:
    query = parse(**body)
    assert query.output_format == OutputFormat(form=FormatKind.GRAMMAR, grammar="root ::= a")
    assert Capability.GRAMMAR in query.needs


@pytest.mark.parametrize("body", [{"format": "wav"}, {"format": ""}, {"structured_outputs": {}}, {"guided_json": None}])
def test_other_values_ask_for_nothing(body: dict[str, Any]) -> None:
    assert parse(**body).output_format is None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"guided_json": SCHEMA, "response_format": {"type": "json_object"}}, "guided_json"),
        ({"regex": "a", "ebnf": "root ::= a"}, "ebnf"),
        ({"guided_json": SCHEMA, "extra_body": {"guided_regex": "a"}}, "extra_body.guided_regex"),
        ({"guided_regex": "a", "nvext": {"guided_regex": "b"}}, "nvext.guided_regex"),
        ({"guided_json": {"type": "objekt"}}, "guided_json"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"response_format": {"type": "regex"}}, "response_format.pattern"),
        ({"response_format": {"type": "json_object", "schema": 5}}, "response_format.schema"),
        ({"structured_outputs": {"template": 5}}, "structured_outputs.template"),
    ],
)
def test_a_contradiction_or_an_invalid_value_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidField) as refused:
        parse(**body)
    assert refused.value.param == param


def test_json_object_with_a_schema_without_a_type_means_an_object() -> None:
    wanted = format_of(response_format={"type": "json_object", "schema": {"properties": {"n": {"type": "integer"}}}})
    assert wanted.schema["type"] == "object"


@pytest.mark.parametrize(
    ("template", "pattern"),
    [
        ("On {{day}}.", r"On (?:[^\n\r]+)\."),
        ({"text": "{{a}} or {{b}}", "holes": {"a": {"choice": ["x+", "y"]}, "b": {"regex": "[0-9]"}}},
         r"(?:x\+|y) or (?:[0-9])"),
        ({"text": "{{a}}", "holes": {"a": {"regex": "("}}}, None),
    ],
)  # fmt: skip
def test_a_template_is_checked_as_a_regular_expression(template: Any, pattern: str | None) -> None:
    wanted = format_of(structured_outputs={"template": template})
    assert wanted == OutputFormat(form=FormatKind.TEMPLATE, pattern=pattern)
