"""Connections are not closed during a request: clients get a response, or see the close before they send."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from gateway.app import build_server
from gateway.web import connection

pytestmark = pytest.mark.anyio
REQUEST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi"
LARGE = 16 << 20  # more than socket buffers hold


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both event loops: they differ in the order of reads, timers and closes."""
    return "asyncio", {"use_uvloop": request.param}


async def reads_first(scope: Any, receive: Any, send: Any) -> None:
    """Responds after the request's body."""
    while (await receive()).get("more_body"):
        pass
    await _answer(send)


async def answers_first(scope: Any, receive: Any, send: Any) -> None:
    """Responds when the request's headers have arrived."""
    await _answer(send)


async def _answer(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


class Served:
    """A server and blocking client sockets, so that bytes wait in the socket while the loop does not run."""

    def __init__(self, server: uvicorn.Server, port: int) -> None:
        self.server = server
        self._port = port
        self.clients: list[socket.socket] = []

    def connect(self) -> socket.socket:
        self.clients.append(socket.create_connection(("127.0.0.1", self._port), timeout=60))
        return self.clients[-1]

    @property
    def connection(self) -> Any:
        """The server's side of the only connection."""
        [only] = self.server.server_state.connections
        return only


@contextlib.asynccontextmanager
async def served(app: Any, *, keep_alive_s: int = 600) -> AsyncIterator[Served]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = build_server(app, drain_s=60, keep_alive_s=keep_alive_s)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.001)
    made = Served(server, port)
    try:
        yield made
    finally:
        for client in made.clients:
            client.close()
        server.should_exit = True
        await task


async def receive(client: socket.socket) -> bytes:
    """The next bytes; empty at the end, ConnectionResetError after a reset."""
    return await asyncio.to_thread(client.recv, 65536)


async def answer_of(client: socket.socket) -> bytes:
    """One complete response."""
    got = b""
    while not got.endswith(b"\r\n\r\nok"):
        part = await receive(client)
        assert part, f"ended after {got!r}"
        got += part
    return got


async def first_answer(client: socket.socket) -> bytes:
    await asyncio.to_thread(client.sendall, REQUEST)  # on the loop it would block reads of a body still in transit
    return await answer_of(client)


async def test_a_request_waiting_in_the_socket_at_the_keep_alive_timeout_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "QUIET_S", 0.0)
    async with served(reads_first) as it:
        client = it.connect()
        await first_answer(client)
        client.sendall(REQUEST)
        it.connection.timeout_keep_alive_handler()
        assert b"connection: close" not in await answer_of(client)


async def test_a_request_waiting_in_the_socket_at_shutdown_is_served_as_the_last_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "QUIET_S", 0.0)
    async with served(reads_first) as it:
        client = it.connect()
        await first_answer(client)
        client.sendall(REQUEST)
        it.connection.shutdown()
        assert b"connection: close" in await answer_of(client)
        assert await receive(client) == b""


async def test_a_connection_in_use_can_send_one_more_request_at_shutdown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "QUIET_S", 60.0)
    async with served(reads_first) as it:
        client = it.connect()
        await first_answer(client)
        it.connection.shutdown()
        await asyncio.sleep(0.01)
        assert b"connection: close" in await first_answer(client)
        assert await receive(client) == b""


async def test_an_idle_connection_is_closed_at_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "QUIET_S", 0.01)
    async with served(reads_first) as it:
        client = it.connect()
        await first_answer(client)
        it.server.should_exit = True
        assert await receive(client) == b""


async def test_an_idle_connection_is_closed_by_the_keep_alive_timeout() -> None:
    async with served(reads_first, keep_alive_s=1) as it:
        client = it.connect()
        await first_answer(client)
        assert await receive(client) == b""


@pytest.mark.parametrize("close", [False, True])
async def test_an_early_response_reaches_a_client_that_reads_after_sending_its_body(close: bool) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n" % LARGE
    async with served(answers_first) as it:
        client = it.connect()
        await asyncio.to_thread(client.sendall, head + (b"connection: close\r\n" if close else b"") + b"\r\n")
        await asyncio.to_thread(client.sendall, b"x" * LARGE)
        assert (b"connection: close" in await answer_of(client)) is close
        if close:
            assert await receive(client) == b""
        else:
            await first_answer(client)


async def test_a_client_that_never_ends_its_body_is_disconnected_after_the_response(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 0.05)
    async with served(answers_first) as it:
        client = it.connect()
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 9\r\n\r\nhi")
        await answer_of(client)
        assert await receive(client) == b""
        while it.server.server_state.connections:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)


async def test_the_keep_alive_timeout_applies_after_an_early_response() -> None:
    async with served(answers_first) as it:
        client = it.connect()
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nhi")
        await answer_of(client)
        first = it.connection.timeout_keep_alive_task
        client.sendall(b"hi")
        while it.connection.timeout_keep_alive_task in (first, None):  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.001)
