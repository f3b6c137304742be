"""The fault proxy on real sockets: each mode has its effect, and everything else is forwarded unchanged."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from twolane.fault_proxy.control import Fault, Mode
from twolane.fault_proxy.proxy import FaultProxy, main
from twolane.process.flags import free_port

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"


@pytest.fixture
async def proxy(upstream: Any) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(upstream.url) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: FaultProxy) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=proxy.url, timeout=120) as client:
        yield client


def streamed_text(events: str) -> str:
    """The text of a stream, as a client would put it together."""
    chunks = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


async def complete(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post(CHAT, content=json.dumps(body, separators=(",", ":")))


async def test_without_a_fault_everything_is_forwarded_unchanged(client: httpx.AsyncClient, upstream: Any) -> None:
    answer = await complete(client, model="m")
    assert answer.json()["choices"][0]["message"]["content"] == '{"name":"anna"}'
    assert answer.headers["x-kept"] == "yes"
    assert upstream.requests == [(CHAT, b'{"model":"m"}')]


async def test_a_stream_is_forwarded_event_by_event(client: httpx.AsyncClient) -> None:
    answer = await complete(client, stream=True)
    assert answer.headers["content-type"] == "text/event-stream"
    assert streamed_text(answer.text) == '{"name":"anna"}\n'
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_a_connection_serves_many_requests(proxy: FaultProxy) -> None:
    reader, writer = await asyncio.open_connection(*proxy.url.removeprefix("http://").split(":"))
    for _ in range(3):
        writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert json.loads(await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0])))
    writer.close()
    await writer.wait_closed()


async def test_a_response_without_length_is_forwarded_whole(client: httpx.AsyncClient) -> None:
    assert (await client.get("/endless")).text == "to the end of the connection"


async def test_chunked_requests_arrive_whole(client: httpx.AsyncClient, upstream: Any) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"model":'
        yield b'"m"}'

    await client.post(CHAT, content=pieces())
    assert upstream.requests == [(CHAT, b'{"model":"m"}')]


async def test_a_client_that_waits_for_100_continue_is_told_to_continue(proxy: FaultProxy, upstream: Any) -> None:
    reader, writer = await asyncio.open_connection(*proxy.url.removeprefix("http://").split(":"))
    writer.write(b"POST /health HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    writer.write(b"{}")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert upstream.requests == [("/health", b"{}")]
    writer.close()


async def test_pipelined_requests_are_answered_in_order(proxy: FaultProxy, upstream: Any) -> None:
    reader, writer = await asyncio.open_connection(*proxy.url.removeprefix("http://").split(":"))
    first, second = (b"GET /%b HTTP/1.1\r\nhost: x\r\n\r\n" % path for path in (b"health", b"endless"))
    writer.write(first + second)
    for _ in range(2):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.write(b"")
        if len(upstream.requests) == 1:
            await reader.readexactly(len(b'{"state": "ready"}'))
    assert [path for path, _ in upstream.requests] == ["/health", "/endless"]
    writer.close()


@pytest.mark.parametrize("sent", [b"nonsense\r\n\r\n", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n"])
async def test_an_invalid_request_resets_the_connection(proxy: FaultProxy, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection(*proxy.url.removeprefix("http://").split(":"))
    writer.write(sent)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_corrupt_changes_only_the_json_inside_the_text(client: httpx.AsyncClient, proxy: FaultProxy) -> None:
    proxy.mode = Mode.CORRUPT
    answer = await complete(client)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == '{"name":"anna"'
    assert answer.json()["usage"]["completion_tokens"] == 15


async def test_corrupt_changes_a_stream_and_keeps_its_framing_valid(
    client: httpx.AsyncClient, proxy: FaultProxy
) -> None:
    proxy.mode = Mode.CORRUPT
    answer = await complete(client, stream=True)
    assert streamed_text(answer.text) == '{"name":"anna"'
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
async def test_truncate_closes_inside_the_body(client: httpx.AsyncClient, proxy: FaultProxy, stream: bool) -> None:
    proxy.mode = Mode.TRUNCATE
    with pytest.raises(httpx.RemoteProtocolError):
        await complete(client, stream=stream)


async def test_delay_responds_late_and_unchanged(client: httpx.AsyncClient, proxy: FaultProxy) -> None:
    proxy.fault = Fault(mode=Mode.DELAY, seconds=0.08)
    started = time.monotonic()
    answer = await complete(client)
    assert time.monotonic() - started >= 0.08
    assert answer.json()["choices"][0]["message"]["content"] == '{"name":"anna"}'


async def test_drip_sends_the_whole_body_slowly(client: httpx.AsyncClient, proxy: FaultProxy) -> None:
    proxy.fault = Fault(mode=Mode.DRIP, seconds=0.005)
    started = time.monotonic()
    answer = await complete(client)
    assert answer.json()["choices"][0]["message"]["content"] == '{"name":"anna"}'
    assert time.monotonic() - started >= 0.005 * (len(answer.content) // 16)


async def test_reset_resets_the_connection(proxy: FaultProxy) -> None:
    proxy.mode = Mode.RESET
    reader, writer = await asyncio.open_connection(*proxy.url.removeprefix("http://").split(":"))
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_429_and_500_are_shaped_like_openai_errors(client: httpx.AsyncClient, proxy: FaultProxy) -> None:
    proxy.fault = Fault(mode=Mode.TOO_MANY, seconds=7)
    busy = await complete(client)
    assert (busy.status_code, busy.headers["retry-after"]) == (429, "7")
    assert busy.json()["error"]["code"] == "overloaded"
    proxy.mode = Mode.BROKEN
    broken = await complete(client)
    assert (broken.status_code, broken.json()["error"]["type"]) == (500, "server_error")


async def test_health_is_forwarded_unchanged_unless_a_fault_includes_its_path(
    client: httpx.AsyncClient, proxy: FaultProxy
) -> None:
    proxy.mode = Mode.BROKEN
    assert (await client.get("/health")).json() == {"state": "ready"}
    proxy.fault = Fault(mode=Mode.BROKEN, paths=("/",))
    assert (await client.get("/health")).status_code == 500


async def test_a_share_is_spaced_evenly_and_deterministically(client: httpx.AsyncClient, proxy: FaultProxy) -> None:
    proxy.fault = Fault(mode=Mode.BROKEN, share=0.25)
    assert [(await complete(client)).status_code for _ in range(8)] == [500, 200, 200, 200] * 2


async def test_the_control_endpoint_sets_and_returns_the_fault(client: httpx.AsyncClient, proxy: FaultProxy) -> None:
    given = await client.post("/__faults", json={"mode": "429", "seconds": 2, "share": 0.5})
    assert given.status_code == 200
    assert proxy.fault == Fault(mode=Mode.TOO_MANY, seconds=2.0, share=0.5)
    await complete(client)
    await complete(client)
    state = (await client.get("/__faults")).json()
    assert (state["mode"], state["requests"], state["faulted"]) == ("429", 2, 1)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ('{"mode":"burn"}', "mode"),
        ('{"seconds":-1}', "seconds"),
        ('{"share":2}', "share"),
        ('{"share":true}', "share"),
        ('{"paths":"/v1"}', "paths"),
        ('{"path":["/v1"]}', "path"),
        ("[]", "object"),
        ("{", "JSON"),
    ],
)
async def test_an_invalid_fault_is_rejected_by_field_and_the_old_one_stays(
    client: httpx.AsyncClient, proxy: FaultProxy, given: str, field: str
) -> None:
    proxy.mode = Mode.DELAY
    refused = await client.post("/__faults", content=given)
    assert refused.status_code == 400
    assert field in refused.json()["error"]["message"]
    assert proxy.mode is Mode.DELAY


async def test_a_disconnect_cancels_the_upstream_request(proxy: FaultProxy, upstream: Any) -> None:
    _, writer = await asyncio.open_connection(*proxy.url.removeprefix("http://").split(":"))
    writer.write(b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n")
    async with asyncio.timeout(120):
        await upstream.received.wait()
        writer.close()
        await upstream.closed.wait()


async def test_an_unreachable_upstream_resets_the_connection() -> None:
    async with FaultProxy(f"http://127.0.0.1:{free_port()}") as proxy, httpx.AsyncClient(timeout=120) as client:
        with pytest.raises(httpx.ReadError):
            await client.post(proxy.url + CHAT, content="{}")


async def test_an_incomplete_upstream_response_stays_incomplete(client: httpx.AsyncClient) -> None:
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await client.get("/broken")


async def test_closing_cancels_requests_in_flight(upstream: Any) -> None:
    async with FaultProxy(upstream.url) as proxy:
        _, writer = await asyncio.open_connection(*proxy.url.removeprefix("http://").split(":"))
        writer.write(b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n")
        await upstream.received.wait()
    async with asyncio.timeout(120):
        await upstream.closed.wait()
    writer.close()


def test_a_busy_port_and_an_invalid_upstream_are_reported_in_one_line_with_exit_code_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["--upstream", "http://127.0.0.1:1", "--port", str(taken.getsockname()[1])]) == 2
    with pytest.raises(SystemExit) as stop:
        main(["--upstream", "ftp://somewhere"])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert "in use" in lines[0]
    assert "--upstream" in lines[1]
