"""Serves applications in the event loop of a test, without the pauses that a process makes for clients when it ends."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from twolane.process.http.server import Server


@contextlib.asynccontextmanager
async def served(*servers: Server) -> AsyncIterator[list[str]]:
    """Serve each on a free port of loopback; returns their URLs."""
    ended = asyncio.Event()
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in servers]
    tasks = [asyncio.create_task(_serve(*each, ended)) for each in zip(servers, sockets, strict=True)]
    try:
        while not all(server.started for server in servers) and not any(task.done() for task in tasks):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        yield [f"http://127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    finally:
        ended.set()
        await asyncio.gather(*tasks)


async def _serve(server: Server, bound: socket.socket, ended: asyncio.Event) -> None:
    async def until_ended() -> None:
        """Uvicorn looks every tenth of a second whether it should exit."""
        await server.on_tick(0)
        await ended.wait()
        server.should_exit = True

    server.main_loop = until_ended  # type: ignore[method-assign]
    server.owns_sockets = False  # no client is just connecting
    await server.serve(sockets=[bound])
