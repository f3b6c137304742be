"""The two listening sockets, bound at once; or the sockets inherited from a parent process."""

import socket
from typing import Final

from gateway.settings import Settings
from twolane.process.errors import ConfigurationError
from twolane.process.sockets import bind

BACKLOG: Final = 2048  # listen at once: two sockets that are only bound can share a port


def bind_both(settings: Settings) -> tuple[socket.socket, socket.socket]:
    """The public and the admin socket. Raises ConfigurationError."""
    public = bind(settings.host, settings.port, setting="--port (TWOLANE_PORT)", backlog=BACKLOG)
    try:
        named = "--admin-port (TWOLANE_ADMIN_PORT)"
        return public, bind(settings.admin_host, settings.admin_port, setting=named, backlog=BACKLOG)
    except ConfigurationError:
        public.close()
        raise


def inherited(numbers: tuple[int, ...]) -> tuple[socket.socket, socket.socket]:
    """The channel on which a parent process hands over connections, and the admin socket that it has bound. Raises
    ConfigurationError."""
    try:
        channel, admin = (socket.socket(fileno=number) for number in numbers)
    except (OSError, ValueError) as fault:
        raise ConfigurationError(f"TWOLANE_HANDED_DOWN: {numbers} are not sockets: {fault}") from fault
    return channel, admin
