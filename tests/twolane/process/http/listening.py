"""A listener on a real socket, with applications and clients for its tests."""

import asyncio
import contextlib
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from twolane.process.http.byte_budget import ByteBudget
from twolane.process.http.connection import Listener
from twolane.process.http.limits import Broken, HttpLimits
from twolane.process.http.request_cycle import WATCH

REQUEST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi"
LARGE = 16 << 20  # more than socket buffers hold
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
OK = b"200"
PATIENT = HttpLimits(head_s=60, body_s=60, keep_alive_s=600, write_s=60, linger_s=60)


class Wire(asyncio.Transport):
    """Records what is sent."""

    def __init__(self, real: socket.socket) -> None:
        super().__init__({"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2), "socket": real})
        self.sent = b""
        self.is_closed = False

    def write(self, data: Any) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def write_eof(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    abort = close


async def reads_first(scope: Any, receive: Any, send: Any) -> None:
    """Responds after the request's body."""
    while (message := await receive()).get("more_body"):
        pass
    if message["type"] == "http.request":
        await send_ok(send)


async def answers_first(scope: Any, receive: Any, send: Any) -> None:
    """Responds when the request's headers have arrived."""
    await send_ok(send)


async def echoes(scope: Any, receive: Any, send: Any) -> None:
    """Responds with what it received."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    seen = {
        "method": scope["method"],
        "path": scope["path"],
        "headers": [(name.decode(), value.decode("latin-1")) for name, value in scope["headers"]],
        "body": body.decode("latin-1"),
    }
    await send_ok(send, json.dumps(seen).encode())


async def send_ok(send: Any, body: bytes = b"ok") -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


class Hanging:
    """Reads its request, responds when told, and records when its client leaves: it waits for a message, or watches."""

    def __init__(self, *, streams: bool = False, watches: bool = False) -> None:
        self.streams, self.watches = streams, watches
        self.received, self.go, self.left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        if self.streams:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        self.received.set()
        leaving: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.watches:
            scope[WATCH](lambda: leaving.set_result({"type": "http.disconnect"}))
        else:
            leaving = asyncio.ensure_future(receive())
        going = asyncio.ensure_future(self.go.wait())
        await asyncio.wait([leaving, going], return_when=asyncio.FIRST_COMPLETED)
        going.cancel()
        if leaving.done() and leaving.result()["type"] == "http.disconnect":
            self.left.set()
            return
        leaving.cancel()
        scope[WATCH](None)
        if self.streams:
            await send({"type": "http.response.body", "body": b"last"})
        else:
            await send_ok(send)


class Served:
    """A server and blocking client sockets, so that bytes wait in the socket while the loop does not run."""

    def __init__(self, state: ServerState, port: int, broken: Counter[Broken]) -> None:
        self.state, self.broken = state, broken
        self._port = port
        self.clients: list[socket.socket] = []

    def connect(self) -> socket.socket:
        self.clients.append(socket.create_connection(("127.0.0.1", self._port), timeout=60))
        return self.clients[-1]

    async def talk(self, sent: bytes, *, shut: bool = False) -> bytes:
        """Everything that a new connection receives for these bytes, until the server closes."""
        client = self.connect()
        await asyncio.to_thread(client.sendall, sent)
        if shut:
            client.shutdown(socket.SHUT_WR)
        return await everything(client)

    @property
    def connection(self) -> Any:
        """The server's side of the only connection."""
        [only] = self.state.connections
        return only

    async def is_empty(self) -> None:
        """Return when nothing is left of any request or connection."""
        while self.state.tasks or self.state.connections:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def served(
    app: Any, *, arrive: Any = None, budget: ByteBudget | None = None, added: Any = lambda _: (), **limits: Any
) -> AsyncIterator[Served]:
    """As uvicorn's server does it, without its pauses."""
    broken, state, loop = Counter[Broken](), ServerState(), asyncio.get_running_loop()
    config = uvicorn.Config(app, lifespan="off", interface="asgi3")
    config.load()
    allowed = replace(PATIENT, **limits)
    listener = Listener(allowed, lambda what: broken.update([what]), arrive, budget=budget, added_headers=added)
    server = await loop.create_server(lambda: listener(config, state, {}, loop), "127.0.0.1", 0)
    made = Served(state, server.sockets[0].getsockname()[1], broken)
    try:
        yield made
    finally:
        for client in made.clients:
            client.close()
        server.close()
        for connection in tuple(state.connections):
            connection.shutdown()
        await made.is_empty()


async def receive(client: socket.socket) -> bytes:
    """The next bytes; empty at the end, ConnectionResetError after a reset."""
    return await asyncio.to_thread(client.recv, 65536)


async def everything(client: socket.socket) -> bytes:
    got = b""
    while part := await receive(client):
        got += part
    return got


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


def status_of(answer: bytes) -> int:
    return int(answer.split()[1])


def error_of(answer: bytes) -> Any:
    """The status and error code; the body is OpenAI's and the connection is closed."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    error = json.loads(body)["error"]
    assert error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    return status_of(answer), error["code"]


def chunks_of(body: bytes) -> bytes:
    """The data of a chunked body, as a strict client reads it."""
    data = b""
    while True:
        size, _, body = body.partition(b"\r\n")
        assert size
        length = int(size, 16)
        assert body[length : length + 2] == b"\r\n"
        data, body = data + body[:length], body[length + 2 :]
        if not length:
            assert not body
            return data
