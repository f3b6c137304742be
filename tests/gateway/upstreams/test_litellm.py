"""Providers through litellm, against local servers that speak as they do: words, keys, costs."""

from typing import Any

import orjson
import pytest
from aiohttp import web

from tests.gateway.serving import last_decision
from tests.gateway.upstreams.provider_servers import (
    CLAUDE,
    GEMINI,
    anthropic_message,
    ask,
    events,
    needs_litellm,
    policy,
    provider_server,
    speaks_anthropic,
    speaks_gemini,
)

pytestmark = [
    needs_litellm,
    pytest.mark.anyio,
    pytest.mark.slow,
    # litellm's own habits, seen when its event loop ends; none of them is ours to mend.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
TONGUES = [(CLAUDE, speaks_anthropic, 12, 5, 0.000111), (GEMINI, speaks_gemini, 7, 3, 0.0000096)]


@pytest.mark.parametrize(("model", "tongue", "tokens_in", "tokens_out", "cost"), TONGUES)
async def test_a_provider_answers_in_openais_words_and_its_cost_is_told(
    serving: Any, model: str, tongue: Any, tokens_in: int, tokens_out: int, cost: float
) -> None:
    async with provider_server(tongue) as server, serving(policy(server.url, model)) as gateway:
        status, headers, body = await gateway.ask(ask(temperature=0.5))
        decision = await last_decision(gateway, headers)
        page = await gateway.metrics()
    assert (status, headers["x-twolane-attempts"]) == (200, "provider=ok")
    assert (body["object"], body["choices"][0]["message"]["content"]) == ("chat.completion", "hello")
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (tokens_in, tokens_out)
    assert (decision["input_tokens"], decision["output_tokens"]) == (tokens_in, tokens_out)
    assert decision["cost"] == pytest.approx(cost)
    assert f'twolane_cost_dollars_total{{target="provider"}} {decision["cost"]}' in page


@pytest.mark.parametrize("speaking", TONGUES)
@pytest.mark.parametrize("include_usage", [False, True])
async def test_a_provider_streams_in_openais_words(
    serving: Any, speaking: tuple[str, Any, int, int, float], include_usage: bool
) -> None:
    model, tongue, tokens_in, tokens_out, cost = speaking
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    async with provider_server(tongue) as server, serving(policy(server.url, model)) as gateway:
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


async def test_the_provider_gets_its_key_and_nothing_a_request_slipped_in(serving: Any) -> None:
    slipped = {"api_base": "http://127.0.0.1:9/", "api_key": "theirs", "mock_response": "fake", "fallbacks": ["x"],
               "custom_llm_provider": "openai", "extra_headers": {"x-evil": "1"}, "num_retries": 5}  # fmt: skip
    async with provider_server(speaks_anthropic) as server, serving(policy(server.url)) as gateway:
        status, _, body = await gateway.ask(ask(metadata={"task": "chat"}, diffusion={"steps": 2}, **slipped))
    assert (status, body["choices"][0]["message"]["content"]) == (200, "hello")
    ((path, headers, sent),) = server.requests
    assert (path, headers["x-api-key"]) == ("/v1/messages", "the-key")
    assert "x-evil" not in headers
    assert set(sent) == {"model", "messages", "max_tokens"}


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
