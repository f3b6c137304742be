"""The whole gateway over real sockets: what leaves, what is hung up on, what is told."""

import asyncio
from typing import Any

import orjson
import pytest
from aiohttp import web

pytestmark = pytest.mark.anyio

ORDER = {
    "type": "json_schema",
    "json_schema": {"name": "order", "schema": {"type": "object", "required": ["n"]}},
}


def two_lanes(fast: str, quality: str, **route: Any) -> str:
    """A worker first, another server behind it."""
    return orjson.dumps(
        {
            "version": 1,
            "targets": {
                "fast": {"kind": "openai", "engine": "openai", "url": fast, "model": "f", "place": "in_cluster"},
                "quality": {"kind": "openai", "engine": "openai", "url": quality, "model": "q", "place": "external"},
            },
            "routes": [{"name": "default", "use": "fast", "fall_back": ["quality"], **route}],
        }
    ).decode()


def one_lane(url: str, **route: Any) -> str:
    return orjson.dumps(
        {
            "version": 1,
            "targets": {
                "only": {"kind": "openai", "engine": "openai", "url": url, "model": "m", "place": "in_cluster"}
            },
            "routes": [{"name": "default", "use": "only", **route}],
        }
    ).decode()


async def test_an_answer_comes_back_byte_for_byte_with_headers_that_explain(fake: Any, serving: Any, wire: Any) -> None:
    async with fake() as server, serving(one_lane(server.url)) as gateway:
        status, headers, body = await gateway.ask(x_twolane_task="code")
    assert status == 200
    assert body == wire.completion("hello")
    told = {name: value for name, value in headers.items() if name.startswith("x-twolane")}
    policy = told.pop("x-twolane-policy")
    assert len(policy) == 12
    assert told == {
        "x-twolane-task": "code",
        "x-twolane-confidence": "1.00",
        "x-twolane-route": "default",
        "x-twolane-target": "only",
        "x-twolane-attempts": "only=ok",
    }
    assert headers["x-request-id"].startswith("req_")
    assert [part.partition(";")[0] for part in headers["server-timing"].split(", ")] == [
        "classify",
        "queue",
        "upstream",
        "total",
    ]


async def test_a_stream_ends_with_done(fake: Any, serving: Any, wire: Any) -> None:
    async with fake() as server, serving(one_lane(server.url)) as gateway:
        status, headers, body = await gateway.ask(ask(stream=True))
    assert status == 200
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert body == wire.chunk("hel") + wire.chunk("lo") + b"data: [DONE]\n\n"


async def test_extensions_of_ours_never_reach_a_target(fake: Any, serving: Any) -> None:
    body = ask(metadata={"task": "chat", "private": "false", "mine": "1"}, diffusion={"steps": 4}, top_k=3)
    async with fake() as server, serving(one_lane(server.url)) as gateway:
        await gateway.ask(body, x_twolane_deadline_ms="5000")
    sent = server.bodies[0]
    assert sent["metadata"] == {"mine": "1"}
    assert "diffusion" not in sent
    assert sent["model"] == "m"
    assert sent["top_k"] == 3  # not ours to judge
    assert not [name for name in server.headers[0] if name.lower().startswith("x-twolane")]


async def test_a_large_request_reaches_its_target_whole(fake: Any, serving: Any) -> None:
    async with fake() as server, serving(one_lane(server.url)) as gateway:
        assert (await gateway.ask(ask(text="x" * 3_000_000)))[0] == 200
    assert len(server.bodies[0]["messages"][0]["content"]) == 3_000_000


async def test_bytes_of_a_stream_leave_as_they_come(fake: Any, serving: Any, wire: Any) -> None:
    """The first chunk is here while the target still waits."""
    go_on = asyncio.Event()

    async def answer(request: web.Request, _: Any) -> web.StreamResponse:
        stream = await wire.start_stream(request)
        await stream.write(wire.chunk("first"))
        await go_on.wait()
        await stream.write(wire.chunk("second") + b"data: [DONE]\n\n")
        return stream

    async with fake(answer) as server, serving(one_lane(server.url)) as gateway:
        url = f"{gateway.url}/v1/chat/completions"
        async with gateway.client.post(url, data=orjson.dumps(ask(stream=True))) as response:
            assert await response.content.readuntil(b"\n\n") == wire.chunk("first")
            go_on.set()
            assert await response.content.read() == wire.chunk("second") + b"data: [DONE]\n\n"


