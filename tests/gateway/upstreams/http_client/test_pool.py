"""The pooled client on real sockets: reuse, servers that hang up, and bodies."""

import asyncio
import contextlib
import gc
import os
import socket
from typing import Any

import aiohappyeyeballs
import pytest
from yarl import URL

from gateway.upstreams.http_client import connection as connections
from gateway.upstreams.http_client.client import CannotConnect, HungUp
from gateway.upstreams.http_client.connection import Connection, NotReceived
from tests.gateway.upstreams.http_client.pooled import CUT, OK, ask, body_of, pooled
from tests.gateway.upstreams.http_client.raw_server import RawServer, hangs, raw_server, says, sized
from twolane.process.flags import free_port
from twolane.process.http.turn_writes import TurnWrites

pytestmark = pytest.mark.anyio
EVIL = sized(b"EVIL")


# Reuse


async def test_a_connection_is_used_again_and_the_request_is_sent_as_given() -> None:
    async with raw_server(says(OK)) as server, pooled() as client:
        found = [await ask(client, server.url) for _ in range(3)]
    port = server.url.port
    assert (found, server.connections) == ([b"ok"] * 3, 1)
    assert server.requests[0] == b"POST /v1/x?y=1 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 2\r\n\r\n{}" % port


async def test_requests_at_the_same_time_have_connections_of_their_own() -> None:
    async with raw_server(says(OK)) as server, pooled() as client:
        assert await asyncio.gather(*(ask(client, server.url) for _ in range(5))) == [b"ok"] * 5
        assert server.connections == 5
        await ask(client, server.url)
        assert server.connections == 5


