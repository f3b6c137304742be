"""Providers through litellm against local fakes: formats, keys, costs, and failures of every kind."""

import asyncio
from typing import Any

import orjson
import pytest
from aiohttp import web

from tests.gateway.serving import last_decision
from tests.gateway.upstreams.provider_servers import (
    CLAUDE,
    GEMINI,
    LITELLM_MARKS,
    anthropic_events,
    anthropic_message,
    ask,
    events,
    policy,
    provider_server,
    speaks_anthropic,
    speaks_gemini,
    start_stream,
)

pytestmark = LITELLM_MARKS
PROVIDERS = [(CLAUDE, speaks_anthropic, 12, 5, 0.000111), (GEMINI, speaks_gemini, 7, 3, 0.0000096)]


@pytest.mark.parametrize(("model", "handler", "tokens_in", "tokens_out", "cost"), PROVIDERS)
async def test_a_provider_s_response_has_openai_s_format_and_a_cost(
    serving: Any, model: str, handler: Any, tokens_in: int, tokens_out: int, cost: float
) -> None:
    async with provider_server(handler) as server, serving(policy(server.url, model)) as gateway:
        status, headers, body = await gateway.ask(ask(temperature=0.5))
        decision = await last_decision(gateway, headers)
        page = await gateway.metrics()
    assert (status, headers["x-twolane-attempts"]) == (200, "provider=ok")
    assert (body["object"], body["choices"][0]["message"]["content"]) == ("chat.completion", "hello")
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (tokens_in, tokens_out)
    assert (decision["input_tokens"], decision["output_tokens"]) == (tokens_in, tokens_out)
    assert decision["cost"] == pytest.approx(cost)
    assert f'twolane_cost_dollars_total{{target="provider"}} {decision["cost"]}' in page


@pytest.mark.parametrize("speaking", PROVIDERS)
@pytest.mark.parametrize("include_usage", [False, True])
async def test_a_provider_streams_in_openai_s_format(
    serving: Any, speaking: tuple[str, Any, int, int, float], include_usage: bool
) -> None:
    model, handler, tokens_in, tokens_out, cost = speaking
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    async with provider_server(handler) as server, serving(policy(server.url, model)) as gateway:
        status, headers, body = await gateway.ask(ask(stream=True, **options))
        decision = await last_decision(gateway, headers)
    chunks = events(body)
    assert status == 200
    assert body.endswith(b"data: [DONE]\n\n")
    assert "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]) == "hello"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert any("usage" in chunk for chunk in chunks) is include_usage
    assert (decision["input_tokens"], decision["output_tokens"]) == (tokens_in, tokens_out)
    assert decision["cost"] == pytest.approx(cost)


async def test_the_provider_receives_its_key_and_no_unlisted_parameters(serving: Any) -> None:
    slipped = {"api_base": "http://127.0.0.1:9/", "api_key": "theirs", "mock_response": "fake", "fallbacks": ["x"],
               "custom_llm_provider": "openai", "extra_headers": {"x-evil": "1"}, "num_retries": 5}  # fmt: skip
    hints = {"user": "anna", "store": True, "service_tier": "auto", "verbosity": "low"}
    async with provider_server(speaks_anthropic) as server, serving(policy(server.url)) as gateway:
        for name in slipped:
            status, _, body = await gateway.ask(ask(**{name: slipped[name]}))
            assert (status, body["error"]["code"]) == (400, "unsupported")
            assert name in body["error"]["message"]
        status, _, body = await gateway.ask(ask(metadata={"task": "chat"}, diffusion={"steps": 2}, **hints))
    assert (status, body["choices"][0]["message"]["content"]) == (200, "hello")
    ((path, headers, sent),) = server.requests
    assert (path, headers["x-api-key"]) == ("/v1/messages", "the-key")
    assert "x-evil" not in headers
    assert set(sent) == {"model", "messages", "max_tokens", "service_tier", "metadata"}, "hints that it supports"
    assert sent["metadata"] == {"user_id": "anna"}


