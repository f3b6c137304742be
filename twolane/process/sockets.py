"""Listening sockets that are bound before a server starts, so that a port in use is reported at once."""

import contextlib
import ipaddress
import resource
import select
import socket
import struct
from array import array
from typing import Final

from twolane.process.errors import ConfigurationError

MAX_FILES = 1 << 20
HANDSHAKES_S: Final = 0.1  # for connections that clients have begun before `refuse_new_connections`
_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h
# Classic BPF, linux/filter.h: drop packets whose TCP flags (byte 13 of the header, RFC 9293) contain SYN, keep others.
_DROP_SYN: Final = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the byte
        (0x45, 0, 1, 0x02),  # if the bit is not set, skip one instruction
        (0x06, 0, 0, 0),  # return 0: drop
        (0x06, 0, 0, 0xFFFFFFFF),  # return all: keep
    )
)


def bind(host: str, port: int, *, setting: str, backlog: int | None = None) -> socket.socket:
    """A socket bound to the first address of `host`, listening if there is a backlog. Raises ConfigurationError, which
    begins with `setting`, the flag or variable to change."""
    with contextlib.ExitStack() as undo:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            bound = undo.enter_context(socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            if backlog is not None:
                bound.listen(backlog)
        except (OSError, UnicodeError) as error:
            cause = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise ConfigurationError(f"{setting}: cannot listen on {host} port {port}: {cause}") from error
        undo.pop_all()
    return bound


def refuse_new_connections(listener: socket.socket) -> None:
    """Let no client begin a connection; those that have begun one wait in the backlog as before. Linux only.

    A connection that begins between the last `accept` and the close of its listening socket would be reset. With this
    filter, its first packet is dropped: the client sends it again after a second, and finds the port closed, or served
    by the next process.
    """
    program = array("B", _DROP_SYN)
    pointer = struct.pack("HP", len(_DROP_SYN) // 8, program.buffer_info()[0])
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)


def has_waiting(listener: socket.socket) -> bool:
    """Whether a connection waits to be accepted."""
    poll = select.poll()
    poll.register(listener.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def raise_descriptor_limit() -> None:
    """Allow this process as many open files, and so connections, as the system permits, up to MAX_FILES."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # some systems permit fewer than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def url_of(bound: socket.socket) -> str:
    """The address it is bound to, as a URL."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to that address. Names other than `localhost` are not resolved."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_keys(*, host: str, flag: str, variable: str, prefix: str) -> None:
    """Raise ConfigurationError for an address that other machines can reach; call it if there is no keys file."""
    if not is_loopback(host):
        raise ConfigurationError(
            f"{flag} {host} ({variable}): non-loopback addresses require a keys file;"
            f" set --keys-file or {prefix}KEYS_FILE"
        )
