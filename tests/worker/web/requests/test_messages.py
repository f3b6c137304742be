"""Messages with tool calls and tool results."""

from typing import Any

import pytest

from diffusion_worker.errors import InvalidRequest
from diffusion_worker.text.messages import Message, PastCall
from diffusion_worker.web.requests.fields import Fields
from diffusion_worker.web.requests.messages import parse_messages


def called(arguments: Any = '{"city": "Rome"}', **more: Any) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}, **more}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def answered(**more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "c1", "content": "sunny", **more}


def parse(*messages: dict[str, Any]) -> tuple[Message, ...]:
    return parse_messages(Fields({"messages": list(messages)}))


def test_tool_calls_and_results_are_parsed() -> None:
    """Arguments become objects; thoughts are parsed too and removed later if outdated."""
    turns = parse({**called(), "reasoning_content": "hm"}, answered(content=[{"type": "text", "text": "sunny"}]))
    assert turns == (
        Message(
            role="assistant",
            content="",
            thought="hm",
            calls=(PastCall(id="c1", name="weather", arguments={"city": "Rome"}),),
        ),
        Message(role="tool", content="sunny", call_id="c1"),
    )


@pytest.mark.parametrize("arguments", ["", "{}", " ", "\n"])
def test_empty_arguments_are_an_empty_object(arguments: str) -> None:
    """Both forms are in use."""
    assert parse(called(arguments))[0].calls[0].arguments == {}


@pytest.mark.parametrize(
    "arguments",
    [
        "[]",
        '"Rome"',
        "{city: Rome}",
        '{"city": "Ro',
        '{"city"',
        '{"a":' * 100 + "1" + "}" * 100,
        '{"a":' * 9999,
        "Rome",
    ],
)
def test_arguments_that_are_no_object_stay_text(arguments: str) -> None:
    """The model wrote them, perhaps cut off, and the conversation goes on."""
    assert parse(called(arguments), answered())[0].calls[0].arguments == arguments


@pytest.mark.parametrize("arguments", [{"city": "Rome"}, '{"city": "Rome"}', ' {"city": "Rome"} '])
def test_arguments_may_be_an_object_or_its_text(arguments: Any) -> None:
    assert parse(called(arguments))[0].calls[0].arguments == {"city": "Rome"}


def test_integers_in_arguments_are_exact() -> None:
    assert parse(called('{"id": 12345678901234567890123}'))[0].calls[0].arguments == {"id": 12345678901234567890123}


@pytest.mark.parametrize("message", [{"content": ""}, {"content": None}, {}, {"content": None, "tool_calls": []}])
def test_an_answer_in_the_history_may_be_empty(message: dict[str, Any]) -> None:
    assert parse({"role": "assistant", **message})[0].content == ""


@pytest.mark.parametrize(
    ("message", "content", "thought"),
    [
        ({"content": None, "refusal": "I cannot"}, "I cannot", ""),
        ({"content": "yes", "refusal": None, "annotations": [{"type": "url_citation"}], "id": "m1"}, "yes", ""),
        ({"content": "yes", "reasoning": "hm", "reasoning_details": [{"type": "reasoning.text"}]}, "yes", "hm"),
        ({"content": "yes", "reasoning_content": "hm", "reasoning": "hm"}, "yes", "hm"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]}, "ab", ""),
    ],
)
def test_recorded_answers_of_other_models_are_taken(message: dict[str, Any], content: str, thought: str) -> None:
    """Applications send an answer back as it was, whoever gave it."""
    [found] = parse({"role": "assistant", **message})
    assert (found.content, found.thought) == (content, thought)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "user", "content": "x", "refusal": "no"}], "messages[0].refusal"),
        ([{"role": "user", "content": "x", "annotations": [{}]}], "messages[0].annotations"),
        ([{"role": "user", "content": "x", "id": "m1"}], "messages[0].id"),
        ([{"role": "assistant", "content": "x", "audio": {"id": "a"}}], "messages[0].audio"),
        ([{"role": "assistant", "content": "x", "mood": "y"}], "messages[0].mood"),
        ([called(7)], "messages[0].tool_calls[0].function.arguments"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([called(id="")], "messages[0].tool_calls[0].id"),
        ([called(type="custom")], "messages[0].tool_calls[0].type"),
        ([called(mood="x")], "messages[0].tool_calls[0].mood"),
        ([called(function=None)], "messages[0].tool_calls[0].function"),
        ([{**called(), "role": "user"}], "messages[0].tool_calls"),
        ([{**called(), "tool_calls": "x"}], "messages[0].tool_calls"),
        ([{**called(), "tool_call_id": "c1"}], "messages[0].tool_call_id"),
        ([answered()], "messages[0].tool_call_id"),
        ([answered(), called()], "messages[0].tool_call_id"),
        ([called(), answered(tool_call_id="c2")], "messages[1].tool_call_id"),
        ([called(), answered(tool_call_id=None)], "messages[1].tool_call_id"),
        ([called(), answered(content=None)], "messages[1].content"),
        ([{"role": "function", "content": "x"}], "messages[0].role"),
    ],
)
def test_an_invalid_message_is_named_with_its_path(messages: list[dict[str, Any]], param: str) -> None:
    """Only InvalidRequest is raised, at any depth."""
    with pytest.raises(InvalidRequest) as caught:
        parse(*messages)
    assert caught.value.param == param
