"""Hostile clients on real sockets: ordinary ones are answered beside them, and afterwards nothing of them is left."""

import asyncio
import contextlib
import json
import os
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import product
from typing import Any

import orjson
import pytest
from aiohttp import web

from tests.gateway.serving import ask, completion, one_lane, start_stream, until
from tests.header_values import ODD_VALUES
from twolane.process.sockets import raise_descriptor_limit

pytestmark = pytest.mark.anyio
# A busy machine gives the attackers, too, little time to send what they are to be refused for.
QUICK = {"head_timeout_s": 1.5, "body_timeout_s": 1.0, "write_timeout_s": 1.0}
PATH = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
CHAT = orjson.dumps(ask())
LARGE = 400_000
Sent = Callable[[int], Awaitable[bytes]]


def request(body: bytes, *, more: bytes = b"") -> bytes:
    return PATH + more + b"content-length: %d\r\n\r\n" % len(body) + body


async def everything(port: int, sent: bytes, *, shut: bool = False) -> bytes:
    """What the gateway sends until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(sent)
            await writer.drain()
            if shut:
                writer.write_eof()
        return await reader.read()
    finally:
        writer.close()


def status_and_code(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


async def endless_head(port: int) -> None:
    answer = await everything(port, PATH + b"x: " + b"a" * 4_000_000)
    assert status_and_code(answer) == (431, "headers_too_large")


async def head_that_stops(port: int) -> None:
    assert status_and_code(await everything(port, PATH)) == (408, "request_timeout")


async def body_that_stops(port: int) -> None:
    answer = await everything(port, PATH + b"content-length: 1000\r\n\r\n{")
    assert status_and_code(answer) == (408, "request_timeout")


async def endless_chunk_extension(port: int) -> None:
    answer = await everything(port, PATH + b"transfer-encoding: chunked\r\n\r\n1;" + b"a" * 1_000_000)
    assert status_and_code(answer) == (400, "invalid_http")


async def deep_body(port: int) -> None:
    answer = await everything(port, request(b"[" * LARGE, more=b"connection: close\r\n"))
    assert status_and_code(answer) == (400, "invalid_json")
    assert b"nested deeper" in answer


async def wide_body(port: int) -> None:
    body = b'{"model":"auto","metadata":{' + b",".join(b'"k%d":0' % at for at in range(200_000)) + b"}}"
    answer = await everything(port, request(body, more=b"connection: close\r\n"))
    assert status_and_code(answer) == (400, "invalid_json")
    assert b"values" in answer


async def too_large_body(port: int) -> None:
    answer = await everything(port, PATH + b"connection: close\r\ncontent-length: 99999999\r\n\r\n" + b"x" * 200_000)
    assert status_and_code(answer) == (413, "request_too_large")


async def smuggled_request(port: int) -> None:
    inner = b"GET /admin HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    sent = PATH + b"content-length: %d\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" % (5 + len(inner)) + inner
    answer = await everything(port, sent)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert status_and_code(answer) == (400, "invalid_http")


async def client_that_never_reads(port: int) -> None:
    """It is disconnected, and so is the target."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(client, request(orjson.dumps(ask("flood", stream=True))))
        while not client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):  # noqa: ASYNC110 - looks without reading
            await asyncio.sleep(0.01)


async def clients_that_leave(port: int, server: Any) -> None:
    """While the target works for them."""
    writers = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(3)]
    for writer in writers:
        writer.write(request(orjson.dumps(ask("hang"))))
    while sum(body["messages"][-1]["content"] == "hang" for body in server.bodies) < 3:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    for writer in writers:
        writer.close()


HOSTILE = (
    endless_head,
    head_that_stops,
    body_that_stops,
    endless_chunk_extension,
    deep_body,
    wide_body,
    too_large_body,
    smuggled_request,
    client_that_never_reads,
)


