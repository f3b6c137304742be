"""Anthropic's Messages API through a real gateway: whole answers, streams, tools, errors, and what targets are sent."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from gateway.reliability.load_shedding import LoadShedder, SheddingRule
from tests.gateway.serving import RealGateway, completion, fake_server, start_stream
from twolane.process.api_keys import key_line

pytestmark = pytest.mark.anyio

PATH = "/v1/messages"
POLICY = """
version: 1
aliases: ["claude-*"]
targets:
  quality: {kind: openai, engine: vllm, url: "%s", model: big, location: in_cluster}
routes: [{name: default, use: quality}]
"""
USER = [{"role": "user", "content": "What is the weather in Rome?"}]
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Stack:
    """A gateway before a fake vLLM that answers with `message`, in one piece or in `pieces`."""

    def __init__(self) -> None:
        self.gateway: RealGateway
        self.server: Any
        self.message: dict[str, Any] = {"role": "assistant", "content": "Sunny."}
        self.pieces: list[dict[str, Any]] = [{"content": "Sun"}, {"content": "ny."}]
        self.reason = "stop"
        self.more: dict[str, Any] = {}

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if not body.get("stream"):
            whole = completion("")
            whole["choices"] = [{"index": 0, "message": self.message, "finish_reason": self.reason, **self.more}]
            return web.json_response(whole)
        stream = await start_stream(request)
        head = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 1, "model": "big"}
        choices: list[dict[str, Any]] = [{"index": 0, "delta": {"role": "assistant", "content": ""}}]
        choices += [{"index": 0, "delta": piece} for piece in self.pieces]
        choices.append({"index": 0, "delta": {}, "finish_reason": self.reason, **self.more})
        chunks = [{**head, "choices": [choice]} for choice in choices]
        chunks.append(
            {**head, "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}}
        )
        await stream.write(b"".join(b"data: " + orjson.dumps(each) + b"\n\n" for each in chunks) + b"data: [DONE]\n\n")
        return stream

    async def ask(self, path: str = PATH, **body: Any) -> tuple[int, dict[str, str], Any]:
        return await self.gateway.ask({"model": "claude-x", "max_tokens": 99, "messages": USER, **body}, path=path)

    async def events(self, **body: Any) -> list[dict[str, Any]]:
        status, _, raw = await self.ask(stream=True, **body)
        assert status == 200, raw
        events = []
        for event in raw.strip().split(b"\n\n"):
            name, data = event.split(b"\n")
            events.append(orjson.loads(data.removeprefix(b"data: ")))
            assert name == b"event: " + events[-1]["type"].encode()
        return events


@pytest.fixture
async def stack(serving: Any) -> AsyncIterator[Stack]:
    stack = Stack()
    async with fake_server(stack.answer) as stack.server, serving(POLICY % stack.server.url) as stack.gateway:
        yield stack


async def test_a_whole_answer_is_a_message(stack: Stack) -> None:
    status, headers, told = await stack.ask(system="Be brief.")
    assert status == 200
    assert told == {
        "id": "msg_c1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Sunny."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 2,
        },
    }
    assert headers["request-id"] == headers["x-request-id"]
    (sent,) = stack.server.bodies
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, *USER]
    assert (sent["model"], sent["max_tokens"]) == ("big", 99)


async def test_a_stream_has_anthropic_s_events_in_order(stack: Stack) -> None:
    stack.pieces = [{"reasoning_content": "Look "}, {"reasoning_content": "up."}, *stack.pieces]
    events = await stack.events()
    assert [event["type"] for event in events] == [
        *("message_start", "ping"),
        *("content_block_start", "content_block_delta", "content_block_delta", "content_block_delta"),
        "content_block_stop",
        *("content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert [delta["type"] for delta in deltas] == [*["thinking_delta"] * 2, "signature_delta", *["text_delta"] * 2]
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert (events[-2]["usage"]["input_tokens"], events[-2]["usage"]["output_tokens"]) == (9, 4)


async def test_parallel_calls_stream_as_blocks_of_their_own(stack: Stack) -> None:
    stack.reason = "tool_calls"
    stack.pieces = [
        {"content": "Two cities."},
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "get_weather", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Rome"}'}}]},
        {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "get_weather", "arguments": '{"city":"Oslo"}'}}]},
    ]
    events = await stack.events(tools=[WEATHER])
    blocks = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    assert [(block["type"], block.get("id")) for block in blocks] == [
        ("text", None),
        ("tool_use", "a"),
        ("tool_use", "b"),
    ]
    inputs = ["", "", ""]
    for event in events:
        inputs[event.get("index", 0)] += event.get("delta", {}).get("partial_json", "")
    assert [orjson.loads(each) for each in inputs[1:]] == [{"city": "Rome"}, {"city": "Oslo"}]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


async def test_calls_and_results_become_those_of_a_chat(stack: Stack) -> None:
    used = [
        {"type": "thinking", "thinking": "Which?", "signature": "s"},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "a", "name": "get_weather", "input": {"city": "Rome"}},
        {"type": "tool_use", "id": "b", "name": "get_weather", "input": {}},
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "sun"}]},
        {"type": "tool_result", "tool_use_id": "b", "content": "no city", "is_error": True},
        {"type": "text", "text": "Go on."},
    ]
    turns = [*USER, {"role": "assistant", "content": used}, {"role": "user", "content": results}]
    status, _, told = await stack.ask(
        messages=turns, tools=[WEATHER], tool_choice={"type": "any", "disable_parallel_tool_use": True}
    )
    # The fake server's answer calls nothing, although `any` asks for a call.
    assert (status, told["error"]["type"]) == (502, "api_error")
    (sent,) = stack.server.bodies
    assert sent["messages"][1:] == [
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Which?",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Rome"}'}},
                {"id": "b", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "sun"},
        {"role": "tool", "tool_call_id": "b", "content": "Error: no city"},
        {"role": "user", "content": "Go on."},
    ]
    assert (sent["tool_choice"], sent["parallel_tool_calls"]) == ("required", False)
    function = {"name": "get_weather", "description": WEATHER["description"], "parameters": WEATHER["input_schema"]}
    assert sent["tools"] == [{"type": "function", "function": function}]


async def test_a_call_that_does_not_fit_its_schema_is_an_error(stack: Stack) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": 5}'}}
    stack.message, stack.reason = {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"
    status, _, told = await stack.ask(tools=[WEATHER])
    assert (status, told["type"], told["error"]["type"]) == (502, "error", "api_error")
    call["function"]["arguments"] = '{"city": "Rome"}'  # type: ignore[index]
    status, _, told = await stack.ask(tools=[WEATHER])
    assert told["content"] == [{"type": "tool_use", "id": "a", "name": "get_weather", "input": {"city": "Rome"}}]
    assert told["stop_reason"] == "tool_use"


@pytest.mark.parametrize("field", ["output_format", "output_config"])
async def test_an_answer_is_checked_against_the_format_it_was_asked_for(stack: Stack, field: str) -> None:
    wanted = {"type": "json_schema", "schema": {"type": "object", "required": ["a"]}}
    asked = {field: wanted if field == "output_format" else {"format": wanted, "effort": "low"}}
    stack.message["content"] = '{"b": 1}'
    status, _, told = await stack.ask(**asked)
    assert (status, told["error"]["type"]) == (502, "api_error")
    stack.message["content"] = '{"a": 1}'
    status, headers, _ = await stack.ask(**asked)
    assert (status, headers["x-twolane-schema"]) == (200, "valid")
    assert stack.server.bodies[-1]["response_format"]["json_schema"]["schema"] == wanted["schema"]


async def test_the_shape_of_claude_code_reaches_a_target_without_what_only_anthropic_has(stack: Stack) -> None:
    ephemeral = {"type": "ephemeral"}
    reminder = {"type": "text", "text": "<system-reminder>Be careful.</system-reminder>"}
    events = await stack.events(
        system=[
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=ab12;"},
            {"type": "text", "text": "You are a coding agent.", "cache_control": ephemeral},
        ],
        messages=[
            {"role": "user", "content": [reminder, {"type": "text", "text": "Hi", "cache_control": ephemeral}]},
        ],
        tools=[{**WEATHER, "cache_control": ephemeral, "eager_input_streaming": True}],
        metadata={"user_id": orjson.dumps({"device_id": "d" * 64, "session_id": "s"}).decode()},
        thinking={"type": "adaptive"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        output_config={"effort": "high"},
        temperature=1,
    )
    assert events[-1]["type"] == "message_stop"
    (sent,) = stack.server.bodies
    assert sent["messages"][0]["content"] == [{"type": "text", "text": "You are a coding agent."}]
    assert [part["text"] for part in sent["messages"][1]["content"]] == [reminder["text"], "Hi"]
    assert b"cache_control" not in orjson.dumps(sent)
    assert len(sent["user"]) == 64
    assert sent["chat_template_kwargs"] == {"enable_thinking": True}
    assert sent.keys() == {
        *("model", "messages", "max_tokens", "stream", "stream_options", "tools", "user", "temperature"),
        "chat_template_kwargs",
    }


async def test_the_stop_string_is_named_where_the_target_reports_it(stack: Stack) -> None:
    stack.more = {"stop_reason": "END"}
    _, _, told = await stack.ask(stop_sequences=["END", "FIN"])
    assert (told["stop_reason"], told["stop_sequence"]) == ("stop_sequence", "END")
    assert (await stack.events(stop_sequences=["END"]))[-2]["delta"]["stop_sequence"] == "END"
    assert stack.server.bodies[0]["stop"] == ["END", "FIN"]
    stack.more, stack.reason = {}, "length"
    assert (await stack.ask())[2]["stop_reason"] == "max_tokens"


async def test_the_beginning_of_an_answer_is_continued(stack: Stack) -> None:
    prefill = {"role": "assistant", "content": "The weather is"}
    status, _, _ = await stack.ask(messages=[*USER, prefill])
    (sent,) = stack.server.bodies
    assert status == 200
    assert sent["messages"][-1] == prefill
    assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}


async def test_an_image_is_passed_as_a_data_url(stack: Stack) -> None:
    result = {"type": "tool_result", "tool_use_id": "a", "content": [IMAGE]}
    call = {"type": "tool_use", "id": "a", "name": "get_weather", "input": {}}
    turns = [*USER, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    status, _, _ = await stack.ask(messages=turns, tools=[WEATHER])
    assert status == 200
    assert stack.server.bodies[0]["messages"][-1]["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    ]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}
                ]
            },
            "messages[0].content[0].source.type",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{"name": "f", "input_schema": {"type": 5}}]}, "tools[0].input_schema"),
        ({"tools": [{"name": "f" * 65, "input_schema": {}}]}, "tools[0].name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"thinking": {"type": "often"}}, "thinking.type"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": 5}}}}, "output_config.format.schema"),
        ({"temperature": 3}, "temperature"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"mcp_servers": [{"url": "https://example.com"}]}, "mcp_servers"),
        ({"inference_geo": "eu"}, "inference_geo"),
        ({"system": [{"type": "image"}]}, "system[0].type"),
    ],
)
async def test_an_invalid_request_is_refused_in_anthropic_s_form_and_names_the_field(
    stack: Stack, changed: dict[str, Any], named: str
) -> None:
    status, headers, told = await stack.ask(**changed)
    assert (status, told["type"], told["error"]["type"]) == (400, "error", "invalid_request_error")
    shown = told["error"]["message"].replace("[...]", "[0]")
    assert named in shown, shown
    assert told["request_id"] == headers["request-id"]


async def test_errors_of_other_layers_have_anthropic_s_form_too(stack: Stack) -> None:
    status, headers, told = await stack.ask(model="unknown")
    assert (status, told["error"]["type"]) == (404, "not_found_error")
    assert told["request_id"] == headers["request-id"]
    status, _, told = await stack.ask(path=f"{PATH}/batches")
    assert (status, told["error"]["type"]) == (404, "not_found_error")
    status, _, told = await stack.gateway.ask(b"{", path=PATH)
    assert (status, told["error"]["type"]) == (400, "invalid_request_error")
    status, _, told = await stack.gateway.ask(b"{}", path=PATH, host="example.com")
    assert (status, told["error"]["type"]) == (403, "permission_error")


async def test_a_stream_that_breaks_ends_with_an_error_event(stack: Stack) -> None:
    async def breaks(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        stream = await start_stream(request)
        await stream.write(b'data: {"choices":[{"index":0,"delta":{"content":"Sun"}}]}\n\n')
        assert request.transport is not None
        request.transport.close()
        return stream

    stack.server.answer = breaks
    events = await stack.events()
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["type"] == "api_error"
    assert events[-1]["request_id"].startswith("req_")


async def test_refusals_before_the_request_is_parsed_have_anthropic_s_form(serving: Any, tmp_path: Path) -> None:
    """By the key, by the size of the body, and by the load of the gateway."""
    file = tmp_path / "keys"
    file.write_text(key_line("anna", "sk-anna") + "\n")
    async with fake_server() as server, serving(POLICY % server.url, keys_file=file, max_body_bytes=2000) as gateway:
        body = {"model": "claude-x", "max_tokens": 9, "messages": USER}
        told = [await gateway.ask(body, path=path, x_api_key="wrong") for path in (PATH, COUNT)]
        told.append(await gateway.ask({**body, "system": "x" * 3000}, path=PATH, x_api_key="sk-anna"))
        served = await gateway.ask(body, path=PATH, x_api_key="sk-anna", anthropic_version="2023-06-01")
        gateway.gateway.ingress._shedder = LoadShedder(SheddingRule(max_delay_s=-1, overloaded_delay_s=-1))
        told.append(await gateway.ask(body, path=PATH, x_api_key="sk-anna"))
    assert [(status, answer["error"]["type"]) for status, _, answer in told] == [
        (401, "authentication_error"),
        (401, "authentication_error"),
        (413, "request_too_large"),
        (503, "overloaded_error"),
    ]
    assert all(answer["request_id"] == headers["request-id"] for _, headers, answer in told)
    assert served[0] == 200


COUNT = f"{PATH}/count_tokens"


async def test_tokens_are_counted_by_a_target_that_has_a_tokenizer(stack: Stack) -> None:
    async def counts(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"count": 17, "max_model_len": 4096, "tokens": [1] * 17})

    stack.server.answer = counts
    status, headers, told = await stack.ask(path=COUNT, tools=[WEATHER], system="Be brief.")
    assert (status, told) == (200, {"input_tokens": 17})
    assert (headers["x-twolane-token-count"], headers["x-twolane-target"]) == ("exact", "quality")
    assert stack.server.paths == ["/tokenize"]
    (sent,) = stack.server.bodies
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, *USER]
    assert sent["tools"][0]["function"]["name"] == "get_weather"


async def test_tokens_are_estimated_where_the_tokenizer_fails(stack: Stack) -> None:
    """The header says so; the estimate counts texts, calls and tools."""

    async def fails(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"detail": "Not Found"}, status=404)

    stack.server.answer = fails
    counted = []
    for more in ({}, {"system": "x" * 400}, {"tools": [WEATHER]}):
        status, headers, told = await stack.ask(path=COUNT, **more)
        assert (status, headers["x-twolane-token-count"]) == (200, "estimate")
        counted.append(told["input_tokens"])
    short, long, tooled = counted
    assert len(USER[0]["content"]) / 4 <= short < 20
    assert short + 100 <= long <= short + 110
    assert tooled > short + 20


async def test_a_count_of_an_unknown_model_or_an_invalid_request_is_refused(stack: Stack) -> None:
    status, headers, told = await stack.ask(path=COUNT, model="unknown")
    assert (status, told["error"]["type"], told["request_id"]) == (404, "not_found_error", headers["request-id"])
    status, _, told = await stack.ask(path=COUNT, messages=[])
    assert (status, told["error"]["type"]) == (400, "invalid_request_error")
    assert stack.server.paths == []


async def test_an_image_that_no_target_takes_is_refused_by_name(serving: Any) -> None:
    limited = POLICY.replace("engine: vllm", "capabilities: [chat, stream]")
    async with fake_server() as server, serving(limited % server.url) as gateway:
        messages = [{"role": "user", "content": [IMAGE]}]
        body = {"model": "claude-x", "max_tokens": 9, "messages": messages}
        status, _, told = await gateway.ask(body, path=PATH)
        counted = await gateway.ask(body, path=COUNT)
    assert (status, told["error"]["type"]) == (400, "invalid_request_error")
    assert "images" in told["error"]["message"]
    assert server.bodies == []
    assert (counted[0], counted[1]["x-twolane-token-count"]) == (200, "estimate")
    assert counted[2]["input_tokens"] > 1000