async def test_a_stream_cut_off_inside_ends_with_an_error_event_and_without_done(
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
async def test_a_target_that_hangs_up_before_its_first_byte_is_replaced(fake: Any, serving: Any, stream: bool) -> None:
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


async def test_nobody_listening_is_an_upstream_error_too(serving: Any, fake: Any) -> None:
    async with fake() as gone:
        pass
    async with serving(one_lane(gone.url)) as gateway:
        status, headers, body = await gateway.ask()
    assert (status, body["error"]["code"]) == (502, "upstream_error")
    assert headers["x-twolane-attempts"] == "only=upstream_error"


async def test_a_held_stream_that_turns_out_invalid_never_shows_a_byte(fake: Any, serving: Any, wire: Any) -> None:
    async def wrong(request: web.Request, _: Any) -> web.StreamResponse:
        stream = await wire.start_stream(request)
        await stream.write(wire.chunk('{"WRONG"') + wire.chunk(": 1}") + b"data: [DONE]\n\n")
        return stream

    async def right(request: web.Request, _: Any) -> web.StreamResponse:
        stream = await wire.start_stream(request)
        await stream.write(wire.chunk('{"n"') + wire.chunk(": 1}") + b"data: [DONE]\n\n")
        return stream

    policy = {"validate": {"schema": "request", "hold": "whole"}}
    async with (
        fake(wrong) as fast,
        fake(right) as quality,
        serving(two_lanes(fast.url, quality.url, **policy)) as gateway,
    ):
        status, headers, body = await gateway.ask(ask(stream=True, response_format=ORDER))
    assert status == 200
    assert headers["x-twolane-attempts"] == "fast=invalid_output,quality=ok"
    assert headers["x-twolane-schema"] == "valid"
    assert body == wire.chunk('{"n"') + wire.chunk(": 1}") + b"data: [DONE]\n\n"


@pytest.mark.parametrize("status", [429, 503, 500, 400, 401])
async def test_refusals_of_a_target_are_told_truthfully(fake: Any, serving: Any, status: int) -> None:
    """What concerns the client comes through; our own credentials do not become the client's fault."""

    async def answer(*_: Any) -> web.StreamResponse:
        error = {"message": "told by the target", "code": "some_code", "param": "messages", "type": "x"}
        return web.json_response({"error": error}, status=status, headers={"retry-after": "7"})

    async with fake(answer) as server, serving(one_lane(server.url)) as gateway:
        got, headers, body = await gateway.ask()
    expected = {
        429: (503, "overloaded"),
        503: (503, "overloaded"),
        500: (502, "upstream_error"),
        400: (400, "some_code"),
        401: (502, "upstream_error"),
    }
    assert (got, body["error"]["code"]) == expected[status]
    assert (body["error"]["message"] == "told by the target") == (status == 400)
    assert headers["retry-after"] == "7"


async def test_a_client_that_leaves_hangs_up_on_the_target(fake: Any, serving: Any) -> None:
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
        await asyncio.wait_for(ended.wait(), 2)
        page = await until(gateway.metrics, 'outcome="client_gone"')
    assert 'twolane_in_flight{target="only"} 0.0' in page
    assert server.lost == 1


async def test_a_client_that_leaves_inside_a_stream_hangs_up_on_the_target(fake: Any, serving: Any, wire: Any) -> None:
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
        await asyncio.wait_for(ended.wait(), 2)
        await until(gateway.metrics, 'outcome="client_gone"')


async def test_a_deadline_in_a_header_ends_the_request_in_time(fake: Any, serving: Any) -> None:
    async def answer(*_: Any) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    async with fake(answer) as server, serving(one_lane(server.url)) as gateway:
        status, headers, body = await gateway.ask(x_twolane_deadline_ms="60")
    assert (status, body["error"]["code"]) == (504, "deadline_exceeded")
    assert headers["x-twolane-attempts"] == "only=deadline"


async def test_a_silent_target_is_given_up_after_the_idle_limit(fake: Any, serving: Any) -> None:
    async def answer(*_: Any) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    async with fake(answer) as fast, fake() as quality, serving(two_lanes(fast.url, quality.url), idle_s=0.05) as it:
        _, headers, _ = await it.ask()
    assert headers["x-twolane-attempts"] == "fast=upstream_error,quality=ok"


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
async def test_a_target_that_speaks_nonsense_is_replaced(fake: Any, serving: Any, body: bytes) -> None:
    async def answer(*_: Any) -> web.StreamResponse:
        return web.Response(body=body, content_type="application/json")

    async with fake(answer) as fast, fake() as quality, serving(two_lanes(fast.url, quality.url)) as gateway:
        _, headers, _ = await gateway.ask()
    assert headers["x-twolane-attempts"] == "fast=upstream_error,quality=ok"


async def test_connections_to_targets_are_used_again(fake: Any, serving: Any, wire: Any) -> None:
    ports = set()

    async def answer(request: web.Request, body: Any) -> web.StreamResponse:
        ports.add(request.transport.get_extra_info("peername")[1])
        return await wire.says_hello(request, body)

    async with fake(answer) as server, serving(one_lane(server.url)) as gateway:
        for stream in (False, True, False, True):
            await gateway.ask(ask(stream=stream))
    assert len(ports) == 1


async def test_every_request_leaves_one_line_in_the_decision_log(fake: Any, serving: Any, tmp_path: Any) -> None:
    file = tmp_path / "decisions.jsonl"
    async with fake() as server, serving(one_lane(server.url), decision_log=file) as gateway:
        ids = [(await gateway.ask(ask(text="SECRET")))[1]["x-request-id"] for _ in range(3)]
    lines = [orjson.loads(line) for line in file.read_text().splitlines()]
    assert [line["id"] for line in lines] == ids
    assert "SECRET" not in file.read_text()


async def test_the_policy_is_reloaded_whole_or_not_at_all(fake: Any, serving: Any, tmp_path: Any) -> None:
    async with fake() as first, fake() as second, serving(one_lane(first.url)) as gateway:
        await gateway.ask()
        (tmp_path / "policy.yaml").write_text("version: 1\ntargets: [broken")
        await gateway.gateway.follower.reload()
        assert (await gateway.ask())[0] == 200
        (tmp_path / "policy.yaml").write_text(one_lane(second.url))
        await gateway.gateway.follower.reload()
        await gateway.ask()
        page = await gateway.metrics()
    assert (len(first.bodies), len(second.bodies)) == (2, 1)
    assert 'twolane_policy_reloads_total{result="refused"} 1.0' in page
    assert 'twolane_policy_reloads_total{result="changed"} 1.0' in page


async def test_a_changed_policy_file_is_followed_without_being_asked(fake: Any, serving: Any, tmp_path: Any) -> None:
    async with fake() as first, fake() as second, serving(one_lane(first.url), policy_watch_s=0.01) as gateway:
        (tmp_path / "policy.yaml").write_text(one_lane(second.url))
        for _ in range(500):
            await gateway.ask()
            if second.bodies:
                break
        else:
            pytest.fail("the policy was never read again")


async def test_an_error_nobody_foresaw_is_still_one_answer(fake: Any, serving: Any, monkeypatch: Any) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    async with fake() as server, serving(one_lane(server.url)) as gateway:
        monkeypatch.setattr("gateway.upstreams.openai_compatible.body_for", fail)
        status, _, body = await gateway.ask()
        monkeypatch.undo()
        assert 'twolane_in_flight{target="only"} 0.0' in await gateway.metrics()
    assert (status, body["error"]["code"], body["error"]["type"]) == (500, "internal_error", "server_error")
    assert "bug" not in body["error"]["message"]


def ask(text: str = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **more}


async def last_decision(gateway: Any, headers: dict[str, str]) -> Any:
    url = f"{gateway.admin_url}/admin/decisions/{headers['x-request-id']}"
    async with gateway.client.get(url) as response:
        return await response.json()


async def until(read: Any, word: str) -> str:
    """Read again until the word is there: what is told behind an answer comes a moment later."""
    for _ in range(200):
        page: str = await read()
        if word in page:
            return page
        await asyncio.sleep(0.005)
    raise AssertionError(f"{word} never came")
