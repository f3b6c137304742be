"""Requests for responses become the chat with the same meaning."""

from typing import Any

import orjson
import pytest
from openai.types.responses.response_create_params import ResponseCreateParamsBase

from gateway.enums import Capability, FormatKind, Task
from gateway.errors import BadRequest
from gateway.types import Query
from gateway.web.apis.responses.request import parse_response

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FUNCTION = {"type": "function", "name": "f", "parameters": SCHEMA, "strict": True}
GRAMMAR = {"type": "grammar", "syntax": "regex", "definition": "a+"}
CUSTOM = {"type": "custom", "name": "c", "description": "d", "format": GRAMMAR}


def parsed(**body: Any) -> Query:
    document = {"model": "auto", "input": "Hi", **body}
    return parse_response(orjson.dumps(document), {}, now_s=0.0, key=None)


def sent(**body: Any) -> dict[str, Any]:
    return dict(orjson.loads(parsed(**body).body))


def test_options_take_the_names_of_chats() -> None:
    chat = sent(
        max_output_tokens=9,
        reasoning={"effort": "low", "summary": "auto"},
        text={"verbosity": "low"},
        top_logprobs=3,
        include=["message.output_text.logprobs"],
        stream=True,
        seed=5,
        service_tier="flex",
        max_tool_calls=3,
        client_metadata={"turn": "1"},
        stream_options={"include_obfuscation": False},
    )
    assert chat == {
        "model": "auto",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_completion_tokens": 9,
        "reasoning_effort": "low",
        "verbosity": "low",
        "logprobs": True,
        "top_logprobs": 3,
        "stream": True,
        "seed": 5,
        "service_tier": "flex",
    }


def test_absent_and_null_options_are_not_sent() -> None:
    nothing = dict.fromkeys(("instructions", "max_output_tokens", "text", "reasoning", "tools", "tool_choice", "store"))
    assert sent(**nothing, parallel_tool_calls=True) == sent()


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ({"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}, FormatKind.JSON_SCHEMA),
        ({"type": "json_object"}, FormatKind.JSON_OBJECT),
        ({"type": "regex", "pattern": "a+"}, FormatKind.REGEX),
        ({"type": "text"}, None),
    ],
)
def test_the_format_of_the_text_is_the_format_of_the_chat(given: dict[str, Any], form: FormatKind | None) -> None:
    query = parsed(text={"format": given})
    assert (query.output_format.form if query.output_format else None) == form
    if form is FormatKind.JSON_SCHEMA:
        nested = {"name": "n", "schema": SCHEMA, "strict": True}
        assert orjson.loads(query.body)["response_format"] == {"type": "json_schema", "json_schema": nested}


def test_functions_and_custom_tools_are_nested_as_in_chats() -> None:
    query = parsed(tools=[FUNCTION, CUSTOM], parallel_tool_calls=False)
    chat = orjson.loads(query.body)
    function = {"name": "f", "parameters": SCHEMA, "strict": True}
    grammar = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "a+"}}
    assert chat["tools"] == [
        {"type": "function", "function": function},
        {"type": "custom", "custom": {"name": "c", "description": "d", "format": grammar}},
    ]
    assert [(tool.name, tool.is_custom, tool.pattern) for tool in query.tools] == [
        ("f", False, None),
        ("c", True, "a+"),
    ]
    assert not query.tool_choice.parallel


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
        ({"type": "custom", "name": "c"}, {"type": "custom", "custom": {"name": "c"}}),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "f"}, {"type": "mcp"}],
            },
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]},
            },
        ),
        ({"type": "mcp", "server_label": "x"}, None),
    ],
)
def test_a_tool_choice_is_nested_as_in_chats(given: Any, written: Any) -> None:
    assert sent(tools=[FUNCTION, CUSTOM], tool_choice=given).get("tool_choice") == written


def test_the_tools_of_a_namespace_are_offered_under_joined_names() -> None:
    space = {
        "type": "namespace",
        "name": "files",
        "description": "d",
        "tools": [FUNCTION, {**CUSTOM, "name": "n" * 60}],
    }
    call = {"type": "function_call", "call_id": "a", "namespace": "files", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "a", "output": "1"}
    choice = {"type": "function", "namespace": "files", "name": "f"}
    chat = sent(tools=[FUNCTION, space], input=[call, output], tool_choice=choice)
    first, second, third = (tool[tool["type"]]["name"] for tool in chat["tools"])
    assert (first, second, len(third), third[:10]) == ("f", "files__f", 64, "files__nnn")
    assert chat["messages"][0]["tool_calls"][0]["function"]["name"] == "files__f"
    assert chat["tool_choice"]["function"]["name"] == "files__f"


def test_a_choice_of_the_tool_binds_the_check_of_the_answer() -> None:
    choice = parsed(tools=[FUNCTION, CUSTOM], tool_choice={"type": "function", "name": "f"}).tool_choice
    assert (choice.is_required, choice.allowed) == (True, {"f"})


