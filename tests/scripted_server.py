"""An HTTP server on a raw socket that plays scripts: for answers that no HTTP library would send."""

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

# A script is a sequence of steps: bytes are sent, numbers are pauses in seconds, HANG waits until the client gives up,
# RESET breaks the connection.
HANG: Final = object()
RESET: Final = object()
Step = Any
Script = Callable[[bytes, dict[str, Any]], Sequence[Step]]


class ScriptedServer:
    """`script` chooses the steps for a request, given its head and its JSON body, which are also recorded."""

    def __init__(self, script: Script) -> None:
        self.heads: list[bytes] = []
        self.bodies: list[dict[str, Any]] = []
        self.url = ""
        self._script = script

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._answer(reader, writer):
                pass
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request. False: close the connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = json.loads(await reader.readexactly(int(length.split(b":")[1])))
        self.heads.append(head)
        self.bodies.append(body)
        steps = self._script(head, body)
        for step in steps:
            if step is HANG:
                await reader.read()
                return False
            if step is RESET:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            else:
                await asyncio.sleep(step)
        return _is_framed(b"".join(step for step in steps if isinstance(step, bytes)))


def _is_framed(sent: bytes) -> bool:
    """Whether the end of the response is marked, so that the connection can be used again."""
    while sent.startswith((b"HTTP/1.1 100", b"HTTP/1.1 103")):
        sent = sent.partition(b"\r\n\r\n")[2]
    head, _, body = sent.lower().partition(b"\r\n\r\n")
    if b"connection: close" in head or not head.startswith(b"http/1.1"):
        return False
    if b"transfer-encoding:" in head:
        return body.endswith(b"0\r\n\r\n")
    if head.split(b" ")[1] in (b"204", b"304"):
        return not body
    return b"content-length:%d\r\n" % len(body) in head.replace(b": ", b":") + b"\r\n"


@contextlib.asynccontextmanager
async def scripted_server(script: Script, *, ssl: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedServer]:
    """Serve on a free port of loopback."""
    scripted = ScriptedServer(script)
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0, ssl=ssl)
    scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield scripted
    finally:
        server.close()
