"""Offered tools, and the rules that a request sets for calls."""

import json
from typing import Any

import pytest

from gateway.errors import InvalidField
from gateway.types import Query, Tool, ToolChoice
from gateway.web.parse_request import parse_chat

FUNCTIONS = [{"type": "function", "function": {"name": name}} for name in ("f", "g", "h")]
CUSTOM = {"type": "custom", "custom": {"name": "patch"}}
ANY = ToolChoice()


def parse(**body: Any) -> Query:
    document = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], **body}
    return parse_chat(json.dumps(document).encode(), {}, now_s=0.0, key=None)


def only(*names: str, is_required: bool = False) -> ToolChoice:
    return ToolChoice(is_required=is_required, allowed=frozenset(names))


@pytest.mark.parametrize(
    ("choice", "rules"),
    [
        (None, ANY),
        ("auto", ANY),
        ({"type": "auto"}, ANY),
        ({"type": "web_search"}, ANY),
        ({"type": ["function"]}, ANY),
        ([{"type": "auto"}], ANY),
        ("none", only()),
        ("required", ToolChoice(is_required=True)),
        ("any", ToolChoice(is_required=True)),
        ({"type": "any"}, ToolChoice(is_required=True)),
        ({"type": "function", "function": {"name": "g"}}, only("g", is_required=True)),
        ({"function": {"name": "g"}}, only("g", is_required=True)),
        ({"type": "function", "name": "g"}, only("g", is_required=True)),
        ({"type": "tool", "name": "g"}, only("g", is_required=True)),
        ({"type": "custom", "custom": {"name": "patch"}}, only("patch", is_required=True)),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [FUNCTIONS[0], CUSTOM]}},
            only("f", "patch"),
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": FUNCTIONS[:2]}},
            only("f", "g", is_required=True),
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "h"}]},
            only("h", is_required=True),
        ),
    ],
)
def test_tool_choice_is_read_in_every_form(choice: Any, rules: ToolChoice) -> None:
    assert parse(tools=[*FUNCTIONS, CUSTOM], tool_choice=choice).tool_choice == rules


def test_parallel_calls_may_be_excluded() -> None:
    assert not parse(tools=FUNCTIONS, parallel_tool_calls=False).tool_choice.parallel
    assert parse(tools=FUNCTIONS, parallel_tool_calls=None).tool_choice.parallel


def test_a_tool_that_the_target_runs_itself_may_fulfil_a_required_call() -> None:
    tools = [*FUNCTIONS, {"type": "web_search"}]
    assert not parse(tools=tools, tool_choice="required").tool_choice.is_required
    assert parse(tools=tools, tool_choice=FUNCTIONS[0]).tool_choice.is_required


def test_without_tools_there_are_no_rules() -> None:
    assert parse(tool_choice="required", parallel_tool_calls=False).tool_choice == ANY
    assert parse(tools=[{"type": "web_search"}], tool_choice="required").tool_choice == ANY


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "function": {"name": "x"}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"function": {"name": "x"}}]}},
    ],
)
def test_a_choice_of_a_tool_that_is_not_offered_is_refused(choice: Any) -> None:
    with pytest.raises(InvalidField, match="'x', which is not offered") as refused:
        parse(tools=FUNCTIONS, tool_choice=choice)
    assert refused.value.param == "tool_choice"


@pytest.mark.parametrize(
    ("format_", "pattern"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "grammar", "grammar": {"syntax": "regex", "definition": "[a-z]+"}}, "[a-z]+"),
        ({"type": "grammar", "grammar": {"syntax": "regex", "definition": "(?<"}}, None),
        ({"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: WORD"}}, None),
    ],
)
def test_of_custom_tools_a_regular_expression_can_be_checked(format_: Any, pattern: str | None) -> None:
    custom = {"type": "custom", "custom": {"name": "patch", "format": format_}}
    assert parse(tools=[custom]).tools == (Tool(name="patch", is_custom=True, pattern=pattern),)


@pytest.mark.parametrize(
    ("choice", "rules"),
    [("auto", ANY), ("none", only()), ({"name": "f"}, only("f", is_required=True)), (None, ANY)],
)
def test_the_older_functions_are_tools(choice: Any, rules: ToolChoice) -> None:
    query = parse(functions=[{"name": "f", "parameters": {"type": "object"}}], function_call=choice)
    assert (query.tools[0].name, query.tools[0].parameters) == ("f", {"type": "object"})
    assert query.tool_choice == rules
    assert query.has_tools


def test_invalid_parameters_are_refused_by_their_path() -> None:
    with pytest.raises(InvalidField) as refused:
        parse(functions=[{"name": "f", "parameters": {"type": "objekt"}}])
    assert refused.value.param == "functions[0].parameters"