def test_labels_are_read_and_not_sent() -> None:
    query = parsed(metadata={"task": "summarize", "twolane_private": "true"})
    assert (query.task_hint, query.private) == (Task.SUMMARIZE, True)
    assert "metadata" not in orjson.loads(query.body)
    assert query.beyond_chat.repeated["metadata"] == {"task": "summarize", "twolane_private": "true"}


def test_what_only_a_provider_has_is_reported_with_its_field() -> None:
    query = parsed(
        tools=[{"type": "web_search"}, FUNCTION, {"type": "mcp", "server_label": "s"}],
        prompt={"id": "p"},
        input=[{"type": "computer_call_output"}, {"role": "user", "content": "Hi"}],
    )
    assert query.parameters.hosted == {
        "web_search": "tools[0].type",
        "mcp": "tools[2].type",
        "prompt": "prompt",
        "computer": "input[0].type",
    }
    assert query.parameters.names >= query.parameters.hosted.keys()
    assert len(orjson.loads(query.body)["tools"]) == 1


def test_what_the_gateway_cannot_honour_is_named_in_the_response() -> None:
    assert parsed(store=True, truncation="auto").beyond_chat.ignored == {"store", "truncation"}
    assert parsed(store=False, truncation="disabled").beyond_chat.ignored == frozenset()


def test_images_and_tools_need_a_target_that_has_them() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA"}
    query = parsed(input=[{"role": "user", "content": [image]}], tools=[FUNCTION], stream=True)
    assert {Capability.IMAGES, Capability.TOOLS, Capability.STREAM} <= query.needs


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": ""}, "model"),
        ({"input": None}, "input"),
        ({"instructions": 5}, "instructions"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"n": 2}, "n"),
        ({"include": ["x"]}, "include[0]"),
        ({"include": [5]}, "include[0]"),
        ({"truncation": "x"}, "truncation"),
        ({"temperature": 3}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"text": {"format": {}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "name": "n" * 65, "schema": {}}}}, "text.format.name"),
        ({"tools": {}}, "tools"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"name": "f"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "custom", "name": 5}]}, "tools[0].name"),
        ({"tools": [{"type": "mcp"}, {**FUNCTION, "name": "f" * 65}]}, "tools[1].name"),
        ({"tools": [{"type": "mcp"}, {**FUNCTION, "parameters": {"type": 5}}]}, "tools[1].parameters"),
        ({"tools": [{"type": "namespace", "name": "s"}]}, "tools[0].tools"),
        (
            {"tools": [FUNCTION, {"type": "namespace", "name": "s", "tools": [{"type": "custom"}]}]},
            "tools[1].tools[0].name",
        ),
        (
            {"tools": [{"type": "namespace", "name": "s", "tools": [CUSTOM, {**FUNCTION, "parameters": {"type": 5}}]}]},
            "tools[0].tools[1].parameters",
        ),
        ({"tool_choice": 5}, "tool_choice"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools", "tools": []}}, "tool_choice.tools"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools", "mode": "x"}}, "tool_choice.mode"),
        ({"metadata": {"twolane_private": "perhaps"}}, "metadata.twolane_private"),
        ({"max_tool_calls": "x"}, "max_tool_calls"),
        ({"max_tool_calls": 0}, "max_tool_calls"),
        ({"stream_options": 5}, "stream_options"),
        ({"stream_options": {"include_obfuscation": "yes"}}, "stream_options.include_obfuscation"),
    ],
)
def test_an_invalid_field_is_named_as_the_client_wrote_it(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parsed(**body)
    assert caught.value.param == param
    assert param in caught.value.message


OBJECTS = (
    "text reasoning metadata prompt moderation background_options access_programs image client_metadata"
    " prompt_cache_options stream_options".split()
)
TEXTS = "instructions previous_response_id user safety_identifier prompt_cache_key prompt_cache_retention".split()
OTHERS = (
    "conversation background store stream include input tools tool_choice parallel_tool_calls top_logprobs truncation"
    " max_output_tokens max_tool_calls n context_management temperature top_p service_tier model".split()
)


@pytest.mark.parametrize("name", [*OBJECTS, *TEXTS, *OTHERS])
def test_every_field_has_a_type(name: str) -> None:
    wrong = {"a": 1} if name in TEXTS or name in OTHERS else "x"
    with pytest.raises(BadRequest) as caught:
        parsed(**{name: wrong})
    assert (caught.value.param or "").split(".")[0].split("[")[0] == name


def test_the_types_of_all_fields_of_openai_s_client_are_checked() -> None:
    known = ResponseCreateParamsBase.__annotations__.keys() | {"stream"}
    assert known - {*OBJECTS, *TEXTS, *OTHERS} == set()
