"""The whole gateway over real sockets: failing targets, client disconnects and timeouts."""

import asyncio
from typing import Any

import orjson
import pytest
from aiohttp import web

from tests.gateway.serving import ask, last_decision, one_lane, two_lanes, until

pytestmark = pytest.mark.anyio
ORDER = {
    "type": "json_schema",
    "json_schema": {"name": "order", "schema": {"type": "object", "required": ["n"]}},
}


async def test_an_interrupted_stream_ends_with_an_error_event_and_without_done(
    fake: Any, serving: Any, wire: Any
) -> None:
    async def answer(request: web.Request, _: Any) -> web.StreamResponse:
        stream = await wire.start_stream(request)
        await stream.write(wire.chunk("half"))
        request.transport.abort()
        return stream

    async with fake(answer) as fast, fake() as quality, serving(two_lanes(fast.url, quality.url)) as gateway:
        status, headers, body = await gateway.ask(ask(stream=True))
        assert status == 200
        first, last = body.split(b"\n\n")[:2]
        assert first + b"\n\n" == wire.chunk("half")
        assert last.startswith(b"event: error\ndata: ")
        assert orjson.loads(last.partition(b"data: ")[2])["error"]["code"] == "upstream_error"
        assert b"[DONE]" not in body
        decision = await last_decision(gateway, headers)
        assert (decision["outcome"], decision["attempts"][0]["outcome"]) == ("error", "upstream_error")
    assert quality.bodies == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_target_that_disconnects_before_its_first_byte_is_replaced(
    fake: Any, serving: Any, stream: bool
) -> None:
    async def answer(request: web.Request, _: Any) -> web.StreamResponse:
        request.transport.abort()
        return web.Response()

    async with fake(answer) as fast, fake() as quality, serving(two_lanes(fast.url, quality.url)) as gateway:
        status, headers, _ = await gateway.ask(ask(stream=stream))
        page = await gateway.metrics()
    assert status == 200
    assert headers["x-twolane-attempts"] == "fast=upstream_error,quality=ok"
    assert headers["x-twolane-fallback"] == "upstream_error"
    assert 'twolane_fallbacks_total{from="fast",reason="upstream_error",route="default",to="quality"} 1.0' in page


async def test_a_refused_connection_is_an_upstream_error(serving: Any, fake: Any) -> None:
    async with fake() as gone:
        pass
    async with serving(one_lane(gone.url)) as gateway:
        status, headers, body = await gateway.ask()
    assert (status, body["error"]["code"]) == (502, "upstream_error")
    assert headers["x-twolane-attempts"] == "only=upstream_error"


async def test_a_buffered_stream_that_is_invalid_sends_no_byte(fake: Any, serving: Any, wire: Any) -> None:
    async def wrong(request: web.Request, _: Any) -> web.StreamResponse:
        stream = await wire.start_stream(request)
        await stream.write(wire.chunk('{"WRONG"') + wire.chunk(": 1}") + b"data: [DONE]\n\n")
        return stream

    async def right(request: web.Request, _: Any) -> web.StreamResponse:
        stream = await wire.start_stream(request)
        await stream.write(wire.chunk('{"n"') + wire.chunk(": 1}") + wire.stop + b"data: [DONE]\n\n")
        return stream

    policy = {"validate": {"schema": "request", "buffer": "full"}}
    async with (
        fake(wrong) as fast,
        fake(right) as quality,
        serving(two_lanes(fast.url, quality.url, **policy)) as gateway,
    ):
        status, headers, body = await gateway.ask(ask(stream=True, response_format=ORDER))
    assert status == 200
    assert headers["x-twolane-attempts"] == "fast=invalid_output,quality=ok"
    assert headers["x-twolane-schema"] == "valid"
    assert body == wire.chunk('{"n"') + wire.chunk(": 1}") + wire.stop + b"data: [DONE]\n\n"


@pytest.mark.parametrize("status", [302, 404, 405, 501])
async def test_a_wrong_url_or_model_of_the_policy_is_not_the_client_s_and_not_worth_a_retry(
    fake: Any, serving: Any, status: int
) -> None:
    async def answer(*_: Any) -> web.StreamResponse:
        return web.json_response({"error": {"message": "no model m", "code": "model_not_found"}}, status=status)

    async with fake(answer) as server, serving(one_lane(server.url)) as gateway:
        got, headers, body = await gateway.ask()
    assert (got, body["error"]["code"], headers["x-should-retry"]) == (502, "upstream_error", "false")


@pytest.mark.parametrize("status", [429, 503, 500, 400, 401])
async def test_rejections_by_a_target_keep_their_meaning(fake: Any, serving: Any, status: int) -> None:
    """Errors of the request are passed on; errors of the gateway's credentials are not."""

    async def answer(*_: Any) -> web.StreamResponse:
        error = {"message": "told by the target", "code": "some_code", "param": "messages", "type": "x"}
        return web.json_response({"error": error}, status=status, headers={"retry-after": "7"})

    async with fake(answer) as server, serving(one_lane(server.url)) as gateway:
        got, headers, body = await gateway.ask()
    expected = {
        429: (429, "rate_limit_exceeded"),
        503: (503, "overloaded"),
        500: (502, "upstream_error"),
        400: (400, "some_code"),
        401: (502, "upstream_auth"),
    }
    assert (got, body["error"]["code"]) == expected[status]
    assert (body["error"]["message"] == "told by the target") == (status == 400)
    assert headers["retry-after"] == "7"


