"""The two listening sockets: bound at once, so that a busy port is found out early, or handed down by a parent."""

import contextlib
import socket
from typing import Final

from gateway.errors import BadSetting
from gateway.settings import Settings

BACKLOG: Final = 2048


def bind(host: str, port: int, variable: str) -> socket.socket:
    """A listening socket. Raises BadSetting naming the variable."""
    with contextlib.ExitStack() as undo:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            bound = undo.enter_context(socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(BACKLOG)  # only this makes a port ours: two that merely bind get along
        except OSError as fault:
            raise BadSetting(f"{variable}: cannot listen on {host}:{port}: {fault.strerror}") from fault
        undo.pop_all()
    return bound


def bind_both(settings: Settings) -> tuple[socket.socket, socket.socket]:
    """The public and the admin one. Raises BadSetting."""
    public = bind(settings.host, settings.port, "TWOLANE_PORT")
    try:
        return public, bind(settings.admin_host, settings.admin_port, "TWOLANE_ADMIN_PORT")
    except BadSetting:
        public.close()
        raise


def inherited(numbers: tuple[int, ...]) -> tuple[socket.socket, socket.socket]:
    """Those that a parent process has bound. Raises BadSetting."""
    try:
        public, admin = (socket.socket(fileno=number) for number in numbers[:2])
    except (OSError, ValueError) as fault:
        raise BadSetting(f"TWOLANE_HANDED_DOWN: {numbers} are no sockets: {fault}") from fault
    return public, admin


def url_of(bound: socket.socket) -> str:
    """Where it listens."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
