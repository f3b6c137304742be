"""A server on loopback that sends exactly the bytes that a test wants, and counts what it sees."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from yarl import URL

Answer = Callable[["RawServer", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class RawServer:
    """`answer` is called for each request whose head and body have been read; `lost` counts closed connections."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._tasks: set[Any] = set()
        self.url = URL()
        self.connections = self.lost = 0
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                self.requests.append(await read_request(reader))
                await self._answer(self, reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        self.lost += 1
        self._tasks.discard(task)

    async def until_lost(self, count: int) -> None:
        """Return when so many connections have been closed."""
        async with asyncio.timeout(120):
            while self.lost < count:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def aclose(self) -> None:
        async with asyncio.timeout(120):
            while self._tasks:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


@contextlib.asynccontextmanager
async def raw_server(answer: Answer) -> AsyncIterator[RawServer]:
    """Serve on a free port. Every connection must have been closed at the end."""
    raw = RawServer(answer)
    server = await asyncio.start_server(raw.serve, "127.0.0.1", 0, limit=1 << 24)
    raw.url = URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/x?y=1")
    try:
        yield raw
        server.close()
        await raw.aclose()
    finally:
        server.close()


def says(*parts: bytes) -> Answer:
    """Answers every request with these writes; an empty one closes the connection."""

    async def answer(_: RawServer, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            if not part:
                writer.close()
                return
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)

    return answer


async def hangs(_: RawServer, reader: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    """Waits until the client leaves."""
    await reader.read()


def sized(body: bytes, *headers: str) -> bytes:
    """A response with a length."""
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 200 OK\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body
