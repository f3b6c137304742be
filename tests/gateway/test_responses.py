"""OpenAI's own client uses the responses API of a real gateway, whose target has only chat completions."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import orjson
import pytest
from aiohttp import web
from pydantic import BaseModel

from tests.gateway.serving import RealGateway, fake_server, one_lane, start_stream

pytestmark = pytest.mark.anyio

PATH = "/v1/responses"
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


class Step(BaseModel):
    title: str
    minutes: int


STEP_SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "minutes": {"type": "integer"}},
    "required": ["title", "minutes"],
    "additionalProperties": False,
}


def call(name: str, arguments: str, call_id: str = "call_1") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


class Model:
    """A server with chat completions only, which says its `messages` in turn, whole or in pieces."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.finish_reason = "stop"

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        message = {"role": "assistant", "content": None, **self.messages.pop(0)}
        reason = "tool_calls" if message.get("tool_calls") else self.finish_reason
        head = {"id": "chatcmpl-1", "created": 1, "model": "m"}
        if not body.get("stream"):
            choices = [{"index": 0, "message": message, "finish_reason": reason}]
            return web.json_response({**head, "object": "chat.completion", "choices": choices, "usage": USAGE})
        stream = await start_stream(request)
        for delta in deltas(message):
            chunk = {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
            await stream.write(b"data: " + orjson.dumps(chunk) + b"\n\n")
        ends = [{"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}, {"choices": [], "usage": USAGE}]
        await stream.write(b"".join(b"data: " + orjson.dumps({**head, **end}) + b"\n\n" for end in ends))
        await stream.write(b"data: [DONE]\n\n")
        return stream


def deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": ""}
    for name in ("reasoning_content", "content", "refusal"):
        text = message.get(name) or ""
        yield from ({name: text[at : at + 5]} for at in range(0, len(text), 5))
    for index, each in enumerate(message.get("tool_calls", ())):
        function = each["function"]
        yield {"tool_calls": [{**each, "index": index, "function": {"name": function["name"], "arguments": ""}}]}
        for character in function["arguments"]:
            yield {"tool_calls": [{"index": index, "function": {"arguments": character}}]}


class Stack:
    def __init__(self, gateway: RealGateway, target: Any, model: Model) -> None:
        self.gateway, self.target, self.model = gateway, target, model
        self.client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="k", max_retries=0, timeout=60)

    def says(self, *messages: dict[str, Any], finish_reason: str = "stop") -> None:
        self.model.messages, self.model.finish_reason = list(messages), finish_reason

    async def events(self, **body: Any) -> list[tuple[str, dict[str, Any]]]:
        status, _, raw = await self.gateway.ask({"model": "auto", "stream": True, **body}, path=PATH)
        assert status == 200, raw
        named = [event.split(b"\n") for event in raw.strip().split(b"\n\n")]
        return [
            (name.removeprefix(b"event: ").decode(), orjson.loads(data.removeprefix(b"data: "))) for name, data in named
        ]


@pytest.fixture
async def stack(serving: Any) -> AsyncIterator[Stack]:
    model = Model()
    async with fake_server(model.answer) as target, serving(one_lane(target.url)) as gateway:
        made = Stack(gateway, target, model)
        async with made.client:
            yield made


async def test_a_response_has_the_text_the_usage_and_what_the_request_asked_for(stack: Stack) -> None:
    stack.says({"content": "Four."})
    made = await stack.client.responses.create(
        model="auto",
        instructions="Be brief.",
        input="2 + 2?",
        max_output_tokens=20,
        temperature=0.5,
        top_p=0.9,
        metadata={"team": "a"},
        user="u",
        prompt_cache_key="k",
        truncation="disabled",
        include=["reasoning.encrypted_content"],
    )
    assert (made.output_text, made.status, made.model, made.error) == ("Four.", "completed", "m", None)
    assert (made.instructions, made.max_output_tokens, made.metadata) == ("Be brief.", 20, {"team": "a"})
    assert made.usage is not None
    assert (made.usage.input_tokens, made.usage.output_tokens, made.usage.total_tokens) == (7, 5, 12)
    assert made.usage.input_tokens_details.cached_tokens == 3
    assert made.usage.output_tokens_details.reasoning_tokens == 2
    (sent,) = stack.target.bodies
    assert sent == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}],
        "max_completion_tokens": 20,
        "temperature": 0.5,
        "top_p": 0.9,
        "user": "u",
        "prompt_cache_key": "k",
        "store": False,
    }


