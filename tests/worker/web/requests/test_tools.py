"""Tools, tool choice and the thinking switch."""

from typing import Any

import pytest

from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tool_calls import NO_ARGUMENTS, Syntax, Thought
from diffusion_worker.errors import InvalidRequest
from diffusion_worker.text.chat_template import NO_FEATURES, TemplateFeatures
from diffusion_worker.web.requests.fields import Fields
from diffusion_worker.web.requests.tools import NO_TOOLS, parse_thinking, parse_tools

THINKING = TemplateFeatures(thinking=True)
WEATHER = {"name": "weather", "description": "of a city", "parameters": {"type": "object", "properties": {}}}


def offered(function: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": function}]}


def refused(values: dict[str, Any], parse: Any = parse_tools) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(Fields(values))
    assert caught.value.message.endswith(".")
    return caught.value


def test_tools_are_passed_on_in_the_form_of_templates() -> None:
    """`strict` has no effect and is not passed on; a missing description becomes empty."""
    assert parse_tools(Fields(offered({**WEATHER, "strict": True}))).offered == (
        {"type": "function", "function": WEATHER},
    )
    assert parse_tools(Fields(offered({"name": "f"}))).offered == (
        {"type": "function", "function": {"name": "f", "description": ""}},
    )


def test_tool_choice_none_offers_no_tools() -> None:
    assert parse_tools(Fields({**offered(WEATHER), "tool_choice": "none"})) == NO_TOOLS
    assert parse_tools(Fields({**offered(WEATHER), "tool_choice": "auto"})).offered


@pytest.mark.parametrize(
    ("fields", "required", "function", "parallel"),
    [
        ({}, False, None, True),
        ({"tool_choice": "auto", "parallel_tool_calls": False}, False, None, False),
        ({"tool_choice": "required", "parallel_tool_calls": True}, True, None, True),
        ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, True, "weather", False),
    ],
)
def test_tool_choice_is_parsed(fields: dict[str, Any], required: bool, function: str | None, parallel: bool) -> None:
    """A named function is called once."""
    tools = parse_tools(Fields({**offered(WEATHER), **fields}))
    assert (tools.required, tools.function, tools.parallel) == (required, function, parallel)


def test_tools_become_a_constraint() -> None:
    """Only functions that may be called, each with its field for error messages; missing parameters are empty."""
    fields = Fields(
        {
            "tools": [*offered(WEATHER)["tools"], *offered({"name": "f"})["tools"]],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
        }
    )
    constraint = parse_tools(fields).constraint(Syntax.TAGGED, Thought.NONE, Constraint(kind="json_object"))
    assert constraint.kind == "tools"
    assert constraint.value == {
        "functions": [{"name": "f", "parameters": NO_ARGUMENTS, "field": "tools[1].function.parameters"}],
        "syntax": "tagged",
        "thought": "none",
        "required": True,
        "parallel": False,
        "text": {"kind": "json_object", "value": None},
    }


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ("any", "tool_choice"),
        (1, "tool_choice"),
        ([], "tool_choice"),
        ({"type": "allowed_tools"}, "tool_choice.type"),
        ({"type": "function"}, "tool_choice.function"),
        ({"type": "function", "function": {"name": ""}}, "tool_choice.function.name"),
        ({"type": "function", "function": {"name": "weather", "mood": 1}}, "tool_choice.function.mood"),
        ({"type": "function", "function": {"name": "other"}}, "tool_choice"),
    ],
)
def test_an_invalid_tool_choice_is_named(choice: Any, param: str) -> None:
    """Also an unknown function."""
    assert refused({**offered(WEATHER), "tool_choice": choice}).param == param


def test_a_required_call_needs_tools() -> None:
    """Otherwise an empty list of tools is accepted."""
    assert refused({"tools": [], "tool_choice": "required"}).param == "tool_choice"
    assert parse_tools(Fields({"tools": [], "tool_choice": "auto"})) == NO_TOOLS


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"tools": "x"}, "tools"),
        ({"tools": ["x"]}, "tools[0]"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        (offered({}), "tools[0].function.name"),
        (offered({"name": "a b"}), "tools[0].function.name"),
        (offered({"name": "f", "code": "x"}), "tools[0].function.code"),
        (offered({"name": "f", "description": 5}), "tools[0].function.description"),
        (offered({"name": "f", "strict": "yes"}), "tools[0].function.strict"),
        (offered({"name": "f", "parameters": {"type": "nonsense"}}), "tools[0].function.parameters"),
        ({"tools": offered({"name": "f"})["tools"] * 2}, "tools"),
        ({"tools": offered({"name": "f"})["tools"] * 129}, "tools"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
    ],
)
def test_an_invalid_tool_is_named_with_its_path(values: dict[str, Any], param: str) -> None:
    """Before anything is rendered."""
    assert refused(values).param == param


@pytest.mark.parametrize(
    ("values", "thinking"),
    [
        ({}, None),
        ({"chat_template_kwargs": {}}, None),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "minimal"}, False),
        ({"reasoning_effort": "high"}, True),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "none"}, False),
    ],
)
def test_thinking_has_two_parameters(values: dict[str, Any], thinking: bool | None) -> None:
    """OpenAI's and vLLM's; without either, the template decides."""
    assert parse_thinking(Fields(values), THINKING) is thinking


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"reasoning_effort": "much"}, "reasoning_effort"),
        ({"reasoning_effort": 3}, "reasoning_effort"),
        ({"chat_template_kwargs": {"documents": []}}, "chat_template_kwargs.documents"),
        ({"chat_template_kwargs": {"enable_thinking": "yes"}}, "chat_template_kwargs.enable_thinking"),
        (
            {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "none"},
            "chat_template_kwargs.enable_thinking",
        ),
    ],
)
def test_an_invalid_thinking_switch_is_named(values: dict[str, Any], param: str) -> None:
    """Also two that contradict each other."""
    assert refused(values, lambda fields: parse_thinking(fields, THINKING)).param == param


@pytest.mark.parametrize("values", [{"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}])
def test_a_model_that_never_thinks_may_be_told_not_to(values: dict[str, Any]) -> None:
    assert parse_thinking(Fields(values), NO_FEATURES) is None


@pytest.mark.parametrize("values", [{"reasoning_effort": "low"}, {"chat_template_kwargs": {"enable_thinking": True}}])
def test_the_thinking_switch_is_refused_without_template_support(values: dict[str, Any]) -> None:
    error = refused(values, lambda fields: parse_thinking(fields, NO_FEATURES))
    assert (error.param, error.code) == (next(iter(values)), "unsupported_parameter")
