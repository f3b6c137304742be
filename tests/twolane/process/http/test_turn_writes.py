"""Writes of several requests are made at the end of a turn, in order, and none is lost."""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from tests.twolane.process.http.listening import HEAD, Wire
from twolane.process.http.connection import ClientConnection, Listener
from twolane.process.http.request_cycle import CYCLE, RequestCycle
from twolane.process.http.turn_writes import TurnWrites

pytestmark = pytest.mark.anyio
REQUEST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"


async def test_writes_wait_for_the_end_of_the_turn_and_keep_their_order() -> None:
    writes, made, loop = TurnWrites(), list[int](), asyncio.get_running_loop()
    for number in range(3):
        writes.add(lambda number=number: made.append(number), loop)  # type: ignore[misc]
    assert made == []
    await asyncio.sleep(0)
    assert made == [0, 1, 2]
    writes.add(lambda: made.append(3), loop)
    await asyncio.sleep(0)
    assert made == [0, 1, 2, 3]


async def test_a_write_that_fails_keeps_no_other_back(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("closed")

    writes, made, loop = TurnWrites(), list[str](), asyncio.get_running_loop()
    writes.add(fail, loop)
    writes.add(lambda: made.append("second"), loop)
    with caplog.at_level(logging.ERROR, "twolane.http"):
        await asyncio.sleep(0)
    assert made == ["second"]
    assert "a write failed" in caplog.text


class Client:
    """A connection in memory whose application responds when `go` is called."""

    def __init__(self, state: ServerState, listener: Listener, real: socket.socket) -> None:
        self.cycles: list[RequestCycle] = []
        self._going = asyncio.Event()

        async def app(scope: Any, _receive: Any, _send: Any) -> None:
            cycle: RequestCycle = scope[CYCLE]
            self.cycles.append(cycle)
            await self._going.wait()
            for _ in range(1000):
                if cycle.is_complete:
                    return
                await asyncio.sleep(0)

        config = uvicorn.Config(app, lifespan="off")
        config.load()
        self.connection: ClientConnection = listener(config, state, {}, asyncio.get_running_loop())
        self.wire = Wire(real)
        self.connection.connection_made(self.wire)

    async def ask(self, requests: bytes = REQUEST) -> RequestCycle:
        """The request, once the application has it."""
        self.connection.data_received(requests)
        while not self.cycles:  # noqa: ASYNC110 - the loop starts it in its next turns
            await asyncio.sleep(0)
        return self.cycles[-1]

    def end(self) -> None:
        self._going.set()


@pytest.fixture
def make() -> Any:
    """Makes clients of one server."""
    sockets: list[socket.socket] = []
    state, listener = ServerState(), Listener()

    def client() -> Client:
        sockets.append(socket.socket())
        return Client(state, listener, sockets[-1])

    yield client
    for each in sockets:
        each.close()


Make = Callable[[], Client]


async def test_a_response_is_sent_at_once_if_no_other_request_is_in_progress(make: Make) -> None:
    client = make()
    (await client.ask()).respond(200, [], b"alone")
    assert client.wire.sent.endswith(b"\r\n\r\nalone")
    client.end()


async def test_responses_of_one_turn_are_sent_at_its_end(make: Make) -> None:
    first, second = make(), make()
    cycles = [await first.ask(), await second.ask()]
    for cycle in cycles:
        cycle.respond(200, [], b"ok")
    assert (first.wire.sent, second.wire.sent) == (b"", b"")
    await asyncio.sleep(0)
    assert first.wire.sent.endswith(b"\r\n\r\nok")
    assert second.wire.sent.endswith(b"\r\n\r\nok")
    first.end()
    second.end()


async def test_what_is_sent_at_once_stays_behind_a_response_that_waits(make: Make) -> None:
    first, second = make(), make()
    await second.ask()
    (await first.ask()).respond(200, [], b"whole")
    first.connection.data_received(HEAD + b"transfer-encoding: gzip\r\n\r\n")  # is refused in the same turn
    whole, _, refused = first.wire.sent.partition(b"whole")
    assert whole.startswith(b"HTTP/1.1 200 OK")
    assert refused.startswith((b"HTTP/1.1 501", b"HTTP/1.1 4"))
    sent = first.wire.sent
    await asyncio.sleep(0)
    assert first.wire.sent == sent
    first.end()
    second.end()


async def test_a_response_that_waits_is_sent_before_its_connection_is_closed(make: Make) -> None:
    first, second = make(), make()
    await second.ask()
    cycle = await first.ask()
    cycle.respond(200, [], b"whole")
    first.connection._close()
    assert first.wire.sent.endswith(b"whole")
    assert first.wire.is_closed
    first.end()
    second.end()


async def test_a_response_that_waits_reaches_a_client_that_ends_its_half_in_that_turn(make: Make) -> None:
    first, second = make(), make()
    await second.ask()
    (await first.ask()).respond(200, [], b"whole")
    if not first.connection.eof_received():
        first.wire.close()
    await asyncio.sleep(0)
    assert first.wire.sent.endswith(b"whole")
    first.end()
    second.end()


async def test_nothing_is_written_to_a_client_that_left_within_the_turn(make: Make) -> None:
    first, second = make(), make()
    await second.ask()
    (await first.ask()).respond(200, [], b"whole")
    first.wire.close()
    first.connection.connection_lost(None)
    await asyncio.sleep(0)
    assert first.wire.sent == b""
    first.end()
    second.end()
