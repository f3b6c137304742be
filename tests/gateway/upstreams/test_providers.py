"""Providers through litellm, against local servers that speak as they do: one call each, and nothing fetched.

The first test to run imports litellm, which takes seconds; so all are slow.
"""

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from aiohttp import web

from gateway.errors import PolicyError
from gateway.policy_files.load import parse
from tests.gateway.upstreams.provider_servers import (
    anthropic_events,
    anthropic_message,
    provider_server,
    speaks_anthropic,
    speaks_gemini,
    start_stream,
)
from twolane.arguments import free_port

pytest.importorskip("litellm", reason="the extra `providers` is not installed; `make providers` installs it")
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    # litellm's own habits, seen when its event loop ends; none of them is ours to mend.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
CLAUDE, GEMINI = "anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-flash"
TONGUES = [(CLAUDE, speaks_anthropic, 12, 5, 0.000111), (GEMINI, speaks_gemini, 7, 3, 0.0000096)]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDER_KEY", "the-key")


def policy(url: str, model: str = CLAUDE, fallback: str = "") -> str:
    provider = {"kind": "litellm", "url": url, "model": model, "engine": "openai", "place": "external"}
    targets: dict[str, Any] = {"provider": {**provider, "key_env": "PROVIDER_KEY"}}
    route: dict[str, Any] = {"name": "default", "use": "provider", "validate": {"schema": "request"}}
    if fallback:
        targets["other"] = {"kind": "openai", "engine": "openai", "url": fallback, "model": "o", "place": "external"}
        route["fall_back"] = ["other"]
    return orjson.dumps({"version": 1, "targets": targets, "routes": [route]}).decode()


def ask(**fields: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50, **fields}


def events(body: bytes) -> list[Any]:
    return [orjson.loads(line[6:]) for line in body.split(b"\n\n") if line.startswith(b"data: {")]


async def last_decision(gateway: Any, headers: dict[str, str]) -> dict[str, Any]:
    """What is told behind an answer comes a moment later."""
    for _ in range(200):
        async with gateway.client.get(f"{gateway.admin_url}/admin/decisions/{headers['x-request-id']}") as response:
            found: dict[str, Any] = await response.json()
        if "outcome" in found:
            return found
        await asyncio.sleep(0.005)
    raise AssertionError(found)


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


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (429, (503, "overloaded")),
        (529, (503, "overloaded")),
        (500, (502, "upstream_error")),
        (503, (503, "overloaded")),
        (401, (502, "upstream_error")),
        (404, (502, "upstream_error")),
        (400, (400, "refused")),
        (413, (413, "refused")),
    ],
)
async def test_refusals_are_told_truthfully_after_one_call(serving: Any, status: int, told: tuple[int, str]) -> None:
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


async def test_a_provider_that_hangs_up_or_is_not_there_is_replaced(serving: Any, fake: Any) -> None:
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
    async def breaks(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        stream = await start_stream(request)
        for event in anthropic_events(body["model"], "half")[:3]:
            await stream.write(event)
        await asyncio.sleep(0.1)  # a reset may overtake what was written before
        assert request.transport is not None
        request.transport.abort()
        return stream

    async with provider_server(breaks) as server, serving(policy(server.url)) as gateway:
        status, headers, body = await gateway.ask(ask(stream=True))
        decision = await last_decision(gateway, headers)
    assert status == 200
    assert b"half" in body
    assert b"event: error\ndata: " in body
    assert b"[DONE]" not in body
    assert (decision["outcome"], decision["attempts"][0]["outcome"]) == ("error", "upstream_error")


async def test_a_deadline_hangs_up_on_the_provider(serving: Any, fake: Any) -> None:
    async def waits(*_: Any) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    async with provider_server(waits) as server, serving(policy(server.url)) as gateway:
        status, _, body = await gateway.ask(ask(), x_twolane_deadline_ms="300")
        assert (status, body["error"]["code"]) == (504, "deadline_exceeded")
        async with asyncio.timeout(5):
            while not server.lost:  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(0.01)


async def test_a_client_that_leaves_in_the_middle_hangs_up_on_the_provider(serving: Any) -> None:
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
        async with asyncio.timeout(5):
            while not server.lost:  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(0.01)
        page = await gateway.metrics()
    assert 'twolane_in_flight{target="provider"} 0.0' in page


async def test_no_request_makes_us_fetch_anything(serving: Any, fake: Any) -> None:
    image = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/secret"}}
    asked = ask(messages=[{"role": "user", "content": [{"type": "text", "text": "what is this?"}, image]}])
    async with provider_server(speaks_gemini) as server, serving(policy(server.url, GEMINI)) as gateway:
        status, headers, _ = await gateway.ask(asked)
    assert (status, headers["x-twolane-attempts"]) == (400, "provider=unsupported")
    assert server.requests == []


def test_a_policy_without_the_extra_is_refused_and_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.policy_files.targets.find_spec", lambda _: None)
    with pytest.raises(PolicyError) as refused:
        parse(policy("http://127.0.0.1:9"), {}, file="p.yaml")
    assert refused.value.key == "targets.provider.kind"
    assert "extra `providers`: pip install --require-hashes" in str(refused.value)


def test_the_door_opens_without_a_network_a_price_list_or_a_dotenv(tmp_path: Any) -> None:
    """In a process of its own: every name that is looked up and every address that is called is written down."""
    (tmp_path / ".env").write_text("SLIPPED_IN=1\n")
    script = textwrap.dedent(
        """
        import asyncio, os, socket
        seen = []
        socket.getaddrinfo = lambda *where, **_: seen.append(where) or (_ for _ in ()).throw(OSError("no network"))
        connect = socket.socket.connect
        socket.socket.connect = lambda self, where: seen.append(where) or connect(self, where)
        from gateway.upstreams.providers import Library

        async def main():
            library = Library()
            litellm = await library.loaded()
            assert litellm.callbacks == [] and litellm.cache is None and litellm.telemetry is False
            assert litellm.model_cost["claude-sonnet-4-5"]["input_cost_per_token"] > 0
            await library.aclose()

        asyncio.run(main())
        assert not seen, seen
        assert "SLIPPED_IN" not in os.environ
        """
    )
    environment = {"PATH": "/usr/bin", "PYTHONPATH": ":".join(filter(None, sys.path)), "HOME": str(tmp_path)}
    outcome = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr


@pytest.fixture(name="quality_url", scope="module")
def start_quality() -> Iterator[str]:
    """The quality server of the demo, real weights and all."""
    port = free_port()
    line = [sys.executable, "-m", "twolane", "quality", "--port", str(port)]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"smollm2 at" in process.stdout.readline()
        yield f"http://127.0.0.1:{port}/v1"
        process.terminate()
        assert process.wait(timeout=10) == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_real_model_behind_litellm_keeps_a_schema(serving: Any, quality_url: str, stream: bool) -> None:
    """Through litellm's door for OpenAI-compatible servers; its price nobody knows."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    async with serving(policy(quality_url, "openai/smollm2")) as gateway:
        status, headers, body = await gateway.ask(ask(stream=stream, response_format=wanted, seed=1))
        decision = await last_decision(gateway, headers)
    assert (status, headers["x-twolane-schema"]) == (200, "valid")
    parts = [choice.get("message") or choice["delta"] for one in _answers(body) for choice in one["choices"]]
    text = "".join(part.get("content") or "" for part in parts)
    assert isinstance(orjson.loads(text)["n"], int)
    assert decision["input_tokens"] > 0
    assert decision["cost"] == 0


def _answers(body: Any) -> list[Any]:
    return [body] if isinstance(body, dict) else events(body)
