"""DNS discovery of endpoints: resolves a target's host name to the addresses of the workers behind it.

A headless Kubernetes service, or any name with several addresses, has one endpoint per address. Lookups block, so they
run in a thread. The system resolver does not report a TTL: names are resolved again every few seconds instead.
"""

import socket
from collections.abc import Callable

# "No such name" and, where the platform distinguishes it, "no addresses for this name".
_NO_SUCH_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}

Lookup = Callable[[str, int], tuple[str, ...]]


class Resolver:
    """Resolves hosts and remembers the results. If the name server does not answer, the last result stays valid. If it
    answers that the host has no addresses, the result is empty: a released address may belong to another party, which
    must not receive prompts and keys."""

    def __init__(self, lookup: Lookup | None = None) -> None:
        self._lookup = lookup or look_up
        self._known: dict[tuple[str, int], tuple[str, ...]] = {}

    def __call__(self, host: str, port: int) -> tuple[str, ...]:
        """Addresses in a stable order; empty if the name has never been resolved."""
        self._known[host, port] = found = self._resolve(host, port)
        return found

    @property
    def has_dns_names(self) -> bool:
        """Whether any name has been resolved."""
        return bool(self._known)

    def has_changed(self) -> bool:
        """Whether any name resolves to other addresses now."""
        return any(self._resolve(*name) != found for name, found in tuple(self._known.items()))

    def _resolve(self, host: str, port: int) -> tuple[str, ...]:
        try:
            return self._lookup(host, port)
        except OSError as fault:
            if isinstance(fault, socket.gaierror) and fault.errno in _NO_SUCH_HOST:
                return ()
            return self._known.get((host, port), ())


def look_up(host: str, port: int) -> tuple[str, ...]:
    """Resolve with the system resolver. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(sorted({str(address[0]) for *_, address in found}))


def keep_host_name(host: str, port: int) -> tuple[str, ...]:  # noqa: ARG001 - has the signature of a resolver
    """Resolver for commands that only read a policy: does no lookup and returns the host itself."""
    return ()
