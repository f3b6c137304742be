"""Anthropic's own client for Python, as released, before a server that has only chat completions."""

import asyncio
from typing import Any

import orjson
import pytest
from aiohttp import web

from tests.clients.environments import command
from tests.clients.test_openai_clients import answers_of
from tests.gateway.serving import completion, fake_server, real_gateway, start_stream

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(900)]
POLICY = """
version: 1
aliases: ["claude-*"]
targets: {big: {kind: openai, engine: vllm, url: "%s", model: m, location: external}}
routes: [{name: default, use: big}]
"""
CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
TOOL = {"name": "get_weather", "input_schema": {"type": "object", "required": ["city"]}}


async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """A call if the user asks for the weather, its result if there is one, else a text or an object."""
    if request.path == "/tokenize":
        return web.json_response({"count": 21})
    last = body["messages"][-1]
    message: dict[str, Any] = {"content": f"I see {last['content']}."}
    if last["content"] == "weather?":
        message = {"content": "Wait.", "tool_calls": [CALL]}
    elif "response_format" in body:
        message = {"content": '{"name": "Rome"}'}
    elif last["content"] == "think!":
        message = {"content": "Yes.", "reasoning_content": "Hm."}
    reason = "tool_calls" if "tool_calls" in message else "stop"
    if not body.get("stream"):
        whole = completion("")
        whole["choices"] = [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}]
        return web.json_response(whole)
    stream = await start_stream(request)
    deltas = [{name: message[name]} for name in ("reasoning_content", "content", "tool_calls") if name in message]
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    chunks.append({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    await stream.write(b"".join(b"data: " + orjson.dumps(each) + b"\n\n" for each in chunks) + b"data: [DONE]\n\n")
    return stream


def case(how: str, text: str = "hi", **fields: Any) -> dict[str, Any]:
    asked = {"model": "claude-x", "messages": [{"role": "user", "content": text}], **fields}
    return {"how": how, "fields": asked if how == "count" else {"max_tokens": 99, **asked}}


async def test_the_client_reads_every_kind_of_answer(tmp_path: Any) -> None:
    line = await asyncio.to_thread(command, "anthropic_python")
    cases = [
        *(case(how, text, tools=[TOOL]) for how in ("create", "stream") for text in ("hi", "think!", "weather?")),
        case("parse"),
        case("run", "weather?"),
        case("count", tools=[TOOL]),
        {"how": "models", "fields": {}},
        case("create", model="unknown"),
        case("stream", model="unknown"),
        case("create", max_tokens=0),
    ]
    async with fake_server(answer) as upstream, real_gateway(tmp_path, POLICY % upstream.url) as gateway:
        seen = await answers_of(line, gateway.url, cases)
    ids = [each.pop("id") for each in seen if "id" in each]
    assert all(each.startswith("req_") for each in ids)
    assert len(ids) == 9
    text = [{"type": "text", "text": "I see hi."}]
    call = [{"type": "text", "text": "Wait."}, {"type": "tool_use", "id": "c", "name": "get_weather"}]
    for whole_or_stream in (seen[:3], seen[3:6]):
        assert [each["usage"] for each in whole_or_stream] == [[3, 2]] * 3
        assert [each["stop_reason"] for each in whole_or_stream] == ["end_turn", "end_turn", "tool_use"]
        told, thought, called = (each["content"] for each in whole_or_stream)
        assert told == text
        assert [block["type"] for block in thought] == ["thinking", "text"]
        assert thought[0]["thinking"] == "Hm."
        assert called[1].pop("input") == {"city": "Rome"}
        assert called == call
    assert seen[6:9] == [{"name": "Rome"}, {"text": "I see sun in Rome."}, {"tokens": 21}]
    assert seen[9] == {"models": [[name, name] for name in ("auto", "claude-*", "big")]}
    assert seen[10:] == [
        {"error": "NotFoundError", "type": "not_found_error"},
        {"error": "NotFoundError", "type": "not_found_error"},
        {"error": "BadRequestError", "type": "invalid_request_error"},
    ]
