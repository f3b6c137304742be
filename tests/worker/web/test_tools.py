"""web.tools: what is offered and how hard to think, as far as the checkpoint can."""

from typing import Any

import pytest

from diffusion_worker.errors import BadAsk
from diffusion_worker.text.chat_template import TURNS_ONLY, Abilities
from diffusion_worker.web.fields import Fields
from diffusion_worker.web.tools import NO_TOOLS, Tools, parse_thinking, parse_tools

ABLE = Abilities(tools=True, thinking=True)
WEATHER = {"name": "weather", "description": "of a city", "parameters": {"type": "object", "properties": {}}}


def offer(function: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": function}]}


def refused(values: dict[str, Any], parse: Any = parse_tools, abilities: Abilities = ABLE) -> BadAsk:
    with pytest.raises(BadAsk) as caught:
        parse(Fields(values), abilities)
    assert caught.value.message.endswith(".")
    return caught.value


def test_tools_are_handed_on_as_templates_read_them() -> None:
    """`strict` promises nothing here, so the template is not told of it; a missing description is an empty one."""
    assert parse_tools(Fields(offer({**WEATHER, "strict": True})), ABLE).offered == (
        {"type": "function", "function": WEATHER},
    )
    assert parse_tools(Fields(offer({"name": "f"})), ABLE).offered == (
        {"type": "function", "function": {"name": "f", "description": ""}},
    )


def test_a_choice_of_none_offers_nothing() -> None:
    """A model that is shown no tool calls none."""
    assert parse_tools(Fields({**offer(WEATHER), "tool_choice": "none"}), ABLE) == NO_TOOLS
    assert parse_tools(Fields({**offer(WEATHER), "tool_choice": "auto"}), ABLE).offered


def test_calls_one_at_a_time_can_be_had() -> None:
    """The answer ends behind the first."""
    assert parse_tools(Fields({"parallel_tool_calls": False}), ABLE) == Tools(most_calls=1)
    assert parse_tools(Fields({"parallel_tool_calls": True}), ABLE).most_calls is None


@pytest.mark.parametrize("choice", ["required", "any", {"type": "function", "function": {"name": "weather"}}, 1, []])
def test_a_choice_that_would_need_a_guarantee_is_refused(choice: Any) -> None:
    """Until it can be kept."""
    error = refused({**offer(WEATHER), "tool_choice": choice})
    assert (error.param, error.code) == ("tool_choice", "unsupported_parameter")


def test_a_checkpoint_without_tools_refuses_them_by_name() -> None:
    """An empty list asks for nothing."""
    assert refused(offer(WEATHER), abilities=TURNS_ONLY).param == "tools"
    assert parse_tools(Fields({"tools": [], "tool_choice": "auto"}), TURNS_ONLY) == NO_TOOLS


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"tools": "x"}, "tools"),
        ({"tools": ["x"]}, "tools[0]"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        (offer({}), "tools[0].function.name"),
        (offer({"name": "a b"}), "tools[0].function.name"),
        (offer({"name": "f", "code": "x"}), "tools[0].function.code"),
        (offer({"name": "f", "description": 5}), "tools[0].function.description"),
        (offer({"name": "f", "strict": "yes"}), "tools[0].function.strict"),
        (offer({"name": "f", "parameters": {"type": "nonsense"}}), "tools[0].function.parameters"),
        ({"tools": offer({"name": "f"})["tools"] * 2}, "tools"),
        ({"tools": offer({"name": "f"})["tools"] * 129}, "tools"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
    ],
)
def test_a_wrong_tool_is_named_with_its_path(values: dict[str, Any], param: str) -> None:
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
def test_thinking_has_two_spellings(values: dict[str, Any], thinking: bool | None) -> None:
    """OpenAI's and vLLM's; without either the template decides."""
    assert parse_thinking(Fields(values), ABLE) is thinking


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
def test_a_wrong_switch_is_named(values: dict[str, Any], param: str) -> None:
    """Also two that contradict each other."""
    assert refused(values, parse_thinking).param == param


@pytest.mark.parametrize("values", [{"reasoning_effort": "low"}, {"chat_template_kwargs": {"enable_thinking": False}}])
def test_a_template_without_a_switch_refuses_it_by_name(values: dict[str, Any]) -> None:
    """It would have to be ignored."""
    error = refused(values, parse_thinking, TURNS_ONLY)
    assert (error.param, error.code) == (next(iter(values)), "unsupported_parameter")
