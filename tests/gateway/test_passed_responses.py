"""Requests for responses are passed through to targets with OpenAI's responses API, and their answers are checked."""

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import orjson
import pytest
from aiohttp import web

from tests.gateway.serving import RealGateway, completion, fake_server, last_decision, start_stream
from tests.gateway.test_responses import STEP_SCHEMA, WEATHER, Step

pytestmark = pytest.mark.anyio

PATH = "/v1/responses"
USAGE = {
    "input_tokens": 7,
    "input_tokens_details": {"cached_tokens": 3},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 12,
}
SEARCH = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "abc"}
CITED = {"type": "url_citation", "start_index": 0, "end_index": 4, "url": "http://a.example", "title": "A"}


def message(text: str, **part: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": [], **part}]
    return {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": content}


def called(name: str, arguments: str) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "call_1",
        "name": name,
        "arguments": arguments,
        "status": "completed",
    }


class Provider:
    """A target with both APIs. It answers responses with `output`, and chats with `said`."""

    def __init__(self) -> None:
        self.output: list[dict[str, Any]] = [message("Hello.")]
        self.changes: dict[str, Any] = {}  # of the response object at the end
        self.said = '{"title": "Boil", "minutes": 3}'

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if not request.path.endswith("/responses"):
            return web.json_response(completion(self.said))
        whole = {**self.head(body), "status": "completed", "output": self.output, "usage": USAGE, **self.changes}
        if not body.get("stream"):
            return web.json_response(whole)
        stream = await start_stream(request)
        events = [("response.created", {"response": self.head(body)}), *self.events(), (self.last, {"response": whole})]
        for number, (kind, fields) in enumerate(events):
            data = orjson.dumps({"type": kind, "sequence_number": number, **fields})
            await stream.write(b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n")
        return stream

    @property
    def last(self) -> str:
        return f"response.{self.changes.get('status', 'completed')}"

    def head(self, body: dict[str, Any]) -> dict[str, Any]:
        given = {name: body.get(name) for name in ("tools", "tool_choice", "instructions")}
        return {
            "id": "resp_theirs",
            "object": "response",
            "created_at": 1,
            "status": "in_progress",
            "model": body["model"],
            "output": [],
            "usage": None,
            "store": body["store"],
            "parallel_tool_calls": True,
            "error": None,
            **given,
            "tools": given["tools"] or [],
            "tool_choice": given["tool_choice"] or "auto",
        }

    def events(self) -> Any:
        for index, item in enumerate(self.output):
            place = {"output_index": index, "item_id": item["id"]}
            begun = {**item, "status": "in_progress", **{name: "" for name in ("arguments",) if name in item}}
            yield "response.output_item.added", {"output_index": index, "item": {**begun, "content": []}}
            for number, part in enumerate(item.get("content", ())):
                at = {**place, "content_index": number}
                yield "response.content_part.added", {**at, "part": {**part, "text": ""}}
                for character in part["text"]:
                    yield "response.output_text.delta", {**at, "delta": character, "logprobs": []}
                yield "response.output_text.done", {**at, "text": part["text"], "logprobs": []}
                yield "response.content_part.done", {**at, "part": part}
            for character in item.get("arguments", ""):
                yield "response.function_call_arguments.delta", {**place, "delta": character}
            if "arguments" in item:
                done = {"arguments": item["arguments"], "name": item["name"]}
                yield "response.function_call_arguments.done", {**place, **done}
            yield "response.output_item.done", {"output_index": index, "item": item}


def policy(url: str, plain_url: str = "", **more: Any) -> str:
    """The provider with responses first, and one with chats only behind it."""
    plain = {"kind": "openai", "engine": "openai", "url": plain_url or url, "model": "plain", "location": "external"}
    target = {**plain, "url": url, "model": "own", "responses": True, **more.pop("target", {})}
    route = {"name": "default", "use": "own", "fall_back": ["plain"], **more}
    return json.dumps({"version": 1, "targets": {"own": target, "plain": plain}, "routes": [route]})


class Stack:
    def __init__(self, gateway: RealGateway, target: Any, provider: Provider) -> None:
        self.gateway, self.target, self.provider = gateway, target, provider
        self.client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="k", max_retries=0, timeout=60)

    async def events(self, **body: Any) -> list[dict[str, Any]]:
        status, _, raw = await self.gateway.ask({"model": "auto", "stream": True, **body}, path=PATH)
        assert status == 200, raw
        lines = [event.split(b"\n") for event in raw.strip().split(b"\n\n")]
        found = [orjson.loads(data.removeprefix(b"data: ")) for _, data in lines]
        assert [name for name, _ in lines] == [f"event: {event['type']}".encode() for event in found]
        return found


@pytest.fixture
async def stack(serving: Any) -> AsyncIterator[Stack]:
    provider, checks = Provider(), {"validate": {"schema": "request", "buffer": "full"}}
    async with (
        fake_server(provider.answer) as target,
        fake_server(provider.answer) as plain,
        serving(policy(target.url, plain.url, **checks)) as gateway,
    ):
        made = Stack(gateway, target, provider)
        async with made.client:
            yield made


async def test_a_request_reaches_the_target_as_it_was_sent_and_is_not_stored_there(stack: Stack) -> None:
    body = {
        "model": "auto",
        "instructions": "Be brief.",
        "input": [{"role": "user", "content": "News?"}, THOUGHT, SEARCH],
        "tools": [{"type": "web_search"}, WEATHER],
        "tool_choice": {"type": "web_search"},
        "include": ["web_search_call.action.sources", "reasoning.encrypted_content"],
        "truncation": "auto",
        "reasoning": {"effort": "low", "summary": "auto"},
        "prompt_cache_key": "k",
    }
    status, headers, _ = await stack.gateway.ask(body, path=PATH)
    assert (status, headers["x-twolane-attempts"]) == (200, "own=ok")
    assert "x-twolane-ignored" not in headers
    assert stack.target.paths == [PATH]
    assert stack.target.bodies == [{**body, "model": "own", "store": False}]


async def test_a_byte_order_mark_is_not_passed_on(stack: Stack) -> None:
    status, _, _ = await stack.gateway.ask(b'\xef\xbb\xbf{"model": "auto", "input": "Hi"}', path=PATH)
    assert (status, stack.target.bodies) == (200, [{"model": "own", "input": "Hi", "store": False}])


@pytest.mark.slow
async def test_the_items_of_the_answer_are_the_target_s_and_its_id_is_the_gateway_s(stack: Stack) -> None:
    output = [THOUGHT, SEARCH, message("News.", annotations=[CITED])]
    stack.provider.output = output
    status, _, made = await stack.gateway.ask({"model": "auto", "input": "News?"}, path=PATH)
    assert (status, made["output"], made["usage"], made["model"]) == (200, output, USAGE, "own")
    assert made["id"] not in ("resp_theirs", "")
    assert made["store"] is False
    async with stack.client.responses.stream(model="auto", input="News?") as stream:
        streamed = await stream.get_final_response()
    found: Any = streamed.output
    assert [item.id for item in found] == ["rs_1", "ws_1", "msg_1"]
    assert (found[0].encrypted_content, found[2].content[0].annotations[0].title) == ("abc", "A")
    assert streamed.id.startswith("resp_")
    assert streamed.id != "resp_theirs"


async def test_a_stream_has_the_target_s_events_in_their_order(stack: Stack) -> None:
    stack.provider.output = [SEARCH, message("News.")]
    events = await stack.events(input="News?")
    kinds = [kind for kind, _ in stack.provider.events()]
    assert [event["type"] for event in events] == ["response.created", *kinds, "response.completed"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert {event["response"]["id"] for event in events if "response" in event} == {events[0]["response"]["id"]}


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_an_answer_that_breaks_its_schema_falls_back_to_a_chat(stack: Stack, is_streamed: bool) -> None:
    stack.provider.output = [message('{"title": "Boil", "minutes": "three"}')]
    form: Any = {"format": {"type": "json_schema", "name": "step", "schema": STEP_SCHEMA, "strict": True}}
    if is_streamed:
        async with stack.client.responses.stream(model="auto", input="A step.", text_format=Step) as stream:
            made: Any = await stream.get_final_response()
    else:
        made = await stack.client.responses.create(model="auto", input="A step.", text=form)
    assert made.output_text == stack.provider.said
    assert stack.target.paths == [PATH]
    assert stack.target.bodies[0]["text"]["format"]["schema"]["required"] == STEP_SCHEMA["required"]


async def test_a_call_that_breaks_its_schema_is_rejected_too(stack: Stack) -> None:
    stack.provider.output = [called("weather", '{"town": "Rome"}')]
    made = await stack.client.responses.create(model="auto", input="Rome?", tools=[WEATHER])
    assert made.output_text == stack.provider.said
    stack.provider.output = [called("weather", '{"city": "Rome"}')]
    async with stack.client.responses.stream(model="auto", input="Rome?", tools=[WEATHER]) as stream:
        (call,) = (await stream.get_final_response()).output
    assert (call.type, call.arguments) == ("function_call", '{"city": "Rome"}')


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_response_that_fails_before_its_first_text_falls_back(stack: Stack, is_streamed: bool) -> None:
    stack.provider.output = []
    stack.provider.changes = {"status": "failed", "error": {"code": "server_error", "message": "Oops."}}
    body = {"model": "auto", "input": "Hi", "stream": is_streamed}
    status, headers, raw = await stack.gateway.ask(body, path=PATH)
    assert (status, headers["x-twolane-attempts"]) == (200, "own=upstream_error,plain=ok")
    assert "Boil" in str(raw)


async def test_the_end_of_a_stream_is_sent_only_after_its_check(serving: Any) -> None:
    provider = Provider()
    provider.output = [message('{"title": 5}')]
    unbuffered = {"validate": {"schema": "request", "buffer": "none"}}
    async with fake_server(provider.answer) as target, serving(policy(target.url, **unbuffered)) as gateway:
        form = {"format": {"type": "json_schema", "name": "step", "schema": STEP_SCHEMA}}
        events = await Stack(gateway, target, provider).events(input="A step.", text=form)
    kinds = [event["type"] for event in events]
    assert kinds[0] == "response.created"
    assert kinds[-2:] == ["response.failed", "error"]
    assert "response.completed" not in kinds
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-2]["response"]["status"] == "failed"


@pytest.mark.parametrize(
    "more", [{"stop": ["x"]}, {"seed": 5}, {"text": {"format": {"type": "regex", "pattern": "a"}}}]
)
async def test_what_only_a_chat_can_ask_for_is_sent_as_a_chat(serving: Any, more: dict[str, Any]) -> None:
    provider = Provider()
    provider.said = "a"
    listed = "chat stream stop seed regex json_schema tools".split()
    target_keys = {"engine": None, "capabilities": listed}
    async with fake_server(provider.answer) as target:
        given = json.loads(policy(target.url, target=target_keys))
        del given["targets"]["own"]["engine"]
        async with serving(json.dumps(given)) as gateway:
            status, headers, _ = await gateway.ask({"model": "auto", "input": "Hi", **more}, path=PATH)
    assert (status, headers["x-twolane-attempts"], target.paths) == (200, "own=ok", ["/v1/chat/completions"])


async def test_reasoning_that_the_target_cannot_know_is_left_out(stack: Stack) -> None:
    unknown = {"type": "reasoning", "id": "rs_" + "0" * 24 + "_0", "summary": [], "content": [{"type": "x"}]}
    bare = {"type": "reasoning", "id": "rs_9", "summary": []}
    reference = {"type": "item_reference", "id": "rs_9"}
    asked = {"role": "user", "content": "Hi"}
    body = {"model": "auto", "input": [unknown, bare, THOUGHT, reference, asked]}
    assert (await stack.gateway.ask(body, path=PATH))[0] == 200
    assert stack.target.bodies[0]["input"] == [THOUGHT, asked]


async def test_a_hosted_tool_that_the_policy_ignores_is_not_passed(serving: Any) -> None:
    provider = Provider()
    ignoring = policy("%s", target={"ignore": ["web_search", "reasoning_effort"]})
    async with fake_server(provider.answer) as target, serving(ignoring.replace("%s", target.url)) as gateway:
        body = {
            "model": "auto",
            "input": [SEARCH, {"role": "user", "content": "News?"}],
            "tools": [{"type": "web_search"}, WEATHER],
            "tool_choice": {"type": "web_search"},
            "reasoning": {"effort": "high", "summary": "auto"},
        }
        status, headers, _ = await gateway.ask(body, path=PATH)
    assert (status, headers["x-twolane-ignored"]) == (200, "reasoning_effort,web_search")
    (sent,) = target.bodies
    assert (sent["tools"], len(sent["input"]), sent["reasoning"]) == ([WEATHER], 1, {"summary": "auto"})
    assert "tool_choice" not in sent


async def test_a_chat_goes_to_the_same_target_as_a_chat(stack: Stack) -> None:
    assert (await stack.gateway.ask())[0] == 200
    assert stack.target.paths == ["/v1/chat/completions"]


async def test_the_usage_that_a_target_reports_is_counted(stack: Stack) -> None:
    _, headers, _ = await stack.gateway.ask({"model": "auto", "input": "Hi"}, path=PATH)
    found = await last_decision(stack.gateway, headers)
    assert (found["input_tokens"], found["output_tokens"]) == (7, 5)
