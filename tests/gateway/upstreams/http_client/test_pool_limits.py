"""Time limits and cancellation of the pooled client, on real sockets."""

import asyncio
import contextlib
import socket

import pytest
from yarl import URL

from gateway.upstreams.http_client.client import CannotConnect, HungUp, ResponseTimeout
from gateway.upstreams.http_client.connection import Connection
from tests.gateway.upstreams.http_client.pooled import CUT, OK, ask, descriptors, pooled
from tests.gateway.upstreams.http_client.raw_server import RawServer, hangs, raw_server, says

pytestmark = pytest.mark.anyio


async def test_the_head_must_arrive_in_time() -> None:
    async with raw_server(says(b"HTTP/1.1 200 OK\r\nConte")) as server, pooled(head_s=0.2) as client:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        with pytest.raises(ResponseTimeout):
            await ask(client, server.url)
        assert loop.time() - began_s >= 0.19
        await server.until_lost(1)


async def test_the_time_of_the_head_does_not_limit_the_body() -> None:
    async def answer(_: RawServer, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        await asyncio.sleep(1.2)
        writer.write(b"ok")

    async with raw_server(answer) as server, pooled(head_s=1.0) as client:
        assert await ask(client, server.url) == b"ok"


async def test_a_connection_must_be_open_in_time() -> None:
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):  # the queue is full: further connections get no answer
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        before = descriptors()
        async with pooled(connect_s=0.1) as client:
            with pytest.raises(TimeoutError):
                await ask(client, URL(f"http://127.0.0.1:{listener.getsockname()[1]}/"))
            await asyncio.sleep(0)
            assert descriptors() <= before + 1


@pytest.mark.parametrize("is_early", [True, False], ids=["before the answer", "behind the answer"])
async def test_a_cancellation_that_meets_the_answer_does_not_cut_the_next_request(
    is_early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next request takes the released connection before the cancelled one learns of its cancellation."""
    original, asked = Connection.data_received, list[asyncio.Task[bytes]]()

    def received(connection: Connection, data: bytes) -> None:
        if len(asked) == 1:
            asked.append(asyncio.create_task(ask(client, server.url)))  # its step precedes that of the first one
            if is_early:
                asked[0].cancel()
            original(connection, data)
            asked[0].cancel()
        else:
            original(connection, data)

    monkeypatch.setattr(Connection, "data_received", received)
    async with raw_server(says(OK)) as server, pooled() as client, asyncio.timeout(120):
        asked.append(asyncio.create_task(ask(client, server.url)))
        with pytest.raises(asyncio.CancelledError):
            await asked[0]
        assert await asked[1] == b"ok"


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\nCont", CUT])
async def test_a_cancelled_request_closes_its_connection_at_once_and_leaks_no_descriptor(begin: bytes) -> None:
    async def answer(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        arrived.set()
        await hangs(server, reader, writer)

    async def use() -> None:
        response = await client.post(server.url, b"{}", {})
        try:
            while await response.read():
                pass
        finally:
            response.close()

    async with raw_server(answer) as server, pooled() as client:
        before = 0
        for number in range(20):
            arrived = asyncio.Event()
            task = asyncio.create_task(use())
            await arrived.wait()
            await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.until_lost(number + 1)
            before = before or descriptors()
        assert descriptors() <= before + 1


async def test_a_closed_client_closes_connections_in_use_and_opens_no_more() -> None:
    async with raw_server(hangs) as server, pooled() as client:
        asked = asyncio.create_task(ask(client, server.url))
        async with asyncio.timeout(120):
            while not server.requests:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        await client.aclose()
        with pytest.raises(HungUp):
            await asked
        with pytest.raises(CannotConnect):
            await ask(client, server.url)
