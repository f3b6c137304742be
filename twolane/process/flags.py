"""Command-line parsing that all commands share: a usage error is one line on stderr and exit code 2.

Depends on argparse only, not on the commands.
"""

import argparse
import ipaddress
import secrets
import socket
import sys
from collections.abc import Callable
from typing import NoReturn

from twolane.process.errors import WRONG_USE

FIRST_PORT = 20_000
FIRST_EPHEMERAL_PORT = 32_768  # start of ip_local_port_range on Linux; other systems start higher


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the error with a reference to --help, and exit with code 2."""
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(WRONG_USE)

    def add_address(self, *, default_port: int) -> None:
        """Add --host (loopback only) and --port (0 takes any free one)."""
        self.add_argument(
            "--host",
            type=loopback_host,
            default="127.0.0.1",
            help="loopback address to listen on (default: %(default)s)",
        )
        self.add_argument(
            "--port", type=port_number, default=default_port, help="port; 0 selects any free one (default: %(default)s)"
        )


class WrongUseError(Exception):
    """A command cannot start because of its arguments or environment; the message is one line for the user."""


def loopback_host(text: str) -> str:
    """Accept `localhost` and loopback addresses only, because these servers do not check API keys."""
    if text == "localhost":
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address") from None
    if not address.is_loopback:
        raise argparse.ArgumentTypeError(f"{text} is not a loopback address, and this server does not check API keys")
    return text


def port_number(text: str) -> int:
    """Accept 0 (any free port) to 65535."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return int(text)


def whole_number(least: int) -> Callable[[str], int]:
    """Return a parser of whole numbers that are at least `least`."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return read


def port_is_free(host: str, port: int) -> bool:
    """Return whether no server listens on (host, port) now; port 0 is always free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that was free a moment ago.

    It is below the range from which the kernel assigns ports for port 0 and for outgoing connections, so that it is
    still free when a process that starts slowly binds it.
    """
    while not port_is_free(host, port := FIRST_PORT + secrets.randbelow(FIRST_EPHEMERAL_PORT - FIRST_PORT)):
        pass
    return port