async def test_tools_travel_both_ways(serving: Any) -> None:
    async def calls(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        block = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"x": 1}}
        return web.json_response(anthropic_message(body["model"], block, stop="tool_use"))

    parameters = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}
    tool = {"type": "function", "function": {"name": "add", "parameters": parameters}}
    async with provider_server(calls) as server, serving(policy(server.url)) as gateway:
        status, headers, body = await gateway.ask(ask(tools=[tool]))
    assert (status, headers["x-twolane-schema"]) == (200, "valid")
    call = body["choices"][0]["message"]["tool_calls"][0]["function"]
    assert (call["name"], orjson.loads(call["arguments"])) == ("add", {"x": 1})
    assert server.requests[0][2]["tools"][0]["input_schema"]["required"] == ["x"]


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (429, (429, "rate_limit_exceeded")),
        (529, (503, "overloaded")),
        (500, (502, "upstream_error")),
        (503, (503, "overloaded")),
        (401, (502, "upstream_auth")),
        (404, (502, "upstream_error")),
        (400, (400, "refused")),
        (413, (413, "refused")),
    ],
)
async def test_rejections_keep_their_status_after_one_call(serving: Any, status: int, told: tuple[int, str]) -> None:
    async def refuses(*_: Any) -> web.StreamResponse:
        error = {"type": "error", "error": {"type": "some_error", "message": "told by the provider"}}
        return web.json_response(error, status=status, headers={"retry-after": "7"})

    async with provider_server(refuses) as server, serving(policy(server.url)) as gateway:
        got, headers, body = await gateway.ask(ask())
    assert (got, body["error"]["code"]) == told
    assert ("told by the provider" in body["error"]["message"]) == (told[1] == "refused")
    assert len(server.requests) == 1
    if status == 429:
        assert headers["retry-after"] == "7"


async def test_a_provider_that_disconnects_or_is_down_is_replaced(serving: Any, fake: Any) -> None:
    async def hangs_up(request: web.Request, _: Any) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with provider_server(hangs_up) as server, fake() as other:
        async with serving(policy(server.url, fallback=other.url)) as gateway:
            _, headers, _ = await gateway.ask(ask())
        async with serving(policy("http://127.0.0.1:9", fallback=other.url)) as gateway:
            _, absent, _ = await gateway.ask(ask(stream=True))
    assert headers["x-twolane-attempts"] == absent["x-twolane-attempts"] == "provider=upstream_error,other=ok"
    assert len(server.requests) == 1


async def test_a_stream_cut_short_ends_with_an_error_event(serving: Any) -> None:
    came = asyncio.Event()

    async def breaks(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        stream = await start_stream(request)
        for event in anthropic_events(body["model"], "half")[:3]:
            await stream.write(event)
        await came.wait()  # a reset may overtake bytes written before it
        assert request.transport is not None
        request.transport.abort()
        return stream

    async with provider_server(breaks) as server, serving(policy(server.url)) as gateway:
        async with gateway.client.post(f"{gateway.url}/v1/chat/completions", json=ask(stream=True)) as response:
            body = b""
            while b"half" not in body:
                body += await response.content.readuntil(b"\n\n")
            came.set()
            body += await response.read()
        decision = await last_decision(gateway, response.headers)
    assert response.status == 200
    assert b"event: error\ndata: " in body
    assert b"[DONE]" not in body
    assert (decision["outcome"], decision["attempts"][0]["outcome"]) == ("error", "upstream_error")


async def test_a_deadline_closes_the_connection_to_the_provider(serving: Any, fake: Any) -> None:
    async def waits(*_: Any) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    async with provider_server(waits) as server, serving(policy(server.url)) as gateway:
        deadline_ms = 300
        while not server.requests:  # on a busy machine the deadline may pass before the call
            status, _, body = await gateway.ask(ask(), x_twolane_deadline_ms=str(deadline_ms))
            assert (status, body["error"]["code"]) == (504, "deadline_exceeded")
            deadline_ms *= 4
        async with asyncio.timeout(120):
            while not server.lost:  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(0.01)


async def test_a_client_disconnect_closes_the_connection_to_the_provider(serving: Any) -> None:
    async def goes_on(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        stream = await start_stream(request)
        for event in anthropic_events(body["model"], "first")[:3]:
            await stream.write(event)
        await asyncio.sleep(30)
        return stream

    async with provider_server(goes_on) as server, serving(policy(server.url)) as gateway:
        url = f"{gateway.url}/v1/chat/completions"
        async with gateway.client.post(url, json=ask(stream=True)) as response:
            assert b"first" in await response.content.readuntil(b"\n\n")
        async with asyncio.timeout(120):
            while not server.lost:  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(0.01)
        page = await gateway.metrics()
    assert 'twolane_in_flight{target="provider"} 0.0' in page
