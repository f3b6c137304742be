"""Names of targets into the addresses behind them: how a gateway learns of workers that join and leave.

A headless service of Kubernetes, or any name with several addresses, is one server per address. Blocking, so asked in
a thread; knows names and addresses only. Time-to-live is not told by the system's resolver: names are asked again
every few seconds instead.
"""

import socket
from collections.abc import Callable

# "No such name", and "a name without addresses" where the system tells them apart.
_NOBODY = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}

Lookup = Callable[[str, int], tuple[str, ...]]


class Resolver:
    """Answers with the addresses of a host, and remembers what it answered. Where the name service is away, what was
    known stays: workers do not die of that. Where it says that nobody is there, nobody is: an address that was let go
    may be somebody else's by now, who is not to be sent prompts and keys."""

    def __init__(self, lookup: Lookup | None = None) -> None:
        self._lookup = lookup or look_up
        self._known: dict[tuple[str, int], tuple[str, ...]] = {}

    def __call__(self, host: str, port: int) -> tuple[str, ...]:
        """Addresses in a steady order; none if the name was never known."""
        self._known[host, port] = found = self._ask(host, port)
        return found

    @property
    def has_names(self) -> bool:
        """Whether there is anything to look at again."""
        return bool(self._known)

    def has_changed(self) -> bool:
        """Whether any name would be answered otherwise now."""
        return any(self._ask(*name) != found for name, found in tuple(self._known.items()))

    def _ask(self, host: str, port: int) -> tuple[str, ...]:
        try:
            return self._lookup(host, port)
        except OSError as fault:
            if isinstance(fault, socket.gaierror) and fault.errno in _NOBODY:
                return ()
            return self._known.get((host, port), ())


def look_up(host: str, port: int) -> tuple[str, ...]:
    """By the system's resolver. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(sorted({str(address[0]) for *_, address in found}))


def unresolved(host: str, port: int) -> tuple[str, ...]:  # noqa: ARG001 - the shape of a resolver
    """For whoever only reads a policy: no name is asked for, and the host stands for itself."""
    return ()