async def test_a_closed_connection_leaves_nothing_to_the_garbage_collector() -> None:
    async with raw_server(says(sized(b"ok", "Connection: close"), b"")) as server, pooled() as client:
        await ask(client, server.url)
        gc.collect()
        gc.disable()
        try:
            for _ in range(4):
                await ask(client, server.url)
            await server.until_lost(5)
            await asyncio.sleep(0)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            kept = [found for found in gc.garbage if isinstance(found, Connection)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert not kept


async def test_no_more_idle_connections_are_kept_than_allowed() -> None:
    async with raw_server(says(OK)) as server, pooled(idle_connections=2) as client:
        await asyncio.gather(*(ask(client, server.url) for _ in range(5)))
        await server.until_lost(3)
        assert (server.connections, server.lost) == (5, 3)


async def test_idle_connections_are_closed_when_their_time_is_over() -> None:
    async with raw_server(says(OK)) as server, pooled(idle_s=0.05) as client:
        await ask(client, server.url)
        await server.until_lost(1)
        await ask(client, server.url)
        assert server.connections == 2


async def test_the_next_request_does_not_get_what_arrived_behind_a_response() -> None:
    async with raw_server(says(OK + EVIL)) as server, pooled() as client:
        assert [await ask(client, server.url) for _ in range(3)] == [b"ok"] * 3
        assert server.connections == 3


async def test_bytes_that_arrive_while_a_connection_is_idle_close_it() -> None:
    async def answer(_: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await asyncio.sleep(0.02)
        writer.write(EVIL)

    async with raw_server(answer) as server, pooled() as client:
        assert await ask(client, server.url) == b"ok"
        await server.until_lost(1)
        assert await ask(client, server.url) == b"ok"
        assert server.connections == 2


async def test_bytes_that_the_loop_has_not_read_yet_are_no_answer_to_the_next_request() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = URL(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        async with pooled() as client:
            asked = asyncio.create_task(ask(client, url))
            accepted, _ = await asyncio.to_thread(listener.accept)
            with accepted:
                await asyncio.to_thread(accepted.recv, 4096)
                accepted.sendall(OK)
                assert await asked == b"ok"
                accepted.sendall(EVIL)  # the loop does not run between this and the next request
                asked = asyncio.create_task(ask(client, url))
                second, _ = await asyncio.to_thread(listener.accept)
                with second:
                    await asyncio.to_thread(second.recv, 4096)
                    second.sendall(sized(b"right"))
                    assert await asked == b"right"


async def test_bytes_before_a_request_that_waits_for_the_end_of_the_turn_are_no_answer_to_it() -> None:
    async with pooled() as client, raw_server(hangs) as other:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = URL(f"http://127.0.0.1:{listener.getsockname()[1]}/")
            asked = asyncio.create_task(ask(client, url))
            accepted, _ = await asyncio.to_thread(listener.accept)
            with accepted:
                await asyncio.to_thread(accepted.recv, 4096)
                accepted.sendall(OK)
                assert await asked == b"ok"
                waiting = asyncio.create_task(ask(client, other.url))  # with which the next request shares a turn
                while not other.requests and not other.connections:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                accepted.sendall(EVIL)
                asked = asyncio.create_task(ask(client, url))
                second, _ = await asyncio.to_thread(listener.accept)
                with second:
                    await asyncio.to_thread(second.recv, 4096)
                    second.sendall(sized(b"right"))
                    assert await asked == b"right"
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.to_thread(accepted.recv, 4096) == b"", "the request was sent there as well"
            waiting.cancel()


async def test_a_request_is_not_written_behind_bytes_that_arrive_at_the_end_of_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with raw_server(says(OK)) as server, pooled() as client:
        assert await ask(client, server.url) == b"ok"
        connection = client._take(("127.0.0.1", server.url.port or 0), TurnWrites())
        assert connection is not None
        monkeypatch.setattr(connections, "is_readable", lambda _: True)  # only when the request is to be written
        head = connection.send(b"POST / HTTP/1.1\r\n\r\n", writes=(writes := TurnWrites()))
        writes._make()
        with pytest.raises(NotReceived):
            await head
        await server.until_lost(1)
        assert len(server.requests) == 1


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
async def test_a_request_whose_connection_ends_within_its_turn_can_be_sent_again(error: Exception | None) -> None:
    async with raw_server(says(OK)) as server, pooled() as client:
        assert await ask(client, server.url) == b"ok"
        connection = client._take(("127.0.0.1", server.url.port or 0), TurnWrites())
        assert connection is not None
        head = connection.send(b"POST / HTTP/1.1\r\n\r\n", writes=(writes := TurnWrites()))
        connection._transport.abort()
        writes._make()  # before the loop tells of the end
        connection.connection_lost(error)
        with pytest.raises(NotReceived):
            await head
        await server.until_lost(1)
        assert len(server.requests) == 1


async def test_a_request_that_is_cancelled_within_its_turn_is_not_sent() -> None:
    async with raw_server(says(OK)) as server, raw_server(hangs) as other, pooled() as client:
        assert await ask(client, server.url) == b"ok"
        waiting = asyncio.create_task(ask(client, other.url))
        while not other.connections:  # noqa: ASYNC110
            await asyncio.sleep(0)
        asked = asyncio.create_task(ask(client, server.url))
        asyncio.get_running_loop().call_soon(asked.cancel)
        with pytest.raises(asyncio.CancelledError):
            await asked
        waiting.cancel()
        await server.until_lost(1)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        sized(b"ok", "Connection: close"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok",
    ],
)
async def test_a_server_that_will_close_is_not_asked_again_on_that_connection(answer: bytes) -> None:
    async with raw_server(says(answer, b"")) as server, pooled() as client:
        assert [await ask(client, server.url) for _ in range(2)] == [b"ok", b"ok"]
        assert server.connections == 2


async def test_a_response_before_the_end_of_the_request_ends_the_connection() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sized(b"no"))
        with contextlib.suppress(ConnectionError):
            await reader.read(-1)  # the client closes before it has sent everything
        writer.close()
        lost.set()

    lost = asyncio.Event()
    server = await asyncio.start_server(refuse, "127.0.0.1", 0, limit=1 << 12)
    url = URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    async with pooled() as client:
        assert await body_of(await client.post(url, b"x" * (16 << 20), {})) == b"no"
        async with asyncio.timeout(120):
            await lost.wait()
    server.close()


# What a server's close means


@pytest.mark.parametrize(("begin", "found"), [(b"HTTP/1.1 413 No\r\n\r\nno", b"no"), (CUT, None), (b"", None)])
async def test_a_server_that_stops_before_it_has_read_the_request_is_not_waited_for(
    begin: bytes, found: bytes | None
) -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = URL(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        async with pooled() as client, asyncio.timeout(120):
            asked = asyncio.create_task(client.post(url, bytes(20_000_000), {}))
            accepted, _ = await loop.sock_accept(listener)
            with accepted:
                await loop.sock_recv(accepted, 1)
                accepted.sendall(begin)
                accepted.shutdown(socket.SHUT_WR)
                if found is None:
                    with pytest.raises(HungUp):
                        await body_of(await asked)
                else:
                    assert await body_of(await asked) == found


async def test_a_server_that_cannot_be_reached_has_received_nothing() -> None:
    async with pooled() as client:
        with pytest.raises(CannotConnect):
            await ask(client, URL(f"http://127.0.0.1:{free_port()}/"))
        with pytest.raises(CannotConnect):
            await ask(client, URL("http://does-not-exist.invalid/"))
        with pytest.raises(CannotConnect):
            await ask(client, URL(f"http://{'x' * 70}.invalid/", encoded=True))


async def test_a_client_that_is_closed_while_it_connects_keeps_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(*given: Any, **named: Any) -> socket.socket:
        connected = await real(*given, **named)
        await client.aclose()
        return connected

    real = aiohappyeyeballs.start_connection
    monkeypatch.setattr(aiohappyeyeballs, "start_connection", start)
    async with raw_server(says(OK)) as server, pooled() as client:
        with pytest.raises(CannotConnect):
            await ask(client, server.url)
        await server.until_lost(1)
        assert server.requests == []


@pytest.mark.parametrize("answer", [(b"",), (b"HTTP/1.1 200 OK\r\nCont", b""), (CUT, b"")])
async def test_a_server_that_hangs_up_may_have_processed_the_request_which_is_not_sent_again(answer: Any) -> None:
    async with raw_server(says(*answer)) as server, pooled() as client:
        with pytest.raises(HungUp):
            await ask(client, server.url)
        assert len(server.requests) == 1


async def test_a_request_that_was_read_on_a_used_connection_is_not_sent_again() -> None:
    async def answer(server: RawServer, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 1:
            writer.write(OK)
        else:
            writer.close()

    async with raw_server(answer) as server, pooled() as client:
        assert await ask(client, server.url) == b"ok"
        with pytest.raises(HungUp):
            await ask(client, server.url)
        assert (len(server.requests), server.connections) == (2, 1)


async def test_a_connection_that_was_closed_while_idle_is_replaced() -> None:
    async with raw_server(says(OK, b"")) as server, pooled() as client:
        for number in range(3):
            assert await ask(client, server.url) == b"ok"
            await server.until_lost(number + 1)
        assert len(server.requests) == 3


async def test_a_request_that_crosses_the_server_s_close_is_sent_once_more_on_a_new_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = URL(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        async with pooled() as client:
            asked = asyncio.create_task(ask(client, url))
            first, _ = await asyncio.to_thread(listener.accept)
            await asyncio.to_thread(first.recv, 4096)
            first.sendall(OK)
            assert await asked == b"ok"
            # The close is on its way when the request is written: nothing can be seen of it.
            monkeypatch.setattr(Connection, "is_usable", lambda *_: True)
            first.close()
            asked = asyncio.create_task(ask(client, url))
            second, _ = await asyncio.to_thread(listener.accept)
            with second:
                assert b"{}" in await asyncio.to_thread(second.recv, 4096)
                second.sendall(sized(b"again"))
                assert await asked == b"again"


# Bodies


async def test_what_arrives_in_one_read_is_handed_over_at_once() -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in b"hello world")
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with raw_server(says(head + chunks + b"0\r\n\r\n")) as server, pooled() as client:
        response = await client.post(server.url, b"{}", {})
        assert [await response.read(), await response.read()] == [b"hello world", b""]
        response.close()


async def test_a_reader_that_does_not_read_stops_the_server() -> None:
    body = os.urandom(1 << 20) * 16

    async def answer(_: RawServer, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sized(body))
        await writer.drain()
        sent.set()

    sent = asyncio.Event()
    async with raw_server(answer) as server, pooled(buffered_bytes=1 << 16) as client:
        response = await client.post(server.url, b"{}", {})
        await asyncio.sleep(0.1)
        assert not sent.is_set()
        assert response._size < 1 << 21
        assert await body_of(response) == body
        assert await asyncio.wait_for(sent.wait(), 120)
        await body_of(await client.post(server.url, b"{}", {}))
        assert server.connections == 1


async def test_responses_without_a_body_leave_the_connection_in_order() -> None:
    without = b"HTTP/1.1 %s\r\nContent-Length: 5\r\n\r\n"

    async def answer(server: RawServer, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(server.requests)
        writer.write((without % b"204 No Content", without % b"304 Not Modified", OK)[number - 1])

    async with raw_server(answer) as server, pooled() as client:
        assert [await ask(client, server.url) for _ in range(3)] == [b"", b"", b"ok"]
        assert server.connections == 1


async def test_the_response_to_head_has_no_body_whatever_its_length_says() -> None:
    async with raw_server(says(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")) as server, pooled() as client:
        assert [await ask(client, server.url, "HEAD") for _ in range(2)] == [b"", b""]


@pytest.mark.parametrize("value", ["a\r\nX-Other: b", "a\nb", "a\0b", "a\r"])
async def test_a_header_cannot_begin_another_one(value: str) -> None:
    async with pooled() as client:
        with pytest.raises(ValueError, match="line break"):
            await client.post(URL("http://127.0.0.1:9/"), b"", {"x-a": value})


@pytest.mark.parametrize("url", ["https://127.0.0.1:9/", "ftp://127.0.0.1:9/"])
async def test_other_schemes_are_refused(url: str) -> None:
    async with pooled() as client:
        with pytest.raises(ValueError, match="only http"):
            await client.post(URL(url), b"", {})


async def test_an_ipv6_address_stands_in_brackets() -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    raw = RawServer(says(OK))
    server = await asyncio.start_server(raw.serve, sock=listener)
    port = listener.getsockname()[1]
    async with pooled() as client:
        assert await ask(client, URL(f"http://[::1]:{port}/")) == b"ok"
    await raw.aclose()
    server.close()
    assert b"Host: [::1]:%d\r\n" % port in raw.requests[0]