async def target(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Answers; floods or hangs if told."""
    text = body["messages"][-1]["content"]
    if text == "flood":
        stream = await start_stream(request)
        piece = orjson.dumps({"choices": [{"index": 0, "delta": {"content": "x" * 60_000}}]})
        while True:
            await stream.write(b"data: " + piece + b"\n\n")
    if text == "hang":
        await asyncio.sleep(3600)
    return web.json_response(completion("hello"))


@contextlib.asynccontextmanager
async def attacked(fake: Any, serving: Any, **settings: Any) -> AsyncIterator[tuple[Any, Any, int]]:
    """A gateway and its target; afterwards no task and no descriptor of a client is left."""
    async with fake(target) as server, serving(one_lane(server.url), **{**QUICK, **settings}) as gateway:
        await gateway.ask()  # opens what stays open
        tasks, descriptors = len(asyncio.all_tasks()), open_descriptors()
        yield gateway, server, int(gateway.url.rpartition(":")[2])
        async with asyncio.timeout(120):
            while len(asyncio.all_tasks()) > tasks or open_descriptors() > descriptors + SPARE:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert "twolane_bytes_in_flight 0.0" in await gateway.metrics()


SPARE = 4  # connections that the gateway and the test client keep open to use again


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
async def test_ordinary_clients_are_answered_beside_every_kind_of_hostile_one(fake: Any, serving: Any) -> None:
    async with attacked(fake, serving) as (gateway, server, port):
        attacks = [asyncio.create_task(attack(port)) for attack in HOSTILE for _ in range(3)]
        attacks.append(asyncio.create_task(clients_that_leave(port, server)))
        while not all(attack.done() for attack in attacks):
            status, _, body = await gateway.ask()
            assert (status, body["choices"][0]["message"]["content"]) == (200, "hello")
        await asyncio.gather(*attacks)
        async with asyncio.timeout(120):
            while server.lost < 6:  # noqa: ASYNC110 - those that never read, and those that left
                await asyncio.sleep(0.01)
        page = await gateway.metrics()
        for reason in ("head_size", "head_timeout", "body_timeout", "write_timeout", "malformed"):
            assert f'twolane_listener_refusals_total{{reason="{reason}"}}' in page


async def test_large_bodies_beyond_the_budget_are_refused_before_they_are_read(fake: Any, serving: Any) -> None:
    """And taken again as soon as the others are answered."""
    size = 1_000_000
    hanging = orjson.dumps(ask("hang", user="x" * size))
    limits = {"max_inflight_bytes": 4 * size, "max_body_bytes": 2 * size}
    async with attacked(fake, serving, **limits) as (gateway, server, port):
        writers = []
        for _ in range(3):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
            writer.write(request(hanging))
        while held_bytes(await gateway.metrics()) < 3 * size:  # noqa: ASYNC110 - a page of metrics
            await asyncio.sleep(0.01)
        while len(server.bodies) < 4:  # noqa: ASYNC110 - the target has no event for it
            await asyncio.sleep(0.01)
        answer = await everything(port, PATH + b"connection: close\r\ncontent-length: %d\r\n\r\n" % (2 * size))
        assert status_and_code(answer) == (503, "overloaded")
        assert b"retry-after: 1\r\n" in answer
        assert (await gateway.ask())[0] == 200  # a small one still fits
        assert 'twolane_listener_refusals_total{reason="byte_budget"} 1.0' in await gateway.metrics()
        for writer in writers:
            writer.close()
        await until(gateway.metrics, "twolane_bytes_in_flight 0.0")
        status, _, _ = await gateway.ask(ask(user="x" * size))
        assert status == 200


async def test_many_idle_connections_cost_little_and_disturb_nobody(fake: Any, serving: Any) -> None:
    count = 2000
    raise_descriptor_limit()  # as the program does at its start
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 3 * count:
        pytest.skip(f"at most {soft} open files")
    async with attacked(fake, serving, head_timeout_s=60.0) as (gateway, _, port):
        before = resident_bytes()
        idle = []
        for at in range(count):
            idle.append(socket.create_connection(("127.0.0.1", port)))
            idle[-1].sendall((b"", b"P", PATH)[at % 3])  # silent, or within a head
            if at % 100 == 0:
                assert (await gateway.ask())[0] == 200
        assert (await gateway.ask())[0] == 200
        assert resident_bytes() - before < count * 20_000
        for each in idle:
            each.close()


def resident_bytes() -> int:
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize(
    ("line", "status", "allow"),
    [
        (b"HEAD /health", 200, None),
        (b"HEAD /v1/models", 200, None),
        (b"HEAD /nowhere", 404, None),
        (b"HEAD /v1/chat/completions", 405, b"POST"),
        (b"OPTIONS /v1/chat/completions", 405, b"POST"),
        (b"OPTIONS /v1/models", 405, b"GET"),
        (b"OPTIONS *", 404, None),
        (b"DELETE /v1/chat/completions", 405, b"POST"),
        (b"GET http://localhost/health", 200, None),
        (b"GET http://evil.example/health", 403, None),
    ],
)
async def test_other_methods_and_forms_of_a_target_get_sensible_responses(
    line: bytes, status: int, allow: bytes | None, fake: Any, serving: Any
) -> None:
    async with attacked(fake, serving) as (_, _, port):
        answer = await everything(port, line + b" HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    headers = dict(part.split(b": ", 1) for part in head.split(b"\r\n")[1:])
    assert (int(head.split()[1]), headers.get(b"allow")) == (status, allow)
    assert (body == b"") == line.startswith(b"HEAD")
    assert int(headers[b"content-length"]) > 0


async def test_a_request_that_a_shell_pipes_in_is_answered(fake: Any, serving: Any) -> None:
    """`nc -N` shuts its sending half behind the request."""
    async with attacked(fake, serving) as (_, _, port):
        for body in (CHAT, b"\xef\xbb\xbf" + CHAT):
            answer = await everything(port, request(body), shut=True)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.endswith(b"}")


HEADERS = (
    *("authorization", "x-api-key", "content-type", "content-encoding", "traceparent", "origin"),
    *("host", "x-twolane-task", "x-twolane-private", "x-twolane-deadline-ms"),
)


async def test_no_value_of_a_header_is_an_internal_error(fake: Any, serving: Any) -> None:
    sent = {}
    for name, value in product(HEADERS, ODD_VALUES):
        line = b"%b: %b\r\nconnection: close\r\n" % (name.encode(), value)
        head = PATH.replace(b"host: 127.0.0.1\r\n", b"") if name == "host" else PATH
        sent[name, value] = head + line + b"content-length: %d\r\n\r\n" % len(CHAT) + CHAT
    async with attacked(fake, serving, head_timeout_s=30.0) as (_, _, port):
        answers = [await everything(port, each) for each in sent.values()]
    for case, answer in zip(sent, answers, strict=True):
        assert int(answer.split()[1]) in (200, 400, 401, 403, 408, 413, 415), (case, answer)


async def test_no_path_is_an_internal_error(fake: Any, serving: Any) -> None:
    paths = (
        b"/%ff%00%0d%0a",
        b"//v1/models",
        b"/v1/models/%2e%2e",
        b"/v1/models/%ed%a0%80",
        b"/?" + b"a" * 5000,
        b"/;x",
    )
    async with attacked(fake, serving) as (_, _, port):
        for method in (b"GET", b"POST", b"PUT", b"PATCH", b"TRACE", b"PROPFIND"):
            for path in paths:
                answer = await everything(
                    port, method + b" " + path + b" HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
                )
                assert int(answer.split()[1]) in (200, 404, 405, 415), (method, path, answer)


async def test_answers_count_while_they_are_held(fake: Any, serving: Any) -> None:
    """Whole ones, and streams that are held back for validation."""
    size, go = 300_000, asyncio.Event()

    async def large(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if not body.get("stream"):
            response = web.StreamResponse(headers={"content-type": "application/json"})
            await response.prepare(request)
            whole = orjson.dumps(completion("x" * size))
            await response.write(whole[:-10])
            await go.wait()
            await response.write(whole[-10:])
            return response
        stream = await start_stream(request)
        await stream.write(
            b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": {"content": "y" * size}}]}) + b"\n\n"
        )
        await go.wait()
        await stream.write(b"data: [DONE]\n\n")
        return stream

    policy = one_lane("%s", validate={"schema": "request", "buffer": "full"})
    async with fake(large) as server, serving(policy % server.url) as gateway:
        for stream in (False, True):
            go.clear()
            asking = asyncio.create_task(gateway.ask(ask(stream=stream)))
            while held_bytes(await gateway.metrics()) < size:  # noqa: ASYNC110 - a page of metrics
                await asyncio.sleep(0.01)
            go.set()
            await asking
            await until(gateway.metrics, "twolane_bytes_in_flight 0.0")


def held_bytes(page: str) -> float:
    return float(page.partition("\ntwolane_bytes_in_flight ")[2].partition("\n")[0])


@pytest.mark.parametrize(
    ("path", "body", "delta"),
    [
        ("/v1/responses", {"input": "hi"}, {"content": "x" * 50_000}),
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9},
            {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "x" * 50_000}}]},
        ),
    ],
)
async def test_a_stream_that_its_api_keeps_ends_at_the_budget(
    path: str, body: dict[str, Any], delta: dict[str, Any], serving: Any, fake: Any
) -> None:
    piece = b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": delta}]}) + b"\n\n"

    async def endless(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        stream = await start_stream(request)
        while True:
            await stream.write(piece)

    limits = {"max_inflight_bytes": 1_000_000, "max_body_bytes": 100_000}
    async with fake(endless) as server, serving(one_lane(server.url), **limits) as gateway:
        status, _, events = await gateway.ask({"model": "auto", "stream": True, **body}, path=path)
        assert status == 200
        assert b"--max-inflight-bytes" in events.rpartition(b"event: error\n")[2]
        await until(gateway.metrics, "twolane_bytes_in_flight 0.0")
