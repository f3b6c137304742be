"""Parts of a response that are sent without waiting: whether the client takes them is told by each."""

import asyncio
import socket
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from tests.twolane.process.http.listening import Wire
from twolane.process.http.connection import ClientConnection, Listener
from twolane.process.http.request_cycle import CYCLE, RequestCycle


@pytest.mark.parametrize(
    ("version", "body"), [("1.1", b"1\r\n0\r\n3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n"), ("1.0", b"0onetwothree")]
)
def test_a_push_says_whether_the_client_has_room_for_more(version: str, body: bytes) -> None:
    pushed: list[bool] = []
    relays: list[bool] = []

    async def main() -> bytes:
        async def app(scope: Any, _receive: Any, send: Any) -> None:
            cycle: RequestCycle = scope[CYCLE]
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"0", "more_body": True})
            pushed.append(cycle.push(b"one"))
            relays.append(cycle.relay is not None)
            made.pause_writing()  # as a transport does when its buffer is full
            pushed.append(cycle.push(b"two"))
            made.resume_writing()
            if cycle.relay is None:
                pushed.append(cycle.push(b"three"))
            else:
                pushed.append(cycle.relay(b"5\r\nthree\r\n"))
            wire.close()
            pushed.append(cycle.push(b"four"))
            made.connection_lost(None)
            pushed.append(cycle.push(b"five"))

        config, state, loop = uvicorn.Config(app, lifespan="off"), ServerState(), asyncio.get_running_loop()
        config.load()
        made: ClientConnection = Listener()(config, state, {}, loop)
        with socket.socket() as real:
            wire = Wire(real)
            made.connection_made(wire)
            made.data_received(f"GET / HTTP/{version}\r\nHost: a\r\n\r\n".encode())
            while state.tasks:
                await asyncio.gather(*state.tasks)
        return wire.sent.partition(b"\r\n\r\n")[2]

    assert asyncio.run(main()) == body
    assert pushed == [True, False, True, False, False]
    assert relays == [version == "1.1"]  # without chunks, none can be passed on as they are
