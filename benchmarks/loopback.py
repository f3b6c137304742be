"""A canned OpenAI-shaped server and a closed-loop client on loopback: both as light as asyncio allows, so that the
gateway between them dominates the measurement."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One kind of request, sent `requests` times over `connections` keep-alive connections."""

    name: str
    body: bytes
    requests: int
    connections: int
    chunks: int = 0  # events of the answer's stream; 0: not a stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The client's measurements."""

    latencies_s: tuple[float, ...]
    failures: int

    def quantile_ms(self, share: float) -> float:
        """The latency that `share` of the requests did not exceed."""
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def drive(port: int, load: Load) -> Timing:
    """Send the load; a request counts as failed unless its status is 200."""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {len(load.body)}\r\n\r\n"
    ).encode()
    latencies: list[float] = []
    failures = 0

    async def connection(count: int) -> None:
        nonlocal failures
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(count):
            started = time.perf_counter()
            writer.write(head + load.body)
            status = await _read_answer(reader)
            latencies.append(time.perf_counter() - started)
            failures += status != 200
        writer.close()

    share = load.requests // load.connections
    await asyncio.gather(*(connection(share) for _ in range(load.connections)))
    return Timing(latencies_s=tuple(latencies), failures=failures)


async def serve_canned(port: int, plain: bytes, stream: Callable[[], list[bytes]]) -> None:
    """Answer every POST with `plain`, or with the events of `stream()` where the request asks for a stream."""
    body = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(plain), plain)
    events = [b"%x\r\n%s\r\n" % (len(event), event) for event in stream()]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _read_head(reader):
            request = await reader.readexactly(_content_length(head))
            if b'"stream":true' not in request.replace(b" ", b""):
                writer.write(body)
                continue
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for event in events:
                writer.write(event)
                await asyncio.sleep(0)
            writer.write(b"0\r\n\r\n")

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    await server.serve_forever()


async def _read_answer(reader: asyncio.StreamReader) -> int:
    head = await _read_head(reader)
    if b"transfer-encoding: chunked" in head.lower():
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    else:
        await reader.readexactly(_content_length(head))
    return int(head.split(b" ", 2)[1]) if head else 0


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0
