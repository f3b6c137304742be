"""Limits of connections to targets."""

from dataclasses import dataclass
from typing import Final

# Idle connections are closed before common servers close them (5 s), so that a request does not meet a closed one.
IDLE_S: Final = 4.0
HEAD_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """Limits of the pooled client. Sizes are bytes."""

    connect_s: float = 2.0
    head_s: float | None = None  # from the request to the end of the response's head; None: the caller limits it
    head_bytes: int = HEAD_BYTES  # of a response, including interim responses; also of its trailers
    headers: int = 128  # as in aiohttp
    body_bytes: int = 1 << 28
    buffered_bytes: int = 1 << 18  # of a body that its reader has not taken yet
    idle_s: float = IDLE_S
    idle_connections: int = 1024  # that are kept open, to all servers together