async def test_a_client_disconnect_closes_the_connection_to_the_target(fake: Any, serving: Any) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def answer(*_: Any) -> web.StreamResponse:
        began.set()
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()
        return web.Response()

    async with fake(answer) as server, serving(one_lane(server.url)) as gateway:
        task = asyncio.create_task(gateway.ask())
        await began.wait()
        task.cancel()
        await asyncio.wait_for(ended.wait(), 120)
        page = await until(gateway.metrics, 'outcome="client_gone"')
    assert 'twolane_in_flight{target="only"} 0.0' in page
    assert server.lost == 1


async def test_a_client_disconnect_during_a_stream_closes_the_connection_to_the_target(
    fake: Any, serving: Any, wire: Any
) -> None:
    ended = asyncio.Event()

    async def answer(request: web.Request, _: Any) -> web.StreamResponse:
        stream = await wire.start_stream(request)
        try:
            while True:
                await stream.write(wire.chunk("more"))
                await asyncio.sleep(0.002)
        finally:
            ended.set()

    async with fake(answer) as server, serving(one_lane(server.url)) as gateway:
        url = f"{gateway.url}/v1/chat/completions"
        async with gateway.client.post(url, data=orjson.dumps(ask(stream=True))) as response:
            await response.content.readuntil(b"\n\n")
            response.close()
        await asyncio.wait_for(ended.wait(), 120)
        await until(gateway.metrics, 'outcome="client_gone"')


async def test_a_deadline_header_ends_the_request_in_time(fake: Any, serving: Any) -> None:
    async def answer(*_: Any) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    async with fake(answer) as server, serving(one_lane(server.url)) as gateway:
        status, headers, body = await gateway.ask(x_twolane_deadline_ms="1000")
    assert (status, body["error"]["code"]) == (504, "deadline_exceeded")
    assert headers["x-twolane-attempts"] == "only=deadline"


async def test_a_target_that_stops_in_mid_stream_is_abandoned_after_its_idle_timeout(
    fake: Any, serving: Any, wire: Any
) -> None:
    async def answer(request: web.Request, _: Any) -> web.StreamResponse:
        stream = await wire.start_stream(request)
        await stream.write(wire.chunk("half"))
        await asyncio.sleep(30)
        return stream

    async with fake(answer) as server:
        policy = one_lane(server.url).replace('"kind"', '"idle_s": 0.1, "kind"')
        async with serving(policy) as gateway:
            _, headers, body = await gateway.ask(ask(stream=True))
            decision = await last_decision(gateway, headers)
    assert body.startswith(wire.chunk("half") + b"event: error\n")
    assert decision["attempts"][0]["detail"] == "no chunk within 0.1 s"


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"{}",
        b'{"choices": 3}',
        b'{"error": {"message": "sorry"}}',
        b"\xff\xfe",
        b'{"choices": [{"index": "a"}]}',
    ],
)
async def test_a_target_with_invalid_responses_is_replaced(fake: Any, serving: Any, body: bytes) -> None:
    async def answer(*_: Any) -> web.StreamResponse:
        return web.Response(body=body, content_type="application/json")

    async with fake(answer) as fast, fake() as quality, serving(two_lanes(fast.url, quality.url)) as gateway:
        _, headers, _ = await gateway.ask()
    assert headers["x-twolane-attempts"] == "fast=upstream_error,quality=ok"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_target_with_a_too_large_response_is_replaced(
    fake: Any, serving: Any, wire: Any, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr("gateway.upstreams.http.MAX_ANSWER_BYTES", 10_000)
    monkeypatch.setattr("gateway.upstreams.answers.sse_reader.MAX_EVENT_BYTES", 10_000)

    async def talks(request: Any, _: Any) -> Any:
        if not stream:
            return web.json_response(wire.completion("x" * 100_000))
        reply = await wire.start_stream(request)
        await reply.write(b"data: ")
        for _ in range(100):
            await reply.write(b"x" * 1000)  # an endless event
        return reply

    async with fake(talks) as fast, fake() as quality, serving(two_lanes(fast.url, quality.url)) as gateway:
        body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
        status, headers, _ = await gateway.ask(body)
    assert (status, headers["x-twolane-attempts"]) == (200, "fast=upstream_error,quality=ok")


async def test_the_openai_client_reads_a_stream_with_heartbeats_and_raises_its_error(
    fake: Any, serving: Any, wire: Any
) -> None:
    openai = pytest.importorskip("openai")

    async def slow(request: web.Request, body: Any) -> web.StreamResponse:
        await asyncio.sleep(0.1)
        if body["max_tokens"] == 1:
            return web.json_response({"error": {"message": "told", "code": "nope"}}, status=400)
        return await wire.says_hello(request, body)

    async with fake(slow) as server, serving(one_lane(server.url), heartbeat_s=0.02) as gateway:
        client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0)
        common = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        chunks = [chunk async for chunk in await client.chat.completions.create(**common, max_tokens=9)]
        failing = await client.chat.completions.create(**common, max_tokens=1)  # the head has been sent
        with pytest.raises(openai.APIError) as raised:
            await anext(aiter(failing))
        await client.close()
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "hello"
    assert (raised.value.code, raised.value.body["message"]) == ("nope", "told")
