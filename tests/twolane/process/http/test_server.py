"""A server that shuts down resets no connection that waits to be accepted."""

import asyncio
import socket
from typing import Any

import pytest

from tests.twolane.process.http.listening import REQUEST, everything, reads_first, status_of
from twolane.process.http import server as module
from twolane.process.http.server import Server, build_server

pytestmark = pytest.mark.anyio


async def started(listener: socket.socket) -> tuple[Server, asyncio.Task[None]]:
    server = build_server(reads_first, drain_s=5)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    return server, serving


def clients_of(address: Any, count: int) -> list[socket.socket]:
    """Clients that send a request at once. The loop does not run meanwhile, so that nobody accepts them."""
    made = [socket.create_connection(address, timeout=120) for _ in range(count)]
    for each in made:
        each.sendall(REQUEST)
    return made


async def test_connections_that_wait_when_a_server_shuts_down_are_served() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    server, serving = await started(listener)
    clients = clients_of(listener.getsockname(), 150)
    await asyncio.gather(server.shutdown([listener]), *(expect_answer(each) for each in clients))
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def expect_answer(client: socket.socket) -> None:
    with client:
        assert status_of(await everything(client)) == 200


async def test_while_a_server_shuts_down_no_connection_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    is_closing, refuse = asyncio.Event(), module.refuse_new_connections

    def refuse_and_tell(listener: socket.socket) -> None:
        refuse(listener)
        is_closing.set()

    monkeypatch.setattr(module, "HANDSHAKES_S", 0.3)
    monkeypatch.setattr(module, "refuse_new_connections", refuse_and_tell)
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    server, serving = await started(listener)
    server.should_exit = True
    with socket.socket() as late:
        late.setblocking(False)
        await is_closing.wait()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.get_running_loop().sock_connect(late, address)
    await serving


async def test_a_socket_that_other_processes_listen_on_stays_open_to_them() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    server, serving = await started(listener.dup())
    server.owns_sockets = False
    server.should_exit = True
    await serving
    client = await asyncio.to_thread(socket.create_connection, address, 120)
    client.close()
    listener.close()