async def test_a_structured_response_is_parsed_into_a_model_and_checked(stack: Stack) -> None:
    stack.says({"content": '{"title": "Boil", "minutes": 3}'})
    made = await stack.client.responses.parse(model="auto", input="One step.", text_format=Step)
    assert made.output_parsed == Step(title="Boil", minutes=3)
    (sent,) = stack.target.bodies
    assert sent["response_format"]["type"] == "json_schema"
    assert sent["response_format"]["json_schema"]["schema"]["required"] == ["title", "minutes"]

    stack.says({"content": '{"title": "Boil", "minutes": "three"}'})
    with pytest.raises(openai.InternalServerError) as caught:
        await stack.client.responses.parse(model="auto", input="One step.", text_format=Step)
    assert caught.value.code == "invalid_output"


async def test_a_stream_accumulates_to_the_same_response(stack: Stack) -> None:
    stack.says({"reasoning_content": "Think of steps.", "content": '{"title": "Boil", "minutes": 3}'})
    async with stack.client.responses.stream(model="auto", input="One step.", text_format=Step) as stream:
        events = [event async for event in stream]
        made = await stream.get_final_response()
    assert made.output_parsed == Step(title="Boil", minutes=3)
    assert [item.type for item in made.output] == ["reasoning", "message"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    texts = [event.snapshot for event in events if event.type == "response.output_text.delta"]
    assert texts[-1] == '{"title": "Boil", "minutes": 3}'
    assert made.usage is not None
    assert made.usage.total_tokens == 12


async def test_the_events_of_a_stream_come_in_openai_s_order(stack: Stack) -> None:
    stack.says({"content": "Hello you"})
    events = await stack.events(input="Hi")
    assert [name for name, _ in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert all(name == event["type"] for name, event in events)
    assert [event["sequence_number"] for _, event in events] == list(range(10))
    first, last = events[0][1]["response"], events[-1][1]["response"]
    assert (first["status"], first["output"], first["usage"]) == ("in_progress", [], None)
    assert first["id"] == last["id"]
    assert {(event["item_id"], event["output_index"], event["content_index"]) for _, event in events[3:8]} == {
        (last["output"][0]["id"], 0, 0)
    }


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_loop_of_two_tool_steps_works_with_the_items_sent_back(stack: Stack, is_streamed: bool) -> None:
    stack.says(
        {"content": "Let me see.", "tool_calls": [call("weather", '{"city": "Rome"}', "a")]},
        {"reasoning_content": "And Oslo", "tool_calls": [call("weather", '{"city": "Oslo"}', "b")]},
        {"content": "Rome is warmer."},
    )
    items: list[Any] = [{"role": "user", "content": "Rome or Oslo?"}]
    common: Any = {"model": "auto", "tools": [WEATHER], "parallel_tool_calls": False}
    for _ in range(3):
        if is_streamed:
            async with stack.client.responses.stream(input=items, **common) as stream:
                made: Any = await stream.get_final_response()
        else:
            made = await stack.client.responses.create(input=items, **common)
        items += [item.model_dump(exclude_none=True) for item in made.output]
        calls = [item for item in made.output if item.type == "function_call"]
        for each in calls:
            city = json.loads(each.arguments)["city"]
            items.append({"type": "function_call_output", "call_id": each.call_id, "output": f"{len(city)} degrees"})
    assert made.output_text == "Rome is warmer."
    last = stack.target.bodies[-1]
    assert [message["role"] for message in last["messages"]] == ["user", "assistant", "tool", "assistant", "tool"]
    assert last["messages"][1]["content"] == "Let me see."
    assert [each["id"] for message in last["messages"] for each in message.get("tool_calls", ())] == ["a", "b"]
    assert last["tools"] == [{"type": "function", "function": {n: WEATHER[n] for n in WEATHER if n != "type"}}]
    assert last["parallel_tool_calls"] is False


async def test_references_to_reasoning_are_left_out_as_reasoning_is(stack: Stack) -> None:
    """The AI SDK repeats calls, and refers to reasoning by its id unless `store` is false."""
    stack.says({"reasoning_content": "Hm.", "tool_calls": [call("weather", '{"city": "Rome"}')]}, {"content": "Warm."})
    common: Any = {"model": "auto", "tools": [WEATHER]}
    thought, called = (await stack.client.responses.create(input="Rome?", **common)).output
    items: Any = [
        {"role": "user", "content": "Rome?"},
        {"type": "item_reference", "id": thought.id},
        called.model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": "call_1", "output": "20"},
    ]
    made = await stack.client.responses.create(input=items, **common)
    assert made.output_text == "Warm."
    assert [each["role"] for each in stack.target.bodies[-1]["messages"]] == ["user", "assistant", "tool"]


async def test_calls_of_a_stream_are_parsed_with_their_arguments(stack: Stack) -> None:
    stack.says({"tool_calls": [call("weather", '{"city": "Rome"}', "a"), call("weather", '{"city": "Oslo"}', "b")]})
    async with stack.client.responses.stream(model="auto", input="Both?", tools=[WEATHER]) as stream:
        events = [event async for event in stream]
        made = await stream.get_final_response()
    found: Any = made.output
    assert [(each.call_id, each.arguments) for each in found] == [
        ("a", '{"city": "Rome"}'),
        ("b", '{"city": "Oslo"}'),
    ]
    done: Any = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [event.output_index for event in done] == [0, 1]


async def test_a_refusal_is_a_part_of_the_message(stack: Stack) -> None:
    refused = {"refusal": "I will not."}
    stack.says(refused)
    whole = await stack.client.responses.create(model="auto", input="Do it.")
    stack.says(refused)
    async with stack.client.responses.stream(model="auto", input="Do it.") as stream:
        streamed = await stream.get_final_response()
    for made in (whole, streamed):
        message: Any = made.output[0]
        assert [(part.type, part.refusal) for part in message.content] == [("refusal", "I will not.")]


async def test_an_answer_cut_by_the_token_limit_is_incomplete(stack: Stack) -> None:
    stack.says({"content": "Once upon"}, {"content": "Once upon"}, finish_reason="length")
    whole = await stack.client.responses.create(model="auto", input="Tell.", max_output_tokens=2)
    assert whole.incomplete_details is not None
    assert (whole.status, whole.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    name, last = (await stack.events(input="Tell.", max_output_tokens=2))[-1]
    assert (name, last["response"]["incomplete_details"]) == ("response.incomplete", {"reason": "max_output_tokens"})
    assert last["response"]["output"][0]["status"] == "incomplete"


async def test_nothing_is_stored_and_the_response_says_so(stack: Stack) -> None:
    stack.says({"content": "a"}, {"content": "b"})
    raw = await stack.client.responses.with_raw_response.create(model="auto", input="Hi", store=True)
    assert raw.headers["x-twolane-ignored"] == "store"
    assert (raw.parse().model_extra or {})["store"] is False
    raw = await stack.client.responses.with_raw_response.create(model="auto", input="Hi")
    assert "x-twolane-ignored" not in raw.headers
    assert all(body["store"] is False for body in stack.target.bodies)


@pytest.mark.parametrize(
    ("body", "param", "cure"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "input"),
        ({"conversation": "conv_1"}, "conversation", "input"),
        ({"background": True}, "background", "stream"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type", "input"),
        ({"messages": []}, "messages", "input"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "web_search"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "json_schema"),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": 5}}}}, "text.format.schema", ""),
        ({"tools": [{"type": "mcp"}, {**WEATHER, "parameters": {"type": 5}}]}, "tools[1].parameters", "JSON Schema"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort", ""),
        ({"top_k": -7}, "top_k", ""),
    ],
)
async def test_what_cannot_be_served_is_refused_by_name(
    stack: Stack, body: dict[str, Any], param: str, cure: str
) -> None:
    status, _, refused = await stack.gateway.ask({"model": "auto", "input": "Hi", **body}, path=PATH)
    assert (status, refused["error"]["param"]) == (400, param)
    assert cure in refused["error"]["message"]
    assert stack.target.bodies == []


@pytest.mark.parametrize(
    ("body", "param"),
    [({"top_logprobs": 2}, "top_logprobs"), ({"include": ["message.output_text.logprobs"]}, "include")],
)
async def test_the_error_names_the_field_by_which_the_client_asked_for_logprobs(
    serving: Any, body: dict[str, Any], param: str
) -> None:
    policy = json.loads(one_lane("http://127.0.0.1:9"))
    policy["targets"]["only"]["engine"] = "sglang_diffusion"
    async with serving(json.dumps(policy)) as gateway:
        status, _, refused = await gateway.ask({"model": "auto", "input": "Hi", **body}, path=PATH)
    assert (status, refused["error"]["param"]) == (400, param)


async def test_a_hosted_tool_is_left_out_where_the_policy_ignores_it(serving: Any) -> None:
    model = Model()
    async with fake_server(model.answer) as target:
        policy = json.loads(one_lane(target.url))
        policy["targets"]["only"]["ignore"] = ["web_search"]
        async with serving(json.dumps(policy)) as gateway:
            model.messages = [{"content": "From memory."}]
            search = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}}
            body = {
                "model": "auto",
                "input": [search, {"role": "user", "content": "News?"}],
                "tools": [{"type": "web_search"}, WEATHER],
                "tool_choice": {"type": "web_search"},
            }
            status, headers, made = await gateway.ask(body, path=PATH)
    assert (status, headers["x-twolane-ignored"]) == (200, "web_search")
    assert made["output"][0]["content"][0]["text"] == "From memory."
    (sent,) = target.bodies
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["weather"]
    assert [message["role"] for message in sent["messages"]] == ["user"]
    assert "tool_choice" not in sent


async def test_an_answer_found_invalid_after_its_first_byte_ends_the_stream_with_an_error(serving: Any) -> None:
    model = Model()
    async with (
        fake_server(model.answer) as target,
        serving(one_lane(target.url, validate={"schema": "request", "buffer": "none"})) as gateway,
    ):
        stack = Stack(gateway, target, model)
        stack.says({"content": '{"title": "Boil", "minutes": "three"}'})
        form = {"type": "json_schema", "name": "step", "schema": STEP_SCHEMA}
        events = await stack.events(input="One step.", text={"format": form})
    names = [name for name, _ in events]
    assert names[:2] == ["response.created", "response.in_progress"]
    assert names[-2:] == ["response.failed", "error"]
    assert "response.completed" not in names
    failed, error = events[-2][1]["response"], events[-1][1]
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    assert (error["code"], error["error"]["code"]) == ("invalid_output", "invalid_output")


async def test_openai_s_client_raises_for_a_stream_that_fails(serving: Any) -> None:
    model = Model()
    async with (
        fake_server(model.answer) as target,
        serving(one_lane(target.url, validate={"schema": "request", "buffer": "none"})) as gateway,
    ):
        stack = Stack(gateway, target, model)
        stack.says({"content": '{"title": 5}'})
        async with stack.client:
            with pytest.raises(openai.APIError, match="title"):
                async with stack.client.responses.stream(model="auto", input="One step.", text_format=Step) as stream:
                    await stream.get_final_response()
