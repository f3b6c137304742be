"""Providers through litellm that refuse, break, stall or are left: one call each, and a true reason."""

import asyncio
from typing import Any

import pytest
from aiohttp import web

from tests.gateway.serving import last_decision
from tests.gateway.upstreams.provider_servers import (
    anthropic_events,
    ask,
    needs_litellm,
    policy,
    provider_server,
    start_stream,
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
    came = asyncio.Event()

    async def breaks(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        stream = await start_stream(request)
        for event in anthropic_events(body["model"], "half")[:3]:
            await stream.write(event)
        await came.wait()  # a reset may overtake what was written before
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


async def test_a_deadline_hangs_up_on_the_provider(serving: Any, fake: Any) -> None:
    async def waits(*_: Any) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    async with provider_server(waits) as server, serving(policy(server.url)) as gateway:
        deadline_ms = 300
        while not server.requests:  # on a busy machine the time may be over before anybody is asked
            status, _, body = await gateway.ask(ask(), x_twolane_deadline_ms=str(deadline_ms))
            assert (status, body["error"]["code"]) == (504, "deadline_exceeded")
            deadline_ms *= 4
        async with asyncio.timeout(120):
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
        async with asyncio.timeout(120):
            while not server.lost:  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(0.01)
        page = await gateway.metrics()
    assert 'twolane_in_flight{target="provider"} 0.0' in page
