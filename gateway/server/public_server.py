"""The server of the public port: its connections come from a listening socket, or from a parent process."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

from gateway.server.receiver import Receiver
from twolane.process.http.server import Server


class PublicServer(Server):
    """See the module."""

    _receiver: Receiver | None = None

    def receive_connections(self, channel: socket.socket, *, on_parent_gone: Callable[[], None]) -> None:
        """Take connections that the parent process has accepted, once this server has started."""
        self._receiver = Receiver(
            channel,
            adopt=self._adopt,
            connections=lambda: len(self.server_state.connections),
            on_parent_gone=on_parent_gone,
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to serve."""
        await super().startup(sockets)
        if self._receiver is not None:
            self._receiver.start()

    def stop(self) -> None:
        """Accept nothing from now on, and shut down."""
        if self._receiver is not None:
            self._receiver.close()
        self.should_exit = True

    async def _adopt(self, connection: socket.socket) -> None:
        def protocol() -> asyncio.Protocol:
            kind: Any = self.config.http_protocol_class
            connected: asyncio.Protocol = kind(
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return connected

        with contextlib.suppress(OSError):  # the client has left already
            await asyncio.get_running_loop().connect_accepted_socket(protocol, connection)
