"""The HTTP server of one port of either program: uvicorn's, with the project's own connections."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from twolane.process.http.connection import Listener
from twolane.process.sockets import HANDSHAKES_S, has_waiting, refuse_new_connections

ACCEPT_S: Final = 2.0  # to accept those that wait then
_RECHECK_S: Final = 0.01


class Server(uvicorn.Server):
    """Uvicorn without signal handlers, because two servers share one event loop. It resets no connection that waits to
    be accepted when it shuts down."""

    owns_sockets = True  # no other process accepts their connections

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no handlers."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept the connections that wait, let no new one begin, and finish the requests in progress."""
        if self.owns_sockets and sockets:
            await self._accept_all(sockets)
        await super().shutdown(sockets)

    async def _accept_all(self, sockets: list[socket.socket]) -> None:
        for each in sockets:
            refuse_new_connections(each)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + ACCEPT_S
        await asyncio.sleep(HANDSHAKES_S)
        while any(map(has_waiting, sockets)) and loop.time() < until_s:  # noqa: ASYNC110 - the loop accepts them
            await asyncio.sleep(_RECHECK_S)


def build_server(app: ASGIApp, *, drain_s: float, listener: Listener | None = None) -> Server:
    """The server of one port. `drain_s`: time for requests to finish during shutdown."""
    return Server(config_of(app, drain_s=drain_s, listener=listener))


def config_of(app: ASGIApp, *, drain_s: float, listener: Listener | None = None) -> uvicorn.Config:
    """The configuration of that server."""
    return uvicorn.Config(
        app,
        loop="none",
        http=listener or Listener(),  # type: ignore[arg-type]  # any callable that makes a protocol
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(drain_s)),
    )
